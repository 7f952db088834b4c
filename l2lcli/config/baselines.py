"""What the names of hand-made optimizers in a config show to be wrong: unknown ones, and those that its problem cannot have."""

from __future__ import annotations

from collections.abc import Iterator

from l2lcli.config.faults import Finding
from l2lcli.config.specs import FEW_SHOT, LINE_SEARCH, Config
from l2lcli.config.yaml_read import Path, shown


def hand_made(config: Config) -> Iterator[Finding]:
    """Of `eval.baselines`, `train.meta_optimizer` and `train.imitation`; most names are Optax's to know."""
    from l2lcli.optimizers import hand

    names: dict[Path, tuple[str, int | None]] = {("train", "meta_optimizer", "name"): (config.train.meta_optimizer.name, None)}
    baselines, kind = config.eval.baselines, config.problem.kind
    for i, name in enumerate(baselines):
        at = "eval", "baselines", i
        if name in baselines[:i]:
            yield Finding(at, f"{shown(name)} is there twice")
        elif name in FEW_SHOT and not config.few_shot:
            yield Finding(at, f"{name} is for few-shot problems, which {kind} is not")
        elif name in LINE_SEARCH and config.few_shot:
            yield Finding(at, f"{name} searches along a line of one loss, and {kind} is few-shot")
        elif name in LINE_SEARCH and config.eval.equal_time:
            yield Finding(at, f"{name} is compared at equal steps alone", (("eval", "equal_time"),))
        elif name not in (*FEW_SHOT, *LINE_SEARCH):
            names[at] = name, config.eval.steps
    if config.train.imitation is not None:
        names["train", "imitation", "of"] = config.train.imitation.of, None
    for path, (name, horizon) in names.items():
        try:
            hand.check(name, horizon)  # loads JAX for a name that is not among the common ones
        except ValueError as error:
            yield Finding(path, str(error))
