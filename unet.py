"""The small U-Net: ShuffleNet-v2 units, batch norm, SiLU, no attention. Convolutions have a bias.

With base 64, multipliers (2, 4) and T = 1000 it has 1,084,897 parameters; a forward pass of one
28x28 image is 239 MFLOP. common/fast_unet.py is the same network, faster on a CPU.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

TIME_DIM = 256


class BatchNorm(nn.BatchNorm2d):
    """torch's, without the counter of batches, which nothing reads: one launch a layer on a GPU."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        state_dict.pop(prefix + "num_batches_tracked", None)  # of a checkpoint that still has it
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)


def conv_bn_silu(a, b, k):
    return nn.Sequential(nn.Conv2d(a, b, k, padding=k // 2), BatchNorm(b), nn.SiLU())


def depthwise_bn(c, stride=1):
    return nn.Sequential(nn.Conv2d(c, c, 3, stride, 1, groups=c), BatchNorm(c))


def shuffle(left, right):
    """Interleave the channels of two halves: the channel shuffle in 2 groups."""
    return torch.stack([left, right], dim=2).flatten(1, 2)  # 2 x (B,c,H,W) -> (B,2c,H,W)


class Bottleneck(nn.Module):
    """a -> b channels at the same size; each half of the channels takes its own path."""

    def __init__(self, a, b):
        super().__init__()
        a, b = a // 2, b // 2
        self.left = nn.Sequential(depthwise_bn(a), conv_bn_silu(a, b, 1))
        self.right = nn.Sequential(conv_bn_silu(a, a, 1), depthwise_bn(a), conv_bn_silu(a, b, 1))

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        return shuffle(self.left(left), self.right(right))


class Downsample(nn.Module):
    """a -> b channels at half the size; both paths see all channels."""

    def __init__(self, a, b):
        super().__init__()
        b = b // 2
        self.left = nn.Sequential(depthwise_bn(a, 2), conv_bn_silu(a, b, 1))
        self.right = nn.Sequential(conv_bn_silu(a, b, 1), depthwise_bn(b, 2), conv_bn_silu(b, b, 1))

    def forward(self, x):
        return shuffle(self.left(x), self.right(x))


class AddTime(nn.Module):
    """Add a projection of the time embedding to c channels, then SiLU."""

    def __init__(self, h, c):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(TIME_DIM, h), nn.SiLU(), nn.Linear(h, c))

    def forward(self, x, time):
        return nn.functional.silu(x + self.project(time)[:, :, None, None])


class Encoder(nn.Module):
    """a -> b channels at half the size; also returns the skip, b/2 channels at full size."""

    def __init__(self, a, b):
        super().__init__()
        self.bottlenecks = nn.Sequential(
            *[Bottleneck(a, a) for _ in range(3)], Bottleneck(a, b // 2)
        )
        self.time = AddTime(b, b // 2)
        self.down = Downsample(b // 2, b)

    def forward(self, x, time):
        skip = self.bottlenecks(x)
        return self.down(self.time(skip, time)), skip


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
        x = self.bottlenecks(torch.cat([self.up(x), skip], dim=1))  # (B,b/2,2H,2W)
        return self.last(self.time(x, time))


class UNet(nn.Module):
    """eps(x_t, t): predicts the noise in x_t. t is (B,), or (1,) where all images share a time."""

    def __init__(
        self, base: int = 64, multipliers=(2, 4), timesteps: int = 1000, channels: int = 1
    ):
        super().__init__()
        self.sizes = base, multipliers, timesteps, channels
        self.embed = nn.Embedding(timesteps, TIME_DIM)
        self.first = conv_bn_silu(channels, base, 3)
        widths = [base] + [base * m for m in multipliers]
        pairs = list(pairwise(widths))
        self.encoders = nn.ModuleList(Encoder(a, b) for a, b in pairs)
        c = widths[-1]
        self.middle = nn.Sequential(Bottleneck(c, c), Bottleneck(c, c), Bottleneck(c, c // 2))
        self.decoders = nn.ModuleList(Decoder(a, b) for a, b in reversed(pairs))
        self.last = nn.Conv2d(base // 2, channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # (B,C,H,W), t in 1..T -> (B,C,H,W)
        time = self.embed(t - 1)  # (B,256): row 0 of the table is t = 1
        x, skips = self.first(x), []
        for encoder in self.encoders:
            x, skip = encoder(x, time)
            skips.append(skip)
        x = self.middle(x)
        for decoder in self.decoders:
            x = decoder(x, skips.pop(), time)
        return self.last(x)
