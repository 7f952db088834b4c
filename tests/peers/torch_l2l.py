"""The same meta-training step in plain PyTorch, as `l2l bench`'s peer: `nn.LSTMCell`, `torch.autograd.grad`, no tricks.

The work: a 784-H-10 network (or random quadratics), W optimizee steps of a coordinatewise two-layer LSTM that reads the log
and sign of each gradient coordinate, the gradient of the summed loss with respect to the LSTM's weights. What the LSTM is fed
is detached, as in the paper.
"""

import math

import torch
from torch import nn


class Optimizer(nn.Module):
    """The coordinatewise LSTM: [N, inputs] -> updates [N]."""

    def __init__(self, layers, hidden, p, scale):
        super().__init__()
        self.p, self.scale = p, scale
        inputs = 1 if p is None else 2
        self.cells = nn.ModuleList(nn.LSTMCell(hidden if i else inputs, hidden) for i in range(layers))
        self.readout = nn.Linear(hidden, 1)

    def shown(self, grad):
        if self.p is None:
            return grad[:, None]
        log = torch.log(grad.abs().clamp(min=math.exp(-self.p))) / self.p
        return torch.stack([log, (grad * math.exp(self.p)).clamp(-1, 1)], 1)

    def forward(self, grad, state):
        x, after = self.shown(grad), []
        for cell, (h, c) in zip(self.cells, state, strict=True):
            h, c = cell(x, (h, c))
            after.append((h, c))
            x = h
        return self.scale * self.readout(x)[:, 0], after


def window(work, optimizer, steps):
    """One window from fresh states: (meta-gradient, summed loss)."""
    theta, batch, loss = work
    hidden = optimizer.readout.in_features
    zeros = lambda: torch.zeros(theta.numel(), hidden)
    state, total = [(zeros(), zeros()) for _ in optimizer.cells], 0.0
    grad = torch.autograd.grad(loss(theta, batch()), theta)[0]
    for step in range(steps):
        update, state = optimizer(grad.reshape(-1), state)
        theta = theta + update.reshape(theta.shape)
        value = loss(theta, batch())
        total = total + value
        if step + 1 < steps:
            grad = torch.autograd.grad(value, theta, retain_graph=True)[0].detach()
    return torch.autograd.grad(total, list(optimizer.parameters())), total


def network(images, labels, hidden, classes, batch_size):
    """The sigmoid network on minibatches, its parameters one vector."""
    inputs = images.shape[1]
    sizes = [inputs * hidden, hidden, hidden * classes, classes]

    def batch():
        rows = torch.randint(len(labels), (batch_size,))
        return images[rows], labels[rows]

    def loss(theta, batch):
        w1, b1, w2, b2 = theta.split(sizes)
        x = torch.sigmoid(batch[0] @ w1.reshape(inputs, hidden) + b1)
        return nn.functional.cross_entropy(x @ w2.reshape(hidden, classes) + b2, batch[1])

    return (0.1 * torch.randn(sum(sizes))).requires_grad_(), batch, loss


def quadratics(tasks, dimension):
    """Random quadratics side by side; f is their sum over tasks, so that a coordinate's gradient is its own task's."""
    w, y = torch.randn(tasks, dimension, dimension), torch.randn(tasks, dimension)
    theta = torch.zeros(tasks, dimension, requires_grad=True)
    return theta, lambda: None, lambda theta, batch: ((torch.einsum("mij,mj->mi", w, theta) - y) ** 2).sum()
