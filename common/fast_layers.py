"""The U-Net's layers, computed fast: the same numbers as convolution, batch norm, SiLU one by one.

* Memory is channels last, in the gradients too.
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
from torch.nn.grad import conv2d_weight

from unet import BatchNorm


def evens_first(x: Tensor, dim: int, parts: int = 1) -> Tensor:
    """Channels along `dim`, each part of them in the order in which feature maps are stored."""
    return x.unflatten(dim, (parts, -1, 2)).transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


def regroup(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffle two halves and split the result in halves again, all stored evens first."""
    pairs = zip(left.chunk(2, dim=1), right.chunk(2, dim=1), strict=True)
    first, second = (torch.cat(pair, dim=1) for pair in pairs)
    return first, second


def channels_last(x: Tensor) -> Tensor:
    """x, or a part of its channels, dense and in channels last; one channel leaves no doubt."""
    x = x.permute(0, 2, 3, 1)
    return x.flatten(2).unflatten(2, x.shape[2:]).permute(0, 3, 1, 2)


def silu(x: Tensor) -> Tensor:
    """SiLU, in its argument's place where no gradient is taken."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ConvBn(nn.Sequential):
    """Convolution and batch norm; `stored` says which side of the weight meets a stored map.

    That is no side, the input ("in"), both, for a depthwise convolution, or the two halves of the
    output ("halves").
    """

    def __init__(self, a, b, k, stride=1, groups=1, stored=None):
        conv = nn.Conv2d(a, b, k, stride, padding=k // 2, groups=groups)
        super().__init__(conv, BatchNorm(b))
        self.stored, self.folded = stored, None
        self.parts = {"both": 1, "halves": 2}.get(stored)  # of the output, each evens first

    def forward(self, x):
        if not self.training:
            return self.convolve(x, *(self.folded or self.fold()))
        weight, *rest = self.arranged()
        return self.normalise(self.convolve(x, weight, None), *rest)

    def convolve(self, x, weight, bias):
        conv = self[0]
        options = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
        autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if conv.stride == (1, 1) or not (autocast and torch.is_grad_enabled()):
            return F.conv2d(x, weight, bias, **options)
        with torch.autocast("cpu", enabled=False):  # the gradient is slow in bfloat16
            return F.conv2d(x.to(weight), weight, bias, **options).to(x)

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
        elif self.parts:
            weight, *vectors = (evens_first(w, 0, self.parts) for w in (weight, *vectors))
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
        statistics = bn.running_mean, bn.running_var
        ahead = bn.momentum / (1 - bn.momentum)  # of which the move leaves a share of momentum
        if self.parts:
            stored = [evens_first(v, 0, self.parts).clone() for v in statistics]
            stored[0].add_(bias, alpha=ahead)
            yield stored
            for statistic, moved in zip(statistics, stored, strict=True):
                statistic.copy_(moved.view(self.parts, 2, -1).mT.flatten())  # evens_first, undone
        else:
            statistics[0].add_(bias, alpha=ahead)
            yield statistics


class ConvBnSilu(ConvBn):
    """Convolution, batch norm, SiLU."""

    def __init__(self, a, b, k, stored=None):
        super().__init__(a, b, k, stored=stored)
        self.append(nn.SiLU())

    def forward(self, x):
        return silu(super().forward(x))


def depthwise(c, stride=1, stored=None):
    return ConvBn(c, c, 3, stride, c, stored)


def separable(across: ConvBn, pointwise: ConvBnSilu, x: Tensor) -> Tensor:
    """A depthwise and a 1x1 convolution, one after the other."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not across.training:
        return pointwise(across(x))
    kernel, bias, scale, shift = across.arranged()
    weight, bias_after, *after = pointwise.arranged()
    with across.moved_statistics(bias.detach()) as moved:
        x, mean, i = Separable.apply(x, kernel, scale, weight, *moved, across)
    # what is constant in a channel reaches no further than the next batch norm's running mean
    constant = bias_after + weight.flatten(1) @ (shift - mean * i * scale + 0 * bias)
    return silu(pointwise.normalise(x, constant, *after))


class Separable(torch.autograd.Function):
    """weight · batch_norm(y) in training, but for a constant, of a depthwise convolution y.

    In full precision only: in bfloat16 gamma's gradient, a small difference, would be rounding.
    Nothing is written between the two products: batch_norm(y) = (y - mean) i gamma + beta,
    i = 1/sqrt(var + eps), and its scale goes into the weight, whose gradient then also holds
    gamma's and i's; i's own part of y's gradient is (y - mean) times a number a channel. Batch norm
    must follow: it takes any constant away, and the gradient that it hands back sums to zero, so
    that the mean has none.
    """

    @staticmethod
    def forward(ctx, x, kernel, gamma, weight, running_mean, running_var, across):
        conv, bn = across[0], across[1]
        y = across.convolve(x, kernel, None)
        mean, var = torch.batch_norm_update_stats(y, running_mean, running_var, bn.momentum)
        i = (var + bn.eps).rsqrt()
        ctx.save_for_backward(x, y, mean, i, kernel, gamma, weight)
        ctx.options = {k: getattr(conv, k) for k in ("stride", "padding", "groups")}
        ctx.mark_non_differentiable(mean, i)
        return F.conv2d(y, weight * (i * gamma)[:, None, None]), mean, i

    @staticmethod
    @once_differentiable
    def backward(ctx, g, *_):
        x, y, mean, i, kernel, gamma, weight = ctx.saved_tensors
        scale = (i * gamma)[:, None, None]
        g_scaled = conv2d_weight(y, weight.shape, g)  # of weight i gamma
        g_scale = (g_scaled * weight).sum((0, 2, 3))
        slope = -g_scale * gamma * i**3 / (y.numel() / len(i))  # d i/dy = -i^3 (y - mean)/n
        g_y = F.conv2d(g, (weight * scale).transpose(0, 1), -slope * mean)
        g_y.addcmul_(y, slope[:, None, None])
        g_kernel = conv2d_weight(x, kernel.shape, g_y, **ctx.options)
        if ctx.options["stride"] == (1, 1):  # turned round: the way forward is the faster one
            g_x = F.conv2d(g_y, kernel.flip(2, 3), **ctx.options)
        else:
            stride, padding, groups = ctx.options.values()
            same = [0], stride, padding, [1, 1], False, [0, 0], groups, [True, False, False]
            g_x = torch.ops.aten.convolution_backward(g_y, x, kernel, *same)[0]
        return g_x, g_kernel, g_scale * i, g_scaled * scale, None, None, None


def as_autocast(x: Tensor) -> Tensor:
    """x in the precision that autocast would give it at every pass."""
    kind = x.device.type
    cast = torch.is_autocast_enabled(kind) and x.dtype == torch.float32
    return x.to(torch.get_autocast_dtype(kind)) if cast else x


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Fold batch norm once for many passes, between which the weights stay as they are.

    Parts that train, and networks that are not made of ConvBn, do what they always do; what an
    outer block has folded stays as it is.
    """
    units = [m for m in net.modules() if isinstance(m, ConvBn) and not (m.training or m.folded)]
    try:
        for unit in units:
            unit.folded = [as_autocast(x) for x in unit.fold()]
        yield
    finally:
        for unit in units:
            unit.folded = None
