"""Images as one uint8 tensor: MNIST, and scikit-learn's 8x8 digits, which need no download.

Shape contract: images are (N, 1, H, W), uint8 in 0..255 at rest and float32 in [-1, 1] everywhere
else; `to_unit` and `to_pixels` are the only two places that convert.
"""

import hashlib
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from common.errors import Stop
from common.machine import stream

# SHA-256 of the four unpacked files: torchvision checks what it downloads, never what it reads.
MNIST_FILES = {
    ("train", "images"): (
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    ("train", "labels"): (
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    ("test", "images"): (
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    ("test", "labels"): (
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
DIGITS_TEST_EVERY = 5  # every fifth digit is a test image: 360 of 1797


def load_images(dataset: str, data_dir: str, split: str) -> torch.Tensor:
    """The images of a split ('train' or 'test') as uint8, checked against their known contents."""
    if dataset == "digits":
        return _digits(split)[0]
    raw = _read_mnist(data_dir, split, "images")
    return torch.from_numpy(raw[16:].reshape(-1, 1, 28, 28))


def images_to_plan(dataset: str) -> torch.Tensor:
    """As many training images as there are, for a plan: nothing is read from disk or downloaded."""
    if dataset == "digits":
        return _digits("train")[0]
    return torch.zeros(60000, 1, 28, 28, dtype=torch.uint8)


def load_labels(dataset: str, data_dir: str, split: str) -> torch.Tensor:
    """The labels of a split, int64."""
    if dataset == "digits":
        return _digits(split)[1]
    return torch.from_numpy(_read_mnist(data_dir, split, "labels")[8:]).long()


def fingerprint(images: torch.Tensor) -> str:
    """A short hash of the pixels and their shape: names a data set in args.json and in caches."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1.0)


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    """float [-1, 1] to uint8 0..255, what lies outside is cut off."""
    return x.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def _read_mnist(data_dir, split, what):
    name, expected = MNIST_FILES[split, what]
    path = Path(data_dir) / "MNIST" / "raw" / name
    if not path.is_file():
        _download_mnist(data_dir, path)
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror}); see --data_dir") from None
    if hashlib.sha256(raw).hexdigest() != expected:
        raise Stop(
            f"{path}: damaged, its SHA-256 should be {expected[:16]}…; delete it to download it "
            "again, or name a folder that holds MNIST/raw with --data_dir"
        )
    return raw


def _download_mnist(data_dir, path):
    from torchvision.datasets import MNIST  # slow to import, and only needed here

    print(f"{path} not found: downloading MNIST to {data_dir}")
    try:
        MNIST(data_dir, download=True)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise Stop(
            f"{path}: not found, and the download failed ({reason}); name a folder that holds "
            "MNIST/raw with --data_dir, or train on the built-in set with --dataset digits"
        ) from None
    if not path.is_file():
        raise Stop(f"{path}: still missing after the download; see --data_dir")


def _digits(split):
    # its own file, without its import: that takes longer than torch's
    home = Path(find_spec("sklearn").origin).parent
    table = np.loadtxt(home / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    values, labels = table[:, :-1], table[:, -1].astype(int)  # (1797, 64) in 0..16
    is_test = np.arange(len(values)) % DIGITS_TEST_EVERY == 0
    chosen = is_test if split == "test" else ~is_test
    pixels = np.rint(values[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels), torch.from_numpy(labels[chosen]).long()


class Batches:
    """Shuffled batches of one tensor, a pure function of (seed, epoch, i): no workers, no state.

    Every batch is full: the last one of an epoch is filled up from the epoch's first images.
    """

    def __init__(self, images: torch.Tensor, batch_size: int, seed: int, limit: int = 0):
        self.images, self.batch_size, self.seed = images, min(batch_size, len(images)), seed
        steps = -(-len(images) // self.batch_size)
        self.steps = min(steps, limit) if limit else steps
        self._epoch: int | None = None
        self._order = torch.empty(0, dtype=torch.long)  # of the epoch at hand

    def __call__(self, epoch: int, i: int) -> torch.Tensor:
        """Batch i of an epoch, in [-1, 1], (B, 1, H, W)."""
        if self._epoch != epoch:
            n, device = len(self.images), self.images.device
            generator = stream(device, self.seed, "shuffle", epoch)
            order = torch.randperm(n, generator=generator, device=device)
            self._epoch, self._order = epoch, torch.cat([order, order[: self.batch_size]])
        chosen = self._order[i * self.batch_size : (i + 1) * self.batch_size]
        return to_unit(self.images[chosen])
