"""Trained optimizers in PyTorch: `l2lcli.torch.LearnedOptimizer` is a `torch.optim.Optimizer`, and loads no JAX.

    optimizer = l2lcli.torch.LearnedOptimizer(model.parameters(), "general", horizon=1000)
    loss.backward()
    optimizer.step(loss=loss)

What it computes is what `l2lcli.load` gives for JAX, written again in PyTorch; a test holds the two together, step by step.
"""

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("l2lcli.torch needs PyTorch: pip install 'l2lcli[torch]'") from None

from l2lcli.torch._optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]
