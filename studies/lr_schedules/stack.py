"""The study's network, and many of them trained together as one.

A Stack of R networks keeps their weights in one matrix (R, P), a row a network, so that a layer of
all of them is one batched product and a row's optimiser steps over one tensor. Its backward pass is
written out: the gradient, too, comes as one matrix, without a copy.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

EMBEDDING = 128
HIDDEN = 256
BLOCKS = 3
COORDINATE_SCALE = 25


def sinusoids(value: Tensor) -> Tensor:  # (...) -> (..., EMBEDDING)
    """Sines and cosines of a number at frequencies from 1 down to 1/10000."""
    half = EMBEDDING // 2
    power = torch.arange(half, dtype=value.dtype, device=value.device) / (half - 1)
    angle = value[..., None] * torch.exp(-math.log(10000) * power)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def embed_time(x: Tensor, t: Tensor) -> Tensor:  # (..., B, 2), (B,) or (1,) -> (len(t), EMBEDDING)
    """Sinusoids of the times, in the precision of the points."""
    return sinusoids(t.to(x.dtype))


def embed_points(x: Tensor) -> Tensor:  # (..., B, 2) -> (..., B, 2*EMBEDDING)
    """Sinusoids of both coordinates."""
    return sinusoids(x * COORDINATE_SCALE).flatten(-2)


def embed(x: Tensor, t: Tensor) -> Tensor:  # (..., B, 2), (B,) or (1,) -> (..., B, 3*EMBEDDING)
    """What the first layer sees of the points and their times."""
    time = embed_time(x, t).expand(*x.shape[:-1], EMBEDDING)
    return torch.cat([time, embed_points(x)], dim=-1)


class Net(nn.Module):
    """A multilayer perceptron with residual blocks that predicts the noise in 2-D points."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3 * EMBEDDING, HIDDEN)
        self.blocks = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(BLOCKS))
        self.last = nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # (B,2), (B,) or (1,) -> (B,2)
        h = self.first(embed(x, t)) if len(t) > 1 else self._first_at_one_time(x, t)
        for block in self.blocks:
            h = h + block(h).relu_()
        return self.last(h.relu())

    def _first_at_one_time(self, x, t):  # (B,2), (1,) -> (B,HIDDEN)
        """The first layer in sampling, where the points share the time: its part is one row."""
        of_time, of_points = self.first.weight.split([EMBEDDING, 2 * EMBEDDING], dim=1)
        row = nn.functional.linear(embed_time(x, t), of_time, self.first.bias)  # (1,HIDDEN)
        return torch.addmm(row, embed_points(x), of_points.mT)


class Stack(nn.Module):
    """R networks in one, which see the same points at the same times: (B,2) -> (B,R,2)."""

    def __init__(self, nets: list[Net]):
        super().__init__()
        rows = [parameters_to_vector(net.parameters()).detach() for net in nets]
        self.weights = nn.Parameter(torch.stack(rows))  # (R,P)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        seen = embed(x, t).expand(len(self.weights), -1, -1)  # computed once, not once a network
        return _Layers.apply(self.weights, seen).transpose(0, 1)


def layers(matrix: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of a matrix (R,P): each layer's weights (R,out,in) and biases (R,1,out)."""
    sizes = [(HIDDEN, 3 * EMBEDDING), *[(HIDDEN, HIDDEN)] * BLOCKS, (2, HIDDEN)]
    views, at = [], 0
    for outputs, inputs in sizes:
        split = at + outputs * inputs
        weight = matrix[:, at:split].unflatten(1, (outputs, inputs))
        at = split + outputs
        views.append((weight, matrix[:, None, split:at]))
    return views


class _Layers(torch.autograd.Function):
    """Net's layers for all rows at once, and their gradient in the weights alone."""

    @staticmethod
    def forward(ctx, weights, x):  # (R,P), (R,B,3*EMBEDDING) -> (R,B,2)
        first, *blocks, last = layers(weights)
        h, hs, activations = _linear(x, *first), [x], []
        for block in blocks:
            a = _linear(h, *block).relu_()
            hs.append(h)
            activations.append(a)
            h = h + a
        h = h.relu_()
        ctx.save_for_backward(weights, *hs, h, *activations)
        return _linear(h, *last)

    @staticmethod
    def backward(ctx, gradient):
        weights, *saved = ctx.saved_tensors
        hs, activations = saved[: BLOCKS + 2], saved[BLOCKS + 2 :]
        out = torch.empty_like(weights)
        into, (_, *blocks, last) = layers(out), layers(weights)
        g = gradient.contiguous()
        _gradients(into[-1], g, hs[-1])
        dh = torch.bmm(g, last[0])
        dh = torch.ops.aten.threshold_backward(dh, hs[-1], 0)
        for i in reversed(range(BLOCKS)):
            g = torch.ops.aten.threshold_backward(dh, activations[i], 0)
            _gradients(into[i + 1], g, hs[i + 1])
            dh.baddbmm_(g, blocks[i][0])
        _gradients(into[0], dh, hs[0])
        return out, None


def _linear(x, weight, bias):
    return torch.bmm(x, weight.mT).add_(bias)


def _gradients(into, g, x):
    """The gradients of a layer's weights and biases, written where they belong."""
    torch.bmm(g.mT, x, out=into[0])
    torch.sum(g, dim=1, keepdim=True, out=into[1])


def clip_rows_(gradient: Tensor, highest: float) -> Tensor:
    """Shorten each row to the norm `highest`, as clip_grad_norm_ does; returns the norms before."""
    norms = torch.linalg.vector_norm(gradient, dim=1)
    factors = highest / (norms + 1e-6)
    for row in (factors < 1).nonzero().flatten().tolist():  # most steps need few: no pass over all
        gradient[row] *= factors[row]
    return norms
