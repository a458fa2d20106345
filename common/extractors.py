"""Feature extractors: images in [-1, 1] go in, features and class probabilities come out.

`mnist`, `first` and `second` are the classifiers that assets/train_classifier.py made, `pixels` is
the means of an 8x8 grid of blocks, without a network and without probabilities, and `inception` is
pytorch-fid's InceptionV3. `Extractor.forward` is the only place that converts images, generated and
real ones.
"""

import hashlib
import io
import json

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from common.classifiers import Classifier, Convolutional, Mixer, MnistClassifier
from common.datasets import MNIST_SIDE
from common.errors import Stop
from common.flags import EXTRACTORS
from common.inception import FidInception, load_inception
from common.judge_files import check_made, made_for, weights_path
from common.machine import without_tf32

TRAINER = "assets.train_classifier"
GRID = 8  # cells of a side, whose means are the features of `pixels`


class Pixels(nn.Module):
    """The mean of each cell of an 8x8 grid; black pads the sides to a multiple of 8 pixels."""

    dim = GRID**2

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        block = x.shape[-2] // GRID, x.shape[-1] // GRID
        return F.avg_pool2d(x, block).flatten(1), None  # (N,1,H,W) -> (N,64)

    @staticmethod
    def fit(x: Tensor) -> Tensor:
        """Black around it; a row more below, a column more on the right where it is odd."""
        rows, columns = (-side % GRID for side in x.shape[-2:])
        frame = [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]
        return F.pad(x, frame, value=-1.0)


class Extractor(nn.Module):
    """A frozen network: images (N,1,H,W) in [-1, 1] -> features (N,dim), probabilities (N,K)."""

    def __init__(self, name: str, net: Classifier | Pixels | FidInception, weights_hash: str):
        super().__init__()
        self.name, self.dim, self.weights_hash = name, net.dim, weights_hash
        self.net = net.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in eval mode even if a network that contains this one is set to train."""
        return super().train(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if x.ndim != 4 or x.shape[1] != 1 or not x.is_floating_point():
            raise ValueError(
                f"the extractor takes float images (N,1,H,W), not {x.dtype} {tuple(x.shape)}"
            )
        # A saved image ends at ±1, so a measured one does; 0·x keeps an infinity visible, as nan.
        x = x.clamp(-1, 1) + 0 * x
        with torch.autocast(x.device.type, enabled=False), without_tf32():
            x = x if x.dtype == torch.float64 else x.float()
            weights = {k: v.to(x.dtype) for k, v in self.net.state_dict().items()}
            features, logits = functional_call(self.net, weights, self.net.fit(x))
            return features, None if logits is None else logits.softmax(1)


def load_extractor(
    name: str,
    device: torch.device | str,
    inception_weights: str | None = None,
    dataset: str = "mnist",
    side: int = MNIST_SIDE,
) -> Extractor:
    """The extractor on its device; what is missing or damaged is a Stop that says what to do.

    `first` and `second` are networks of one data set and one size of images, `side` pixels.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"extractor {name!r}: not one of {', '.join(EXTRACTORS)}")
    if name == "pixels":
        return Extractor(name, Pixels(), "blocks8x8").to(device)
    if name == "inception":
        net, digest = load_inception(inception_weights)
    else:
        net, digest = _load_classifier(name, dataset, side)
    return Extractor(name, net, digest[:16]).to(device)


def make_classifier(network: str, side: int) -> Classifier:
    """A network with new weights."""
    if network == "mnist":
        return MnistClassifier()
    return Convolutional(side) if network == "first" else Mixer(side)


def _load_classifier(network, dataset, side):
    dataset, side = made_for(dataset, side)
    path = weights_path(network, dataset, side)
    record = path.with_suffix(".json")
    again = f"--network {network}"
    if network != "mnist":
        again += f" --dataset {dataset} --image_size {side}"
    remedy = f"restore it with git checkout, or make it again with python -m {TRAINER} {again}"
    try:
        check_made(network, dataset, side)
    except ValueError as error:
        raise Stop(str(error), code=2) from None
    try:
        expected = json.loads(record.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Stop(f"{record}: missing or damaged; {remedy}") from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise Stop(
            f"{path}: damaged, its SHA-256 should be {expected[:16]}… according to "
            f"{record.name}; {remedy}"
        )
    net = make_classifier(network, side)
    net.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    return net, digest
