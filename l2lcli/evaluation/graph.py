"""A computation as a graph that can be looked at: its operations in groups, and what goes from group to group.

Pure Python: `tracing` makes the operations of a jaxpr, `reports.graph` draws what comes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MOST = 30  # nodes of a drawing
STOP = "stop_gradient"
STEP = "step "  # the scope of each step of a window, before its number
# What arranges numbers and computes none. Between groups it is a part of an edge.
ARRANGES = {
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "expand_dims", "optimization_barrier", "pad", "rev"),
    *("reshape", "slice", "split", "squeeze", "transpose"),
}


class Value(NamedTuple):
    """An array."""

    shape: tuple[int, ...]
    dtype: str


class Operation(NamedTuple):
    """A primitive, where it stands among named scopes, and the numbers of the values that it reads and makes."""

    primitive: str
    group: tuple[str, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]


class Program(NamedTuple):
    """Operations in their order.

    Attributes:
      values: what each number stands for.
      inputs: name -> its values.
      operations: each reads what stands before it, or an input, or a constant, which nothing makes.
      outputs: name -> its values.
    """

    values: Mapping[int, Value]
    inputs: Mapping[str, tuple[int, ...]]
    operations: Sequence[Operation]
    outputs: Mapping[str, tuple[int, ...]]


class Node(NamedTuple):
    """An input, an output, or a group of operations."""

    name: str
    kind: str  # "input", "output", or the outermost scope but for the step
    step: str = ""  # "step 2", in a window
    primitives: tuple[tuple[str, Value, int], ...] = ()  # (name, what it makes, how often)


class Edge(NamedTuple):
    """What one node hands to another."""

    source: int
    target: int
    values: tuple[Value, ...]
    dropped: bool  # a constant for derivatives: the value goes through, its derivative does not


class Graph(NamedTuple):
    """Without a cycle; nodes in an order that edges go along."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def grouped(program: Program, unnamed: str, depth: int = 8) -> Graph:
    """The program with a node for each group of its operations, as finely as at most `MOST` nodes allow.

    What no output depends on is left out. A group whose parts stand before and after another one becomes two nodes.

    Args:
      program: the operations.
      unnamed: what those are called that compute something and are in no group.
      depth: of scopes in scopes, at most.
    """
    program = _needed(program)
    finest = max((len(operation.group) for operation in program.operations), default=0)
    for scopes in range(min(finest, depth), 1, -1):
        graph = _grouped(program, unnamed, scopes)
        if len(graph.nodes) <= MOST:
            return graph
    return _grouped(program, unnamed, 1)


def _needed(program: Program) -> Program:
    """Without the operations that no output depends on, and without the inputs that none of the rest reads."""
    needed, kept = {value for values in program.outputs.values() for value in values}, []
    for operation in reversed(program.operations):
        if needed.intersection(operation.makes):
            needed.update(operation.reads)
            kept.append(operation)
    read = {value for operation in kept for value in operation.reads}
    of = lambda values: tuple(value for value in values if value in needed)
    inputs = {name: of(values) for name, values in program.inputs.items() if read.intersection(values)}
    made = {value for operation in kept for value in operation.makes}
    outputs = {name: values for name, values in program.outputs.items() if made.intersection(values)}
    return program._replace(operations=kept[::-1], inputs=inputs, outputs=outputs)


class _Cluster:
    """Operations that become one node."""

    def __init__(self, name: str, kind: str, step: str = ""):
        self.name, self.kind, self.step = name, kind, step
        self.before: set[_Cluster] = set()  # whose values it reads
        self.operations: list[Operation] = []


def _grouped(program: Program, unnamed: str, depth: int) -> Graph:
    named = lambda values, kind: {_Cluster(name, kind): numbers for name, numbers in values.items()}
    inputs, outputs = named(program.inputs, "input"), named(program.outputs, "output")
    # Of each value: the nodes that it comes from, what it was there, and whether its derivative was dropped on the way.
    origins = {value: {(cluster, value, False)} for cluster, values in inputs.items() for value in values}
    order, current = list(inputs), {}
    scopes_of = {operation.group[:depth] for operation in program.operations}
    around = {scopes[:i] for scopes in scopes_of for i in range(len(scopes))}  # those with scopes in them
    for operation in program.operations:
        found = {origin for value in operation.reads for origin in origins.get(value, ())}
        scopes = operation.group[:depth]
        if _passes(program, operation, scopes in around):
            dropped = {(cluster, value, stopped or operation.primitive == STOP) for cluster, value, stopped in found}
            origins.update(dict.fromkeys(operation.makes, dropped))
            continue
        cluster, others = current.get(scopes), {cluster for cluster, _, _ in found}
        if cluster is None or any(other is not cluster and _reaches(cluster, other) for other in others):
            step, inside = _apart(scopes)
            name = inside or (unnamed,)
            cluster = current[scopes] = _Cluster(": ".join(name), name[0], step)
            order.append(cluster)
        cluster.before |= others - {cluster}
        cluster.operations.append(operation)
        origins.update({value: {(cluster, value, False)} for value in operation.makes})
    return _drawn(program, [*_sorted(order), *outputs], outputs, origins)


def _apart(scopes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The step of a window, if any, and the scopes in it."""
    return (scopes[0], scopes[1:]) if scopes and scopes[0].startswith(STEP) else ("", scopes)


def _passes(program: Program, operation: Operation, around: bool) -> bool:
    """Whether it is a part of an edge: a stop, what arranges around groups, or what counts and is in no group."""
    if operation.primitive == STOP:
        return True
    alone = not _apart(operation.group)[1]
    counts = all(not program.values[value].dtype.startswith(("float", "bfloat")) for value in operation.makes)
    return (operation.primitive in ARRANGES and (alone or around)) or (alone and counts)


def _reaches(source: _Cluster, target: _Cluster) -> bool:
    """Whether what `source` makes is needed for `target`."""
    waiting, seen = [target], set()
    while waiting:
        cluster = waiting.pop()
        if cluster is source:
            return True
        if cluster not in seen:
            seen.add(cluster)
            waiting.extend(cluster.before)
    return False


def _sorted(clusters: Iterable[_Cluster]) -> list[_Cluster]:
    """Each after what it reads; else in their order."""
    placed: dict[_Cluster, None] = {}

    def place(cluster: _Cluster) -> None:
        if cluster not in placed:
            for before in clusters:
                if before in cluster.before:
                    place(before)
            placed[cluster] = None

    clusters = list(clusters)
    for cluster in clusters:
        place(cluster)
    return list(placed)


def _drawn(program: Program, order: list[_Cluster], outputs: Mapping[_Cluster, tuple[int, ...]], origins: Mapping) -> Graph:
    """Nodes and edges of clusters in their order."""
    place = {cluster: i for i, cluster in enumerate(order)}
    gone: dict[tuple[int, int, bool], dict[int, None]] = {}  # the values of each edge, in the order in which they are read
    for cluster in order:
        for value in [value for operation in cluster.operations for value in operation.reads] + list(outputs.get(cluster, ())):
            for source, origin, dropped in sorted(origins.get(value, ()), key=lambda found: (place[found[0]], found[1])):
                if source is not cluster:
                    gone.setdefault((place[source], place[cluster], dropped), {})[origin] = None
    counted = [Counter((o.primitive, program.values[o.makes[0]]) for o in cluster.operations if o.makes) for cluster in order]
    nodes = tuple(
        Node(
            cluster.name,
            cluster.kind,
            cluster.step,
            tuple((primitive, value, n) for (primitive, value), n in count.most_common()),
        )
        for cluster, count in zip(order, counted, strict=True)
    )
    edges = tuple(
        Edge(source, target, tuple(program.values[value] for value in values), dropped)
        for (source, target, dropped), values in gone.items()
    )
    return Graph(nodes, edges)
