"""The operations of an optimizer's step, and of a window of the inner loop, as JAX traces them. Nothing is compiled or run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from l2lcli.base import Inner, LearnedOptimizer, Objective, Problem
from l2lcli.evaluation.graph import STEP, Operation, Program, Value
from l2lcli.inner.objective import of_window
from l2lcli.inner.query import score_on_query
from l2lcli.inner.unroll import begun, drawn, fresh, unroll

# Called, not looped over: what they hold stands in their place.
CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call")
WRAPPED = re.compile(r"^((?:\w+\()*)([^()]*)\)*$")  # transpose(jvp(f)): what was done to a scope, and its name


def step(problem: Problem, optimizer: LearnedOptimizer, phi: Any, horizon: int) -> Program:
    """One step of the optimizer: from gradient and state to update and new state.

    Args:
      problem: f, whose parameters are updated.
      optimizer: the family.
      phi: abstract, as `jax.eval_shape` gives it.
      horizon: T.
    """
    inner = _fresh(problem, optimizer, phi, horizon)

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        tx = optimizer.bind(given["phi"])
        horizon, value = given["t, horizon"], given["loss"]
        update, state = tx.update(given["gradient"], given["state"], given["theta"], value=value, horizon=horizon)
        return {"update": update, "state after": state}

    fed = {"gradient": inner.grad, "loss": inner.value, "theta": inner.theta, "state": inner.opt, "t, horizon": inner.horizon}
    return _traced(run, {"phi": phi, **fed})


def window(
    problem: Problem,
    judged: Problem,
    optimizer: LearnedOptimizer,
    phi: Any,
    objective: Objective,
    steps: int,
    second_order: bool,
    discount: float = 1.0,
) -> Program:
    """So many steps of `inner.unroll`, one after the other, and what the objective makes of their losses.

    Derivatives stop where `unroll` stops them. Arguments as those of `unroll` and of `of_window`; phi as in `step`; judged is
    the problem whose query, where it has one, is what counts.
    """
    horizon = len(objective.weights)
    begin = fresh if optimizer.start is None else drawn
    inner = _fresh(problem, optimizer, phi, horizon, begin)

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        phi, data = given["phi"], given["data"]
        task, key = given["task, key"]
        t, horizon = given["t, horizon"]
        parts = {"theta": "theta", "opt": "state", "grad": "gradient", "value": "loss", "first": "first loss"}
        inner = Inner(task=task, key=key, t=t, horizon=horizon, **{name: given[said] for name, said in parts.items()})
        if optimizer.start is not None:
            with jax.named_scope(f"{STEP}0"):
                inner = begun(problem, optimizer, phi, inner, data)
        at, scores = inner, []
        score = score_on_query(judged, objective.weights, data, judged.loss)
        for i in range(steps):
            with jax.named_scope(f"{STEP}{i + 1}"):
                more = {"second_order": second_order, "discount": discount, "score": score}
                found = unroll(problem, optimizer, phi, at, data, 1, **more)
            at = found.end
            scores.append(found.scores)
        loss = of_window(objective, jax.numpy.concatenate(scores), inner)
        return {"meta-loss": loss, "theta after": at.theta, "state after": at.opt}

    given = {"phi": phi, "theta": inner.theta, "state": inner.opt, "gradient": inner.grad, "loss": inner.value}
    given |= {"first loss": inner.first, "task, key": (inner.task, inner.key), "t, horizon": (inner.t, inner.horizon)}
    return _traced(run, {**given, "data": problem.data["train"]})


def _fresh(problem: Problem, optimizer: LearnedOptimizer, phi: Any, horizon: int, begin: Callable[..., Any] = fresh) -> Any:
    one = lambda phi, data: begin(problem, optimizer, phi, jax.random.key(0), data, horizon)
    return jax.eval_shape(one, phi, problem.data["train"])


def _traced(run: Callable[[Any], dict[str, Any]], given: dict[str, Any]) -> Program:
    given = dict(given)
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(given)
    flat = _Flat({}, [], {})
    names = sorted(given)  # as JAX orders a dictionary
    numbers = [flat.number(var) for var in closed.jaxpr.invars]
    flat.body(closed.jaxpr, ())
    inputs = dict(zip(names, _split(numbers, [given[name] for name in names]), strict=True))
    said = sorted(shapes)
    outputs = dict(
        zip(said, _split([flat.read(var) for var in closed.jaxpr.outvars], [shapes[name] for name in said]), strict=True)
    )
    return Program(flat.values, {name: inputs[name] for name in given}, flat.operations, outputs)


def _split(numbers: list[int], trees: list[Any]) -> list[tuple[int, ...]]:
    rest, parts = iter(numbers), []
    for tree in trees:
        parts.append(tuple(next(rest) for _ in jax.tree.leaves(tree)))
    return parts


class _Flat(NamedTuple):
    """A jaxpr with what it calls in its place, and its loops of one step."""

    values: dict[int, Value]
    operations: list[Operation]
    numbers: dict[Any, int]  # of variables

    def number(self, var: Any) -> int:
        """The variable's own, a new one."""
        self.numbers[var] = number = len(self.values)
        self.values[number] = Value(tuple(var.aval.shape), str(var.aval.dtype))
        return number

    def read(self, atom: Any) -> int:
        """That of a variable, or of a constant."""
        if hasattr(atom, "val") or atom not in self.numbers:  # a literal; a constant of the trace
            number = len(self.values)
            self.values[number] = Value(tuple(atom.aval.shape), str(atom.aval.dtype))
            return number
        return self.numbers[atom]

    def body(self, jaxpr: Any, scopes: tuple[str, ...]) -> None:
        """Take in its operations, which stand in those scopes."""
        for eqn in jaxpr.eqns:
            here = scopes + _scopes(str(eqn.source_info.name_stack))
            name = eqn.primitive.name
            once = name == "scan" and eqn.params["length"] == 1
            inside = next((p for p in eqn.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")), None)
            if inside is not None and (name in CALLS or once):
                inside = getattr(inside, "jaxpr", inside)
                for var, atom in zip(inside.invars, eqn.invars, strict=True):
                    self.numbers[var] = self.read(atom)
                self.body(inside, here)
                for var, atom in zip(eqn.outvars, inside.outvars, strict=True):
                    self.numbers[var] = self.read(atom)
                continue
            reads = tuple(self.read(atom) for atom in eqn.invars)
            self.operations.append(Operation(name, here, reads, tuple(self.number(var) for var in eqn.outvars)))


def _scopes(stack: str) -> tuple[str, ...]:
    """optimizer/preprocess/vmap() -> (optimizer, preprocess); transpose(jvp(f))/conv -> (gradient, conv)."""
    found = []
    for part in stack.split("/"):
        matched = WRAPPED.match(part)
        done, name = matched.groups() if matched else ("", part)
        if name == "f" and "transpose(" in done:
            name = "gradient"
        if name and name not in found[-1:]:
            found.append(name)
    return tuple(found)
