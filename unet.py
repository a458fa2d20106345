"""The small U-Net: ShuffleNet-v2 units, batch norm, SiLU, no attention. Convolutions have a bias.

With base 64, multipliers (2, 4) and T = 1000 it has 1,084,897 parameters; a forward pass of one
28x28 image is 239 MFLOP.

Two habits make it fast without changing what it computes (docs/speed.md). Memory is channels last,
where a 1x1 convolution is one matrix product. And a feature map is stored with its even channels
first, then its odd ones: the shuffle of two halves is then their concatenation, and it is the
weights, a thousand times smaller, that are put in order for it (`evens_first`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_DIM = 256


def evens_first(x: Tensor, dim: int) -> Tensor:
    """Channels along `dim` in the order in which feature maps are stored."""
    return x.unflatten(dim, (-1, 2)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def evens_and_odds(x: Tensor) -> Tensor:
    """The inverse of evens_first, for a vector."""
    return x.view(2, -1).T.flatten()


def regroup(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffle two halves and split the result in halves again, all stored evens first."""
    halves = zip(left.chunk(2, dim=1), right.chunk(2, dim=1), strict=True)
    return tuple(torch.cat(pair, dim=1) for pair in halves)


def channels_last(x: Tensor) -> Tensor:
    """x with the strides of channels last also where one channel leaves them open."""
    x = x.permute(0, 2, 3, 1)
    return x.flatten(2).unflatten(2, x.shape[2:]).permute(0, 3, 1, 2)


class ConvBn(nn.Sequential):
    """Convolution and batch norm; `stored` is the weight's side that meets a stored feature map.

    While nothing trains, batch norm is folded into the convolution.
    """

    def __init__(self, a, b, k, stride=1, groups=1, stored=None):
        conv = nn.Conv2d(a, b, k, stride, padding=k // 2, groups=groups)
        super().__init__(conv, nn.BatchNorm2d(b))
        self.stored, self.frozen = stored, None

    def forward(self, x):
        if not self.training:
            return self.convolve(x, *(self.frozen or self.fold()))
        conv, bn = self[0], self[1]
        weight, bias, *affine = self.arranged(conv.weight, conv.bias, bn.weight, bn.bias)
        mean, var = self.statistics()
        x = self.convolve(x, weight, bias)
        x = F.batch_norm(x, mean, var, *affine, True, bn.momentum, bn.eps)  # moves mean and var
        self.keep_statistics(mean, var)
        return x

    def convolve(self, x, weight, bias):
        conv = self[0]
        if conv.kernel_size == (1, 1):
            return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)

    def arranged(self, weight, *vectors):
        """The weights in the order of the feature maps they meet."""
        if self.stored == "in":
            weight = evens_first(weight, 1)
        elif self.stored == "both":  # a depthwise convolution's only side
            weight, *vectors = (evens_first(w, 0) for w in (weight, *vectors))
        return weight, *vectors

    def fold(self):
        """Weight and bias that convolve and normalise at once, with the running statistics."""
        conv, bn = self[0], self[1]
        scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
        weight = conv.weight * scale[:, None, None, None]
        return self.arranged(weight, torch.addcmul(bn.bias, conv.bias - bn.running_mean, scale))

    def statistics(self):
        """The running mean and variance, in the order of the feature map they meet."""
        both = self[1].running_mean, self[1].running_var
        return [evens_first(v, 0).clone() for v in both] if self.stored == "both" else both

    def keep_statistics(self, mean, var):
        """Take back what `statistics` gave, moved towards a batch's."""
        bn = self[1]
        if self.stored == "both":
            bn.running_mean.copy_(evens_and_odds(mean))
            bn.running_var.copy_(evens_and_odds(var))
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


class Bottleneck(nn.Module):
    """a -> b channels at the same size; each half of the channels takes its own path."""

    def __init__(self, a, b):
        super().__init__()
        a, b = a // 2, b // 2
        self.left = nn.Sequential(depthwise(a, stored="both"), ConvBnSilu(a, b, 1, stored="in"))
        self.right = nn.Sequential(
            ConvBnSilu(a, a, 1, stored="in"), depthwise(a), ConvBnSilu(a, b, 1)
        )

    def forward(self, left, right):
        return self.left(left), self.right(right)


class Downsample(nn.Module):
    """a -> b channels at half the size; both paths see all channels."""

    def __init__(self, a, b):
        super().__init__()
        b = b // 2
        self.left = nn.Sequential(depthwise(a, 2, stored="both"), ConvBnSilu(a, b, 1, stored="in"))
        self.right = nn.Sequential(
            ConvBnSilu(a, b, 1, stored="in"), depthwise(b, 2), ConvBnSilu(b, b, 1)
        )

    def forward(self, x):
        return self.left(x), self.right(x)


class AddTime(nn.Module):
    """Add a projection of the time embedding to c channels, then SiLU."""

    def __init__(self, h, c):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(TIME_DIM, h), nn.SiLU(), nn.Linear(h, c))

    def forward(self, time, *parts):
        """The channels may come in parts, each stored evens first."""
        shifts = self.project(time).chunk(len(parts), dim=1)
        pairs = zip(parts, shifts, strict=True)
        return [F.silu(x + evens_first(shift, 1)[:, :, None, None]) for x, shift in pairs]


class Encoder(nn.Module):
    """a -> b channels at half the size; also returns the skip, b/2 channels at full size."""

    def __init__(self, a, b):
        super().__init__()
        self.bottlenecks = nn.Sequential(
            *[Bottleneck(a, a) for _ in range(3)], Bottleneck(a, b // 2)
        )
        self.time = AddTime(b, b // 2)
        self.down = Downsample(b // 2, b)

    def forward(self, left, right, time):
        skip = torch.cat(through(self.bottlenecks, left, right), dim=1)
        return *regroup(*self.down(*self.time(time, skip))), skip


class Decoder(nn.Module):
    """The mirror of Encoder(a, b): b/2 -> a/2 channels at twice the size."""

    def __init__(self, a, b):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.bottlenecks = nn.Sequential(
            *[Bottleneck(b, b) for _ in range(3)], Bottleneck(b, b // 2)
        )
        self.time = AddTime(b, b // 2)
        self.last = Bottleneck(b // 2, a // 2)

    def forward(self, x, skip, time):
        # the two would be concatenated, and are the halves of what that gives
        halves = regroup(*through(self.bottlenecks, self.up(x), skip))  # 2 x (B,b/4,2H,2W)
        return torch.cat(self.last(*self.time(time, *halves)), dim=1)


def through(bottlenecks, left, right):
    """Bottlenecks one after the other; the last one's halves, not yet shuffled."""
    first, *others = bottlenecks
    left, right = first(left, right)
    for bottleneck in others:
        left, right = bottleneck(*regroup(left, right))
    return left, right


class UNet(nn.Module):
    """eps(x_t, t): predicts the noise in x_t. t is (B,), or (1,) where all images share a time."""

    def __init__(
        self, base: int = 64, multipliers=(2, 4), timesteps: int = 1000, channels: int = 1
    ):
        super().__init__()
        self.embed = nn.Embedding(timesteps, TIME_DIM)
        self.first = ConvBnSilu(channels, base, 3)
        widths = [base] + [base * m for m in multipliers]
        pairs = list(pairwise(widths))
        self.encoders = nn.ModuleList(Encoder(a, b) for a, b in pairs)
        c = widths[-1]
        self.middle = nn.Sequential(Bottleneck(c, c), Bottleneck(c, c), Bottleneck(c, c // 2))
        self.decoders = nn.ModuleList(Decoder(a, b) for a, b in reversed(pairs))
        self.last = nn.Conv2d(base // 2, channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # (B,C,H,W), t in 1..T -> (B,C,H,W)
        time = self.embed(t - 1)  # (B,256): row 0 of the table is t = 1
        halves, skips = self.first(channels_last(x)).chunk(2, dim=1), []
        halves = [evens_first(half, 1) for half in halves]
        for encoder in self.encoders:
            *halves, skip = encoder(*halves, time)
            skips.append(skip)
        x = torch.cat(through(self.middle, *halves), dim=1)
        for decoder in self.decoders:
            x = decoder(x, skips.pop(), time)
        weight = evens_first(self.last.weight, 1)
        return F.conv2d(x, weight, self.last.bias)


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Fold batch norm once for many forward passes, between which the weights stay as they are.

    Parts that train, and networks that are not made of ConvBn, do what they always do.
    """
    units = [m for m in net.modules() if isinstance(m, ConvBn) and not m.training]
    try:
        for unit in units:
            unit.frozen = unit.fold()
        yield
    finally:
        for unit in units:
            unit.frozen = None
