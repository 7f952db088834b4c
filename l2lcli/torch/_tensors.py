"""What `scaled` knows of tensors, and how it sizes their updates, in PyTorch: `l2lcli.optimizers._tensors` for bundles."""

# Where PyTorch is not installed, pyright takes this very folder for it.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from l2lcli.optimizers._tensors import CONTROL, FADING, NEWTON_SCHULZ, PERIOD, SIZE, SLOW, TINY
from l2lcli.torch._bundles import Bucket, Bundle

SMALL = 64  # Gram matrices up to this size are brought to one size, so that one product serves them all


class Known(NamedTuple):
    """What is known of the K tensors of a bundle at one step, before it is known of the network; `rows` is of matrices alone.

    `squares` is above 0 where there was a gradient.
    """

    x: torch.Tensor  # [N] gradients divided by their tensor's root mean square
    nominal: torch.Tensor  # [N] the average of these, with a look ahead
    live: torch.Tensor  # [N] 1 of coordinates that ever had a gradient, else 0
    counts: torch.Tensor  # [K] how many these are, at least 1
    fans: torch.Tensor  # [2, K] live inputs and outputs of a matrix, at least 1; of others 1
    squares: torch.Tensor  # [K] mean squared gradient
    cosine: torch.Tensor  # [K] between the gradient and the average before it
    agreement: torch.Tensor  # [K] its average
    root: torch.Tensor  # [K] that gradients were divided by
    noise: torch.Tensor  # [K] root mean square of the nominal term
    spread: torch.Tensor  # [K] of the parameters of a matrix, times the root of its inputs


def unseen(bundle: Bundle, like: torch.Tensor) -> tuple[dict[str, torch.Tensor], ...]:
    """`coordinates`, `tensors` and `shared` of a bundle's state before the first gradient."""
    k = len(bundle.sizes)
    tensors = {name: like.new_zeros(k) for name in ("squares", "first", "agree")} | {"control": like.new_zeros(3, k)}
    return {"mean": like.new_zeros(sum(bundle.sizes))}, tensors, {"mean_rest": like.new_ones(())}


def see(memory: tuple[float, float], bundle: Bundle, g: torch.Tensor) -> Known:
    """Take a bundle's gradients [N] in: the first half of `l2lcli.optimizers._tensors.see`. The state changes in place."""
    state, tensors, shared = bundle.state, bundle.state["tensors"], bundle.state["shared"]
    mean, t = state["coordinates"]["mean"], state["seen"]
    gg, counted, mm, gm = sums(bundle, [g * g, nonzero(g), mean * mean, g * mean]).unbind()
    squares = gg / counted.clamp_min_(1)
    tensors["squares"].mul_(SIZE).add_(squares, alpha=1 - SIZE)
    root = (tensors["squares"] / (1 - SIZE ** (t + 1))).sqrt_().add_(TINY)
    cosine = gm / root / (gg / (root * root) * mm + TINY).sqrt_()
    tensors["agree"].mul_(SIZE).add_(cosine, alpha=1 - SIZE)
    if not t:
        tensors["first"].copy_(root).log_()

    x = torch.empty_like(g)
    for of_g, of_x, own in zip(bundle.rows(g), bundle.rows(x), bundle.tensorwise(root), strict=True):
        torch.div(of_g, own, out=of_x)
    decay = 1 - 1 / (memory[0] + memory[1] * t)
    rest = shared["mean_rest"].mul_(decay)
    mean.mul_(decay).add_(x, alpha=1 - decay)
    nominal = (decay * mean).add_(x, alpha=1 - decay).div_(1 - decay * rest)
    live = nonzero(mean)
    of_nominal, counts = sums(bundle, [nominal * nominal, live]).unbind()
    counts.clamp_min_(1)
    fans = g.new_ones(2, len(bundle.sizes))
    for bucket in bundle.buckets:
        if bucket.role == 0:
            matrices = bucket.matrices(live)
            for fan, axis in ((fans[0], 1), (fans[1], 2)):
                torch.sum(matrices.amax(axis), 1, out=fan[bucket.tensors])
    fans.clamp_min_(1)
    norms = torch.stack(torch._foreach_norm(bundle.parameters, 2, g.dtype))
    spread = norms * (fans[0] / bundle.fixed.sizes).sqrt()
    noise = (of_nominal / counts).sqrt_()
    agreement = tensors["agree"] / (1 - SIZE ** (t + 1))
    return Known(x, nominal, live, counts, fans, squares, cosine, agreement, root, noise, spread)


def nonzero(x: torch.Tensor) -> torch.Tensor:
    """1 where it is not 0, in its type: on a CPU seven times as fast as a comparison that is converted."""
    return x.sign().abs_()


def sums(bundle: Bundle, vectors: list[torch.Tensor]) -> torch.Tensor:
    """Vectors [N], R of them, summed over each tensor: [R, K]."""
    return torch.cat([rows.sum(-1) for rows in bundle.rows(torch.stack(vectors))], 1)


def features(bundles: list[Bundle], known: list[Known], run: dict[str, Any], value: torch.Tensor) -> torch.Tensor:
    """The second half of `l2lcli.optimizers._tensors.see`: what is known of each tensor of the network.

    Args:
      bundles: of all tensors that have a gradient at this step.
      known: of each.
      run: `steps`, how many were taken before, and `losses` [3]: fast and slow average of the loss and the first one.
      value: the loss, ().

    Returns: [FEATURES, K] of all K tensors, bundle after bundle. The states' `control`, and `losses`, change in place.
    """
    t, losses = run["steps"], run["losses"]
    if not t:
        losses.fill_(value)
    losses[0].mul_(SIZE).add_(value, alpha=1 - SIZE)
    losses[1].mul_(SLOW).add_(value, alpha=1 - SLOW)
    logs = losses.abs().clamp_min_(TINY).log_()
    falls = (2 * (logs[0] - logs[1]).clamp_(-1, 1), (logs[0] - logs[2]).clamp_(-6, 3) / 3)

    join = lambda parts: parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    matrix, vector = (join([getattr(bundle.fixed, name) for bundle in bundles]) for name in ("matrix", "vector"))
    squares, cosine, agreement = (join([getattr(k, name) for k in known]) for name in ("squares", "cosine", "agreement"))
    had = (squares > 0).to(cosine.dtype)
    active = matrix * had
    depth = active.sum()
    counted = torch.where(depth > 0, active, had)
    common = (counted * cosine).sum() / counted.sum().clamp_min(1)
    own = counted * (cosine - common)

    clocks, start = [], 0
    for bundle in bundles:
        horizon, state = bundle.group["horizon"] or 0, bundle.state
        whole = horizon or 2 * (t + 1)
        part = min(t / whole, 1)
        weight = max(1 - part / CONTROL, 0) if horizon else FADING / (FADING + t)
        stop = start + len(bundle.sizes)
        control = state["tensors"]["control"]
        if state["seen"]:
            control[0] += weight * common
            control[1].add_(own[start:stop], alpha=weight)
            control[2] += weight * (whole / 100) ** -0.5
        times = [math.log(whole / 100), part, math.exp(-t / 5), math.exp(-t / 30)]
        clocks.append(cosine.new_tensor(times)[:, None].expand(4, stop - start))
        start = stop
    of_tensors = [
        vector,
        *(matrix * join([k.fans for k in known]).log() / 4),
        depth.clamp_min(1).log().expand_as(cosine),
    ]
    sizes = [
        (join([k.noise for k in known]) + 1e-3).log_() / 2,
        agreement,
        agreement.mean().expand_as(cosine),
        *(fall.expand_as(cosine) for fall in falls),
        (join([k.root.log() - b.state["tensors"]["first"] for b, k in zip(bundles, known, strict=True)])).clamp_(-6, 6) / 3,
        matrix * (join([k.spread for k in known]) + TINY).log_().clamp_(-3, 3) / 2,
        torch.ones_like(cosine),
    ]
    control = join([bundle.state["tensors"]["control"] for bundle in bundles])
    periods = cosine.new_tensor([PERIOD[0], PERIOD[0], PERIOD[1]])[:, None]
    return torch.cat([torch.stack(of_tensors), join(clocks), torch.stack(sizes), control / periods])


def size(normalise: str, bundle: Bundle, known: Known, directions: torch.Tensor, steps: torch.Tensor) -> None:
    """Bring directions [N] to a size of their own and multiply them by the steps [K]: `_tensors.sized`. In place."""
    directions *= known.live
    inputs, outputs = known.fans.unbind()
    (squares,) = sums(bundle, [directions * directions])
    roots = (squares / known.counts + TINY).rsqrt_()
    if normalise == "orthogonal":
        factors = torch.where(bundle.fixed.roles == 1, roots, (outputs / inputs).sqrt_())
    else:
        factors = (outputs / inputs / torch.maximum(inputs, outputs)).sqrt_()
        factors *= torch.where(bundle.fixed.roles == 2, 1, roots) if normalise == "rms" else 1
    factors *= steps
    orthogonal = [bucket for bucket in bundle.buckets if bucket.role == 0 and normalise == "orthogonal"]
    for bucket, rows, factor in zip(bundle.buckets, bundle.rows(directions), bundle.tensorwise(factors), strict=True):
        if bucket not in orthogonal:
            rows *= factor
    if orthogonal:
        orthogonalise(orthogonal, directions, squares, factors)


def orthogonalise(buckets: list[Bucket], directions: torch.Tensor, squares: torch.Tensor, factors: torch.Tensor) -> None:
    """Matrices of directions [N], with singular values near 1, times factors [K]: `_tensors.orthogonalised`. In place.

    `squares` [K] are their sums of squares. The Gram matrices of all buckets are stacked by size, so that one batch of products
    serves them; small ones with zeros around them, which the iteration leaves where they are.
    """
    matrices = [bucket.matrices(directions) for bucket in buckets]
    short = [min(found.shape[1:]) for found in matrices]
    largest = max((n for n in short if n <= SMALL), default=0)
    stacks: dict[int, list[int]] = {}
    for i, n in enumerate(short):
        stacks.setdefault(largest if n <= SMALL else n, []).append(i)
    for n, members in stacks.items():
        grams, norms = [], []
        for i in members:
            x = matrices[i] if matrices[i].shape[1] == short[i] else matrices[i].mT
            grams.append(functional.pad(torch.bmm(x, x.mT), (0, n - short[i]) * 2) if n > short[i] else torch.bmm(x, x.mT))
            norms.append(buckets[i].tensors)
        norm = torch.cat([squares[at] for at in norms])[:, None, None] + TINY
        factor = torch.cat([factors[at] for at in norms])[:, None, None]
        whole = iterated(torch.cat(grams) / norm) * (norm.rsqrt_() * factor)
        for i, product in zip(members, whole.split([buckets[i].number for i in members]), strict=True):
            product, x = product[:, : short[i], : short[i]], matrices[i]
            done = torch.bmm(product, x) if x.shape[1] == short[i] else torch.bmm(x, product)
            target = buckets[i].whole(directions)
            target.copy_(done.view(target.shape))


def iterated(gram: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """What a Newton-Schulz iteration multiplies matrices by whose Gram matrices these are, [K, n, n] (Jordan et al. 2024)."""
    a, b, c = NEWTON_SCHULZ
    whole = gram
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        whole = torch.bmm(factor, whole) if step else factor
        if step + 1 < steps:
            gram = torch.bmm(torch.bmm(factor, gram), factor)
    return whole
