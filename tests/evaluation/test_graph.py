"""The graph that is drawn is that of the computation: its groups, what goes between them, and where derivatives end."""

import jax
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.evaluation import graph, tracing
from l2lcli.evaluation.graph import MOST, Operation, Program, Value
from l2lcli.inner.unroll import fresh, unroll

QUADRATIC = registry.problem.build(registry.problem.specs()["quadratic"](dimension=7), None)
WAVES = registry.problem.build(registry.problem.specs()["sinusoid"](shots=3, queries=2, hidden=[4]), None)
OBJECTIVE = Objective((1.0,) * 3)
FLOAT = Value((2,), "float32")


def family(kind, **given):
    return registry.optimizer.build(registry.optimizer.specs()[kind](**given))


def phi_of(optimizer, problem=QUADRATIC):
    return optimizer.init(jax.random.key(0), problem.init(jax.random.key(1), problem.data["train"])[0])


def named(found):
    """{(source, target): the shapes}, and the dropped ones among them."""
    name = lambda i: " ".join(filter(None, (found.nodes[i].step, found.nodes[i].name)))
    ends = {(name(e.source), name(e.target)): [value.shape for value in e.values] for e in found.edges}
    return ends, {(name(e.source), name(e.target)) for e in found.edges if e.dropped}


def of_window(optimizer, second_order=False, problem=QUADRATIC, **more):
    program = tracing.window(problem, problem, optimizer, phi_of(optimizer, problem), OBJECTIVE, 2, second_order, **more)
    return graph.grouped(program, "rest", depth=2)


def test_a_step_of_the_lstm_is_preprocessing_layers_and_read_out():
    optimizer = family("lstm", hidden=3)
    found = graph.grouped(tracing.step(QUADRATIC, optimizer, phi_of(optimizer), 10), "lstm")
    ends, dropped = named(found)
    state = [(3, 7), (3, 7)]
    assert ends.pop(("phi", "fuse")) and not dropped
    assert ends == {
        ("gradient", "preprocess"): [(7,)], ("preprocess", "lstm_0"): [(2, 7)], ("fuse", "lstm_0"): [(12, 6)],
        ("state", "lstm_0"): state, ("lstm_0", "lstm_1"): [(3, 7)], ("fuse", "lstm_1"): [(12, 7)], ("state", "lstm_1"): state,
        ("lstm_1", "readout"): [(3, 7)], ("fuse", "readout"): [(3,), ()], ("readout", "update"): [(7,)],
        ("lstm_0", "state after"): state, ("lstm_1", "state after"): state,
    }  # fmt: skip
    products = {node.name: sum(n for name, _, n in node.primitives if name == "dot_general") for node in found.nodes}
    assert {name: n for name, n in products.items() if n} == {"lstm_0": 1, "lstm_1": 1, "readout": 1}


@pytest.mark.parametrize(("kind", "fed"), [("lstm", {"gradient"}), ("lstm_gd_v1", {"gradient", "f"})])
@pytest.mark.parametrize("second_order", [False, True])
def test_what_is_dashed_has_no_derivative(kind, fed, second_order):
    """By forward mode: what the optimizer is fed in the second step moves with phi only where no edge is dropped."""
    optimizer = family(kind, **({"hidden": 3} if kind == "lstm" else {"learn_start": False}))
    ends, dropped = named(of_window(optimizer, second_order))
    assert {("step 1 " + name, "step 2 optimizer") for name in fed} <= set(ends)
    starts = {("gradient" if name == "gradient" else "loss", "step 1 optimizer") for name in fed}
    assert dropped == (set() if second_order else starts | {("step 1 " + name, "step 2 optimizer") for name in fed})

    def next_fed(phi):
        inner = fresh(QUADRATIC, optimizer, phi, jax.random.key(2), (), 3)
        end = unroll(QUADRATIC, optimizer, phi, inner, (), 1, second_order=second_order).end
        return {"gradient": end.grad, "f": end.value, "theta": end.theta}

    phi = phi_of(optimizer)
    moved = jax.jvp(next_fed, (phi,), (jax.tree.map(jax.numpy.ones_like, phi),))[1]
    moves = {name: any(np.any(leaf) for leaf in jax.tree.leaves(part)) for name, part in moved.items()}
    assert moves == {"gradient": second_order, "f": second_order, "theta": True}


def test_two_steps_and_what_is_made_of_their_losses():
    ends, _ = named(of_window(family("lstm", hidden=3)))
    chain = [
        ("step 1 optimizer", "step 1 theta + update"),
        ("step 1 theta + update", "step 1 f"),
        ("step 1 f", "step 1 gradient"),
    ]
    for pair in [*chain, ("step 1 gradient", "step 2 optimizer"), ("step 1 theta + update", "step 2 theta + update")]:
        assert pair in ends
    assert len(ends["step 1 optimizer", "step 2 optimizer"]) == 4  # h and c of two layers
    assert {source for source, target in ends if target == "objective"} >= {"step 1 f", "step 2 f"}
    assert not any("step 2 gradient" in pair for pair in ends)  # nothing drawn needs it


@pytest.mark.parametrize(
    ("kind", "given", "problem", "parts"),
    [
        ("scaled", {"rule": {"kind": "mlp", "hidden": 2}}, QUADRATIC, {"features", "rule", "rule: averages", "size"}),
        ("groups", {"groups": {"all": {"match": ["*"], "optimizer": {"kind": "lstm", "layers": 1, "hidden": 2}}}}, QUADRATIC,
         {"all: preprocess", "all: fuse", "all: lstm_0", "all: readout"}),
        ("lstm", {"hidden": 2, "layers": 1, "averages": {"decays": [0.9]}}, QUADRATIC,
         {"preprocess", "averages", "fuse", "lstm_0", "readout"}),
        ("lstm_gd_v2", {"hidden": 2}, WAVES, {"preprocess", "lstm", "forget gate", "input gate", "rest"}),
        ("maml", {}, WAVES, {"rest"}),
        ("adam", {}, QUADRATIC, {"rest"}),
    ],
)  # fmt: skip
def test_every_kind_has_its_parts(kind, given, problem, parts):
    optimizer = family(kind, **given)
    found = graph.grouped(tracing.step(problem, optimizer, phi_of(optimizer, problem), 3), "rest")
    assert {node.name for node in found.nodes if node.kind not in ("input", "output")} == parts
    whole = of_window(optimizer, optimizer.second_order, problem)
    names = {node.name for node in whole.nodes}
    assert len(whole.nodes) <= MOST and ("outer loss" in names) == (problem is WAVES)
    assert ("learned start" in names) == (optimizer.start is not None)
    assert all(edge.source < edge.target for edge in (*found.edges, *whole.edges))
    assert any(edge.dropped for edge in whole.edges) == (kind != "maml")


def test_a_group_around_another_is_two_nodes_and_dead_operations_none():
    operations = [
        Operation("sin", ("a",), (0,), (1,)),
        Operation("cos", ("b",), (1,), (2,)),
        Operation("stop_gradient", (), (2,), (3,)),
        Operation("reshape", (), (3,), (4,)),
        Operation("add", ("a",), (1, 4), (5,)),
        Operation("tan", ("c",), (5,), (6,)),  # nobody reads it
        Operation("mul", ("a",), (1,), (7,)),
    ]
    program = Program(dict.fromkeys(range(9), FLOAT), {"x": (0,), "unread": (8,)}, operations, {"y": (5, 7)})
    found = graph.grouped(program, "rest")
    assert [node.name for node in found.nodes] == ["x", "a", "b", "a", "y"]
    assert [node.primitives for node in found.nodes[1:4]] == [
        (("sin", FLOAT, 1),), (("cos", FLOAT, 1),), (("add", FLOAT, 1), ("mul", FLOAT, 1))
    ]  # fmt: skip
    assert {(edge.source, edge.target, edge.dropped) for edge in found.edges} == {
        (0, 1, False), (1, 2, False), (1, 3, False), (2, 3, True), (3, 4, False)
    }  # fmt: skip


def test_more_nodes_than_can_be_read_are_drawn_less_finely():
    operations = [Operation("sin", ("a", f"{i}"), (i,), (i + 1,)) for i in range(MOST)]
    program = Program(dict.fromkeys(range(MOST + 1), FLOAT), {"x": (0,)}, operations, {"y": (MOST,)})
    assert [node.name for node in graph.grouped(program, "rest").nodes] == ["x", "a", "y"]
