"""The U-Net of unet.py, faster on a CPU: the same weights under the same names.

Feature maps are stored with their even channels first (common/fast_layers.py says why), so blocks
pass two halves on instead of one shuffled map. tests/test_speed.py holds it to unet.py.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.fast_layers import (
    ConvBnSilu,
    channels_last,
    depthwise,
    evens_first,
    regroup,
    separable,
    silu,
)
from unet import TIME_DIM


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
        enter, *rest = self.right
        return separable(*self.left, left), separable(*rest, enter(right))


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
        enter, *rest = self.right
        return separable(*self.left, x), separable(*rest, enter(x))


class AddTime(nn.Module):
    """Add a projection of the time embedding to c channels, then SiLU."""

    def __init__(self, h, c):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(TIME_DIM, h), nn.SiLU(), nn.Linear(h, c))

    def forward(self, time, *parts):
        """The channels may come in parts, each stored evens first."""
        shifts = self.project(time).chunk(len(parts), dim=1)
        pairs = zip(parts, shifts, strict=True)
        return [silu(x + evens_first(shift, 1)[:, :, None, None]) for x, shift in pairs]


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


class FastUNet(nn.Module):
    """eps(x_t, t): predicts the noise in x_t. t is (B,), or (1,) where all images share a time."""

    def __init__(
        self, base: int = 64, multipliers=(2, 4), timesteps: int = 1000, channels: int = 1
    ):
        super().__init__()
        self.sizes = base, multipliers, timesteps, channels
        self.embed = nn.Embedding(timesteps, TIME_DIM)
        self.first = ConvBnSilu(channels, base, 3, stored="halves")
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
        halves = [channels_last(half) for half in halves]
        for encoder in self.encoders:
            *halves, skip = encoder(*halves, time)
            skips.append(skip)
        x = torch.cat(through(self.middle, *halves), dim=1)
        for decoder in self.decoders:
            x = decoder(x, skips.pop(), time)
        return F.conv2d(x, evens_first(self.last.weight, 1), self.last.bias)
