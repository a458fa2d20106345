"""The small networks that judge images: two designs that share nothing, and MNIST's extractor.

`first` is a stack of convolutions, `second` a mixer of patches: products over patches and over
channels in turn, without a convolution. Both are smooth and without batch norm, so features have
derivatives in reverse and in forward mode.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.datasets import FRAME_SIDE, MNIST_SIDE

SIZES = (8, 16, 28)  # pixels of a side that a network may be made for
DIGIT_SIDE = 20  # MNIST's digits fill 20x20 pixels of its 28x28 images
STRIDES = {8: (1, 1, 2, 1, 1), 16: (2, 1, 2, 1, 1), 28: (2, 1, 2, 1, 2)}  # down to 4x4
PATCHES = {8: 2, 16: 4, 28: 7}  # pixels of a side of a patch: sixteen patches


class Classifier(nn.Module):
    """A network for images of one size; features and ten logits come out."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.size, self.dim = size, dim

    def fit(self, x: Tensor) -> Tensor:
        """The middle of a framed image; other sizes to 20x20 in a black frame, as MNIST's are."""
        if x.shape[-2:] == (self.size, self.size):
            return x
        if x.shape[-2:] == (FRAME_SIDE, FRAME_SIDE):
            cut = (FRAME_SIDE - MNIST_SIDE) // 2
            return x[..., cut:-cut, cut:-cut]
        return F.pad(resize(x, DIGIT_SIDE), [(MNIST_SIDE - DIGIT_SIDE) // 2] * 4, value=-1.0)


class Convolutional(Classifier):
    """Five convolutions and two linear layers."""

    def __init__(self, size: int, channels=(16, 32, 48, 48, 48), dim: int = 64):
        super().__init__(size, dim)
        self.body = nn.Sequential()
        c_in = 1
        for i, (c_out, stride) in enumerate(zip(channels, STRIDES[size], strict=True)):
            k = 5 if i == 0 and size > 8 else 3
            self.body.extend([nn.Conv2d(c_in, c_out, k, stride, k // 2), nn.SiLU()])
            c_in = c_out
        self.body.extend([nn.Flatten(), nn.Linear(c_in * 4 * 4, dim), nn.SiLU()])
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)  # (N,1,size,size) -> (N,dim)
        return features, self.head(features)


class MnistClassifier(Convolutional):
    """The design of assets/mnist_classifier.pt: 28x28 images, 128 features."""

    def __init__(self):
        super().__init__(MNIST_SIDE, (24, 48, 64, 64, 64), dim=128)


class Mix(nn.Module):
    """x + MLP(norm(x)) over the patches, then the same over the channels."""

    def __init__(self, patches: int, dim: int, hidden: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.over_patches = two_layers(patches, hidden)
        self.over_channels = two_layers(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.norms[0](x).mT).mT  # (N,patches,dim)
        return x + self.over_channels(self.norms[1](x))


class Mixer(Classifier):
    """Four layers of mixing over 4x4 patches; the features are the mean over the patches."""

    def __init__(self, size: int):
        dim = 64
        super().__init__(size, dim)
        self.patch = PATCHES[size]
        patches = (size // self.patch) ** 2
        self.embed = nn.Linear(self.patch**2, dim)
        self.places = nn.Parameter(torch.zeros(patches, dim))
        self.body = nn.Sequential(*(Mix(patches, dim, hidden=32) for _ in range(4)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p, side = self.patch, self.size // self.patch
        x = x.reshape(-1, side, p, side, p).transpose(2, 3).reshape(-1, side * side, p * p)
        features = self.norm(self.body(self.embed(x) + self.places)).mean(1)  # (N,dim)
        return features, self.head(features)


def two_layers(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))


def resize(x: Tensor, side: int) -> Tensor:
    """F.interpolate's bilinear as two products, whose derivative is deterministic everywhere."""
    rows, columns = (_bilinear(size, side, x.dtype, x.device) for size in x.shape[-2:])
    return rows @ x @ columns.mT  # (N,C,h,w) -> (N,C,side,side)


@lru_cache
def _bilinear(size, side, dtype, device):
    """The matrix (side,size) of a resize, kept: on a GPU, making it again is a copy each time."""
    with torch.inference_mode(False):  # else no gradient could ever save it
        identity = torch.eye(size, dtype=torch.float64)[None]
        matrix = F.interpolate(identity, side, mode="linear", align_corners=False)[0].T
        return matrix.to(device, dtype)
