"""The outer loop: a meta-gradient estimator and an Optax meta-optimizer make phi better. Pure steps; writes nothing.

Randomness is a function of the seed and of the episode's number, and one compiled program runs any number of meta-steps
(its trip count is an argument), so how the steps are cut into dispatches leaves no trace in the bits.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2lcli import processes
from l2lcli.base import Data, Estimator, Key, LearnedOptimizer, Phi, Problem
from l2lcli.config.specs import TrainSpec
from l2lcli.estimators._mixed import restarts
from l2lcli.estimators._sharding import placed
from l2lcli.estimators._stages import further, stage
from l2lcli.inner.unroll import namespace
from l2lcli.meta.optimizer import factors, learning_rate, transformation
from l2lcli.meta.validation import validation
from l2lcli.tree import is_key

CAPACITY = 1024  # meta-steps per dispatch at most: the rows of one dispatch are returned in a buffer of this size
SECONDS_PER_DISPATCH = 1.0  # aimed at: signals are polled and the progress shown between dispatches


class MetaState(NamedTuple):
    """Meta-training's state on the device."""

    phi: Phi
    good: Phi  # the last phi whose meta-gradient was finite
    opt: Any  # the meta-optimizer's state
    inner: Any  # the estimator's state, M optimizees; of a mixture {name: that of the member}
    step: jax.Array  # () int32 meta-steps done, skipped ones included
    failures: jax.Array  # () int32 meta-steps skipped in a row, for a meta-gradient that was not finite


class Record(NamedTuple):
    """Meta-training's state on the host."""

    best: Phi  # of the best validation so far; the start before the first one
    best_loss: float  # inf before the first validation
    stale: int  # validations since the best one
    pending: list[list[float]]  # [loss, gradient norm, skipped] of the unfinished episode's meta-steps


class Chunk(NamedTuple):
    """What one dispatch brought. `state` is donated to the next one: copy what is kept."""

    state: MetaState
    record: Record
    rows: list[dict[str, Any]]
    step: int
    finished: str | None  # None: goes on; "done", "stopped early" or "diverged"


class MetaTraining(NamedTuple):
    """The compiled functions of one meta-training.

    Attributes:
      init: (root key, phi, data) -> MetaState.
      place: MetaState -> the same, on the devices as `advance` leaves it: else its second call would be compiled anew.
      everywhere: (tree, MetaState) -> the tree, on all devices that the state is on, of several processes.
      advance: (root key, MetaState, data, count) -> (MetaState, [CAPACITY, 3] of loss, gradient norm, skipped; the first
        `count` rows are filled, fewer if a run of skipped steps ended it).
      validate: (root key, phi, data, stage of the curriculum) -> what `meta.validation` finds on the horizon that is judged by.
      per_episode: meta-steps per episode, T / W.
      limit: skipped meta-steps in a row that count as divergence.
    """

    init: Callable[[Key, Phi, Data], MetaState]
    place: Callable[[MetaState], MetaState]
    everywhere: Callable[[Any, MetaState], Any]
    advance: Callable[[Key, MetaState, Data, Any], tuple[MetaState, jax.Array]]
    validate: Callable[..., dict[str, Any]]
    per_episode: int
    limit: int


def meta_training(problem: Problem, optimizer: LearnedOptimizer, estimator: Estimator, spec: TrainSpec) -> MetaTraining:
    """Build the outer loop of a config's `train` section, `spec`."""
    per_episode = spec.windows
    begin = estimator.restart or restarts(estimator.init, per_episode)
    limit = max(20, 3 * per_episode)
    schedule = learning_rate(spec.meta_optimizer, spec.meta_steps)
    meta_optimizer = transformation(spec.meta_optimizer)

    @jax.jit
    def rates(step):
        """The learning rates of the next `CAPACITY` meta-steps."""
        return jax.vmap(schedule)(step + jnp.arange(CAPACITY))

    def init(root, phi, data):
        # Stand-in optimizees of the right shapes: the first meta-step begins an episode and draws its own.
        shapes = jax.eval_shape(estimator.init, root, phi, data)
        blank = lambda s: jax.random.split(root, s.shape) if is_key(s) else jnp.zeros(s.shape, s.dtype)
        inner = jax.tree.map(blank, shapes)
        return MetaState(
            phi,
            jax.tree.map(jnp.copy, phi),
            meta_optimizer(jnp.ones(())).init(phi),
            inner,
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
        )

    def place(state):
        if estimator.shardings is None:
            return state
        inner = _split(estimator.shardings(state.inner))
        shardings: Any = MetaState(*[_alike(inner)] * len(state))  # pyright: ignore[reportArgumentType]
        return placed(state, shardings._replace(inner=inner))

    def everywhere(tree, state):
        if processes.count() == 1 or estimator.shardings is None:
            return tree
        return placed(tree, _alike(estimator.shardings(state.inner)))

    def meta_step(root, state, data, rate):
        inner = begin(namespace(root, "train"), state.step, state.phi, data, state.inner)
        key = jax.random.fold_in(namespace(root, "estimator"), state.step)
        estimate, inner = estimator.estimate(key, state.phi, data, inner)
        # Before clipping: optax.clip_by_global_norm turns an infinite gradient into NaN.
        finite = _finite((estimate.grad, estimate.loss))
        good = jax.tree.map(lambda new, old: jnp.where(finite, new, old), state.phi, state.good)
        update, opt = meta_optimizer(rate).update(estimate.grad, state.opt, state.phi, value=estimate.loss)
        update = jax.tree.map(jnp.multiply, update, factors(spec.meta_optimizer.factors, state.phi))
        moved = optax.apply_updates(state.phi, update), opt
        finite &= _finite(moved[0])
        phi, opt = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, (state.phi, state.opt))
        row = jnp.stack([estimate.loss, optax.tree.norm(estimate.grad), (~finite).astype(estimate.loss.dtype)])
        return MetaState(phi, good, opt, inner, state.step + 1, jnp.where(finite, 0, state.failures + 1)), row

    @functools.partial(jax.jit, donate_argnums=1)
    def dispatched(root, state, data, count, rates):
        def body(carry):
            i, state, rows = carry
            state, row = meta_step(root, state, data, rates[i])
            return i + 1, state, rows.at[i].set(row)

        def goes_on(carry):
            return (carry[0] < count) & (carry[1].failures < limit)

        return jax.lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), state, jnp.zeros((CAPACITY, 3))))[1:]

    def advance(root, state, data, count):
        # Rates are an argument, so that another number of episodes or another schedule is the same program.
        return dispatched(root, state, data, count, np.asarray(rates(np.asarray(state.step))))

    judged = [spec.judged(stage).horizon for stage in range(len(spec.stages))]
    # Compiled when called, and once where two stages are judged on the same horizon.
    on = {length: validation(problem, optimizer, spec.judged(judged.index(length))) for length in judged}
    validate = lambda root, phi, data, stage=0: on[judged[stage]](root, phi, data)
    return MetaTraining(jax.jit(init), place, everywhere, advance, validate, per_episode, limit)


def run(
    meta: MetaTraining,
    spec: TrainSpec,
    root: Key,
    state: MetaState,
    record: Record,
    data: Data,
    validation: Data,
    trained: bool = False,
    together: Callable[[int], int] = lambda count: count,
) -> Iterator[Chunk]:
    """Meta-train from where `state` and `record` stand to the end, one Chunk a dispatch.

    `together` makes a number of meta-steps, which hangs on the clock, the same in all processes.

    If the phi to begin with is `trained`, it is validated first, in a Chunk of its own, and kept if none is better.

    Rows hold no clock times, so that a resumed run's are bit-equal to an uninterrupted one's: {"step", "episode", "loss",
    "grad_norm", "skipped", "learning_rate"} per episode, loss being the mean over tasks of Σ_{t=1}^T w_t f(theta_t);
    {"step", "episode", "validation_loss", "best"} per validation, loss being `validate`'s; of a mixture also "validation", the
    losses of its members; of a curriculum also "horizon", that which was validated on, and its best phi of one horizon is not
    "best" once more where it is validated on the next. With imitation "loss" has the teacher's part in it, times its weight.
    """
    schedule = learning_rate(spec.meta_optimizer, spec.meta_steps)
    step, total = int(state.step), spec.meta_steps
    between = spec.validate_every * meta.per_episode
    kept = [episode * meta.per_episode for episode in spec.keep]  # a dispatch ends there: its phi is to be had
    if trained and step == 0 and record.stale == 0 and math.isinf(record.best_loss):
        record, row = _validated(meta, spec, root, state, record, validation, step)
        yield Chunk(state, record, [row], step, None)
    count = 1
    everywhere = meta.everywhere((root, data), state)
    while True:
        began = time.monotonic()
        count = min(count, CAPACITY, total - step, between - step % between, *(at - step for at in kept if at > step))
        state, buffer = meta.advance(everywhere[0], state, everywhere[1], np.int32(count))
        done = int(state.step) - step
        rows, pending = [], list(record.pending)
        for values in np.asarray(buffer)[:done].tolist():
            pending.append(values)
            step += 1
            if step % meta.per_episode == 0:
                rows.append(_episode_row(pending, step, meta.per_episode, float(np.asarray(schedule(step - 1)))))
                pending = []
        seconds = time.monotonic() - began
        diverged = int(state.failures) >= meta.limit
        record = record._replace(pending=pending)
        finished = "diverged" if diverged else "done" if step == total else None
        if not diverged and (step % between == 0 or step == total):
            record, row = _validated(meta, spec, root, state, record, validation, step)
            rows.append(row)
            if finished is None and spec.patience is not None and record.stale >= spec.patience:
                if stage(state.inner) + 1 < len(spec.stages):
                    state, record, more = _next_stage(meta, spec, root, state, record, validation, step)
                    rows += more
                else:
                    finished = "stopped early"
        yield Chunk(state, record, rows, step, finished)
        if finished is not None:
            return
        # At most doubled: the first dispatch's time is mostly compilation and says little about the others.
        count = together(max(1, min(2 * done, int(done * SECONDS_PER_DISPATCH / max(seconds, 1e-3)) + 1)))


def _episode_row(pending: list[list[float]], step: int, per_episode: int, rate: float) -> dict[str, Any]:
    norms = [norm for _, norm, skipped in pending if not skipped]
    return {
        "step": step,
        "episode": step // per_episode,
        "loss": math.fsum(loss for loss, _, _ in pending) if all(math.isfinite(p[0]) for p in pending) else None,
        "grad_norm": math.fsum(norms) / len(norms) if norms else None,
        "skipped": int(sum(skipped for _, _, skipped in pending)),
        "learning_rate": rate,
    }


def _next_stage(meta, spec, root, state, record, data, step) -> tuple[MetaState, Record, list[dict[str, Any]]]:
    """The curriculum's next horizon, from the best phi at this one, with a meta-optimizer that knows nothing of where it led
    from there; and a row of that phi's validation, if it is now judged on another horizon."""
    phi = jax.tree.map(lambda best, now: jax.device_put(np.array(best), now.sharding), record.best, state.phi)
    begun = jax.tree.map(jnp.zeros_like, state.opt)  # as Optax's SGD and Adam, with a clip before them, begin
    before, inner = spec.judged(stage(state.inner)).horizon, further(state.inner)
    state, record = state._replace(phi=phi, opt=begun, inner=inner), record._replace(stale=0)
    if spec.judged(stage(inner)).horizon == before:
        return state, record, []
    record, row = _validated(meta, spec, root, state, record._replace(best_loss=math.inf), data, step)
    return state, record._replace(stale=0), [row | {"best": False}]


def _validated(meta, spec, root, state, record, data, step) -> tuple[Record, dict[str, Any]]:
    now = stage(state.inner)
    found = {name: float(loss) for name, loss in meta.validate(root, state.phi, data, now).items()}
    loss = found.pop("")
    better = math.isfinite(loss) and loss < record.best_loss
    if better:
        record = record._replace(best=jax.tree.map(np.array, state.phi), best_loss=loss, stale=0)
    else:
        record = record._replace(stale=record.stale + 1)
    row: dict[str, Any] = {"step": step, "episode": step // meta.per_episode}
    if spec.curriculum is not None:
        row["horizon"] = spec.judged(now).horizon
    of_members = {"validation": found} if found else {}
    return record, {**row, "validation_loss": loss if math.isfinite(loss) else None, "best": better, **of_members}


def _split(shardings: Any) -> Any:
    """With what is not split, None of the members of a mixture, on every device of several processes."""
    if processes.count() == 1:
        return shardings
    none = lambda sharding: sharding is None
    return jax.tree.map(lambda each: _alike(shardings) if none(each) else each, shardings, is_leaf=none)


def _alike(shardings: Any) -> Any:
    """The whole of an array on every device that those are of."""
    return jax.sharding.NamedSharding(jax.tree.leaves(shardings)[0].mesh, jax.sharding.PartitionSpec())


def _finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
