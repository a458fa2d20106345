"""The U-Net's layers, computed fast: the same numbers as convolution, batch norm, SiLU one by one.

* Memory is channels last, where a 1x1 convolution is one matrix product.
* A feature map is stored with its even channels first, then its odd ones. The shuffle of two halves
  is then their concatenation, and it is weights that are put in order, not images.
* Where nothing trains, batch norm is a part of the convolution's weights; `frozen` computes them
  once for many passes.
* Where a network trains, batch norm between two convolutions is a part of the second's weights.

docs/speed.md has what each saves, benchmarks/plain.py the network without any of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def evens_first(x: Tensor, dim: int) -> Tensor:
    """Channels along `dim` in the order in which feature maps are stored; a copy."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return torch.cat([even, odd], dim)


def regroup(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffle two halves and split the result in halves again, all stored evens first."""
    pairs = zip(left.chunk(2, dim=1), right.chunk(2, dim=1), strict=True)
    return tuple(torch.cat(pair, dim=1) for pair in pairs)


def channels_last(x: Tensor) -> Tensor:
    """x in channels last, also where a single channel leaves the strides open."""
    x = x.permute(0, 2, 3, 1)
    return x.flatten(2).unflatten(2, x.shape[2:]).permute(0, 3, 1, 2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class ConvBn(nn.Sequential):
    """Convolution and batch norm; `stored` says which side of the weight meets a stored map.

    That is no side, the input ("in"), or both, for a depthwise convolution.
    """

    def __init__(self, a, b, k, stride=1, groups=1, stored=None):
        conv = nn.Conv2d(a, b, k, stride, padding=k // 2, groups=groups)
        super().__init__(conv, nn.BatchNorm2d(b))
        self.stored, self.folded = stored, None

    def forward(self, x):
        if not self.training:
            return self.convolve(x, *(self.folded or self.fold()))
        weight, *rest = self.arranged()
        return self.normalise(self.convolve(x, weight, None), *rest)

    def convolve(self, x, weight, bias):
        conv = self[0]
        if conv.kernel_size == (1, 1):
            return linear(x, weight, bias)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)

    def normalise(self, x, bias, scale, shift):
        """Batch norm of x + bias: the bias moves the running mean, and nothing else."""
        bn, shift = self[1], shift + 0 * bias  # the gradient is 0, not missing
        with self.moved_statistics(bias.detach()) as moved:
            return F.batch_norm(x, *moved, scale, shift, True, bn.momentum, bn.eps)

    def arranged(self):
        """The convolution's weight and bias and batch norm's, in the order of what they meet."""
        conv, bn = self[0], self[1]
        return self.in_order(conv.weight, conv.bias, bn.weight, bn.bias)

    def in_order(self, weight, *vectors):
        if self.stored == "in":
            weight = evens_first(weight, 1)
        elif self.stored == "both":
            weight, *vectors = (evens_first(w, 0) for w in (weight, *vectors))
        return weight, *vectors

    def fold(self):
        """Weight and bias that convolve and normalise at once, with the running statistics."""
        conv, bn = self[0], self[1]
        scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
        weight = conv.weight * scale[:, None, None, None]
        return self.in_order(weight, torch.addcmul(bn.bias, conv.bias - bn.running_mean, scale))

    @contextmanager
    def moved_statistics(self, bias):
        """The running mean and variance in the order of the map, to be moved inside.

        They move towards those of a batch that has yet to get its bias.
        """
        bn = self[1]
        own = bn.running_mean, bn.running_var
        ahead = bn.momentum / (1 - bn.momentum)  # of which the move leaves a share of momentum
        if self.stored == "both":
            stored = [evens_first(v, 0) for v in own]
            stored[0].add_(bias, alpha=ahead)
            yield stored
            for mine, moved in zip(own, stored, strict=True):
                mine.copy_(moved.view(2, -1).T.flatten())  # evens_first, undone
        else:
            own[0].add_(bias, alpha=ahead)
            yield own
        bn.num_batches_tracked.add_(1)


class ConvBnSilu(ConvBn):
    """Convolution, batch norm, SiLU."""

    def __init__(self, a, b, k, stored=None):
        super().__init__(a, b, k, stored=stored)
        self.append(nn.SiLU())

    def forward(self, x):
        return F.silu(super().forward(x))


def depthwise(c, stride=1, stored=None):
    return ConvBn(c, c, 3, stride, c, stored)


def separable(depthwise: ConvBn, pointwise: ConvBnSilu, x: Tensor) -> Tensor:
    """A depthwise and a 1x1 convolution, one after the other."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not (on_cpu and depthwise.training):
        return pointwise(depthwise(x))
    weight, bias, scale, shift = depthwise.arranged()
    x = depthwise.convolve(x, weight, None)
    weight, bias_after, *after = pointwise.arranged()
    weight, bn = weight.flatten(1), depthwise[1]
    with depthwise.moved_statistics(bias.detach()) as moved:
        x, mean, i = NormedProduct.apply(x, scale, weight, *moved, bn.momentum, bn.eps)
    # what is constant in a channel reaches no further than the next batch norm's running mean
    constant = bias_after + weight @ (shift - mean * i * scale + 0 * bias)
    return F.silu(pointwise.normalise(x, constant, *after))


class NormedProduct(torch.autograd.Function):
    """weight · batch_norm(x) in training, but for a constant, without writing what is between.

    batch_norm(x) = (x - mean) i gamma + beta, i = 1/sqrt(var + eps). Its scale goes into the
    weight, whose gradient then also holds gamma's and i's; i's own part of x's gradient is
    (x - mean) times a number a channel. Batch norm must follow: it takes any constant away, and
    the gradient that it hands back sums to zero, so that the mean has none.
    """

    @staticmethod
    def forward(ctx, x, gamma, weight, running_mean, running_var, momentum, eps):
        mean, var = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
        i = (var + eps).rsqrt()
        ctx.save_for_backward(x, mean, i, gamma, weight)
        ctx.mark_non_differentiable(mean, i)
        return linear(x, weight * (i * gamma)), mean, i

    @staticmethod
    @once_differentiable
    def backward(ctx, g, *_):
        x, mean, i, gamma, weight = ctx.saved_tensors
        g, rows = (v.permute(0, 2, 3, 1).flatten(0, 2) for v in (g, x))  # (n,out), (n,in)
        g_scaled = g.mT @ rows  # of weight * i * gamma
        g_scale = (g_scaled * weight).sum(0)
        slope = -g_scale * gamma * i**3 / len(rows)  # d i/dx = -i^3 (x - mean)/n
        g_rows = torch.addmm(-slope * mean, g, weight * (i * gamma)).addcmul_(rows, slope)
        g_x = g_rows.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)
        return g_x, g_scale * i, g_scaled * (i * gamma), None, None, None, None


def compiled(net: nn.Module, how: str, **options) -> nn.Module:
    """The same network, its passes compiled if `how` says so; weights and names stay."""
    if how != "off":
        mode = "reduce-overhead" if how == "graphs" else "default"
        net.compile(**{"mode": mode, "dynamic": False, **options})
    return net


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Fold batch norm once for many passes, between which the weights stay as they are.

    Parts that train, and networks that are not made of ConvBn, do what they always do.
    """
    units = [m for m in net.modules() if isinstance(m, ConvBn) and not m.training]
    try:
        for unit in units:
            unit.folded = unit.fold()
        yield
    finally:
        for unit in units:
            unit.folded = None
