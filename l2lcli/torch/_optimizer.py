"""`LearnedOptimizer`: a trained optimizer as a `torch.optim.Optimizer`."""

# Where PyTorch is not installed, pyright takes this very folder for it.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from l2lcli import registry
from l2lcli.runs import trained
from l2lcli.torch._bundles import Bundle, bundle, computed_in, divided, joined
from l2lcli.torch._families import family

OWN = "l2l"  # under which the optimizer's `state` holds what it keeps: it is of several parameters at once
OPTIONS = ("scale", "weight_decay", "horizon")


class LearnedOptimizer(torch.optim.Optimizer):
    """A trained optimizer of the kind lstm, mlp or scaled.

        optimizer = LearnedOptimizer(model.parameters(), "general", horizon=1000)
        loss.backward()
        optimizer.step(loss=loss)

    It has no learning rate. Steps are computed in float32, in float64 for parameters in float64, whatever autocast says, and
    added to the parameters in their own type. A parameter without a gradient is passed over, as if it were not there at that
    step.

    Args:
      params: parameters, or groups of them, as of every PyTorch optimizer. Each group can have its own scale, weight_decay,
        horizon and outputs. Dense and real ones alone.
      optimizer: a run directory, an artefact file, or the name of a shipped optimizer; None is the newest finished run.
      horizon: the steps that the training will take in all, which an optimizer that anneals wants to know.
      weight_decay: so much of the parameters is taken away at every step (decoupled: Loshchilov and Hutter 2019).
      scale: updates are multiplied by this.
      outputs: the axis of a matrix's outputs, all others being inputs and kernel: 0 as in `nn.Linear` and `nn.Conv2d`; 1 is for
        transposed convolutions and, as in JAX, embeddings and x @ w.

    Raises RunError if there is no such optimizer, or if it is damaged; ValueError for one that is not for PyTorch, and for a
    negative scale, weight decay or horizon.
    """

    def __init__(
        self,
        params: Any,
        optimizer: str | Path | None = "general",
        *,
        horizon: int | None = None,
        weight_decay: float = 0.0,
        scale: float = 1.0,
        outputs: int = 0,
    ) -> None:
        """Nothing is allocated before the first step."""
        found = trained.read(optimizer)
        self._build(found.optimizer.model_dump_json(), found.phi)
        super().__init__(params, {"horizon": horizon, "weight_decay": weight_decay, "scale": scale, "outputs": outputs})
        self.state[OWN] = {"optimizer": self._mark, "steps": 0, "bundles": []}

    def _build(self, spec: str, phi: dict[str, np.ndarray]) -> None:
        """From the family's spec, as JSON, and phi: what copies and pickles are made from again."""
        self._built_from = spec, phi
        self._family = family(TypeAdapter(registry.union(registry.optimizer.specs().values())).validate_json(spec), phi)
        said = [spec, *(f"{key} {leaf.tobytes().hex()}" for key, leaf in sorted(phi.items()))]
        self._mark = hashlib.sha256(repr(said).encode()).hexdigest()[:16]
        self._plan: tuple[list[int], list[Bundle]] | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own; they begin with their first gradient. Raises ValueError."""
        given = {**self.defaults, **param_group}
        if any((given[name] or 0) < 0 for name in OPTIONS):
            said = ", ".join(f"{name} {given[name]}" for name in OPTIONS)
            raise ValueError(f"{said}: must not be negative")
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if not parameter.is_floating_point():
                raise ValueError(f"parameters must be of real numbers, and one is {parameter.dtype}")
        self._plan = None

    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """One step.

        Args:
          closure: computes the loss and its gradients, and returns the loss.
          loss: the loss at the parameters as they are, if there is no closure. Optimizers of the kind scaled read it (general,
            general-small); others pass it over. Under gradient scaling, the loss before it was scaled.

        Returns: the loss that it was given, by either.

        Raises ValueError where the loss is needed and missing, and for sparse gradients.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad(), exact():
            self._step(self._value(loss))
        return loss

    def _value(self, loss: Any) -> torch.Tensor | None:
        if not self._family.reads_loss:
            return None
        if loss is None:
            raise ValueError("this optimizer reads the loss: step(loss=loss), or step(closure)")
        value = loss.detach() if isinstance(loss, torch.Tensor) else torch.tensor(loss, dtype=torch.float64)
        if value.numel() != 1:
            raise ValueError(f"the loss must be one number, and has shape {list(value.shape)}")
        return value.reshape(())

    def _step(self, value: torch.Tensor | None) -> None:
        own, bundles = self.state[OWN], self._bundles()
        if not bundles:
            return
        if value is not None:
            value = value.to(bundles[0].parameters[0].device, bundles[0].dtype)
        for of, update in zip(bundles, self._family.updates(bundles, own, value), strict=True):
            of.state["seen"] += 1
            if of.group["scale"] != 1:
                update *= of.group["scale"]
            updates = of.apart(update)
            if of.group["weight_decay"]:
                torch._foreach_add_(updates, of.parameters, alpha=-of.group["weight_decay"])
            torch._foreach_add_(of.parameters, updates)
        own["steps"] += 1

    def _bundles(self) -> list[Bundle]:
        """Of the parameters that have a gradient. Remembered while these are the same."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        active = [i for i, parameter in enumerate(parameters) if parameter.grad is not None and parameter.numel()]
        if self._plan is not None and self._plan[0] == active:
            return self._plan[1]
        if any(parameters[i].grad.layout != torch.strided for i in active):
            raise ValueError("sparse gradients are not for a learned optimizer")
        own, inside, found, states = self.state[OWN], set(active), [], []
        for state in own["bundles"]:
            parts = [state]
            if len(there := inside.intersection(state["parameters"])) not in (0, len(state["parameters"])):
                parts = list(divided(bundle(self.param_groups, state), there))
            found += [part for part in parts if inside.issuperset(part["parameters"])]
            states += parts
        known = {i for state in states for i in state["parameters"]}
        for places in joined(self.param_groups, [i for i in active if i not in known]):
            new = {"parameters": places, "seen": 0}
            self._family.begin(bundle(self.param_groups, new))
            found.append(new)
            states.append(new)
        own["bundles"] = states
        self._plan = active, [bundle(self.param_groups, state) for state in found]
        return self._plan[1]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises ValueError if it is another optimizer's, or of other groups."""
        mark = state_dict["state"].get(OWN, {}).get("optimizer")
        if mark != self._mark:
            raise ValueError(f"the state is of another optimizer: {mark or 'none of l2l'}, and this one is {self._mark}")
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        # PyTorch hands over as it is what belongs to no single parameter.
        own = self.state[OWN] = copy.deepcopy(self.state[OWN])
        for state in own["bundles"]:
            first = parameters[state["parameters"][0]]
            for name in ("coordinates", "tensors", "shared"):
                state[name] = {key: leaf.to(first.device, computed_in(first)) for key, leaf in state[name].items()}
        if own["bundles"] and "losses" in own:
            own["losses"] = own["losses"].to(next(iter(own["bundles"][0]["shared"].values())))
        self._plan = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: also which optimizer it is."""
        return {**super().__getstate__(), "built_from": self._built_from}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As `__getstate__` left it."""
        state = dict(state)
        if (built := state.pop("built_from", None)) is not None:
            self._build(*built)
        super().__setstate__(state)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Products in full precision, whatever the program allows its network: orthogonalising makes their errors larger."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
            newer = hasattr(backend, "fp32_precision")  # from PyTorch 2.9 on
            key, full = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
            if (before := getattr(backend, key, full)) not in (full, "none"):
                stack.callback(setattr, backend, key, before)
                setattr(backend, key, full)
        yield
