"""Images as one uint8 tensor: which, where from, at which size.

Shape contract: images are (N, 1, S, S), uint8 in 0..255 at rest and float32 in [-1, 1] everywhere
else; `to_unit` and `to_pixels` are the only two places that convert.
"""

import gzip
import hashlib
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.datasets import DATASETS, archive_of, idx_file, side_of
from common.errors import Stop
from common.machine import stream

DIGITS_TEST_EVERY = 5  # every fifth digit is a test image: 360 of 1797
FOLDER_TEST_EVERY = 10  # every tenth image of a folder without train/ and test/
IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm"}
FRAMED = 32  # MNIST's 28x28 images in a black frame: 8 and 16 divide it, it divides 64


class Source(NamedTuple):
    """Which images a run uses: a data set, the folder of its files, the side of an image."""

    dataset: str = "mnist"
    data_dir: str = "data"
    image_size: int | None = None  # None: the data set's own

    @classmethod
    def from_flags(cls, *, dataset, data_dir, image_size=None, **_) -> "Source":
        """From the flags of a script: `**vars(args)`."""
        return cls(dataset, data_dir, image_size)

    @property
    def size(self) -> int:
        return side_of(self.dataset, self.image_size)

    @property
    def name(self) -> str:
        """The data set, with the size where it is not its own."""
        native = self.size == DATASETS[self.dataset].sizes[0]
        return self.dataset if native else f"{self.dataset} {self.size}x{self.size}"

    def images(self, split: str) -> Tensor:
        """A split ('train' or 'test') as uint8 (N,1,S,S), checked against its known contents."""
        return IMAGES[DATASETS[self.dataset].reader](self, split)

    def labels(self, split: str) -> Tensor:
        """The labels of a split, int64."""
        if reader := LABELS.get(DATASETS[self.dataset].reader):
            return reader(self, split)
        raise Stop(f"--dataset {self.dataset} has no labels", code=2)

    def planned_images(self) -> Tensor:
        """As many training images as there are, for a plan: none is read or downloaded."""
        count = DATASETS[self.dataset].train_images
        if count is None:
            count = len(_files_of_folder(self.data_dir, "train"))
        return torch.zeros(count, 1, self.size, self.size, dtype=torch.uint8)


def framed_to(images: Tensor, size: int) -> Tensor:
    """28x28 images, framed in black to 32x32, as the rounded means of blocks, or each pixel as a
    block of the larger image."""
    if size == images.shape[-1]:
        return images
    images = F.pad(images, [(FRAMED - images.shape[-1]) // 2] * 4)
    if size > FRAMED:
        k = size // FRAMED
        return images.repeat_interleave(k, 2).repeat_interleave(k, 3)
    k = FRAMED // size
    blocks = images.unfold(2, k, k).unfold(3, k, k).int().sum((-1, -2), dtype=torch.int32)
    return ((blocks + k * k // 2) // (k * k)).to(torch.uint8)  # (N,1,size,size)


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


def _read_idx(dataset, data_dir, split, what):
    entry = DATASETS[dataset]
    path = Path(data_dir) / entry.folder / "raw" / idx_file(split, what)
    expected = entry.sha256[split, what]
    if not path.is_file():
        if (archive := archive_of(path)).is_file():
            raw = _unpacked(archive)
            if raw is None or hashlib.sha256(raw).hexdigest() != expected:
                raise Stop(f"{archive}: damaged, or not the file of {entry.folder}; delete it")
            return raw
        _download(dataset, data_dir, path)
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror}); see --data_dir") from None
    if hashlib.sha256(raw).hexdigest() != expected:
        raise Stop(
            f"{path}: not the file of {entry.folder}, whose SHA-256 is {expected[:16]}…: damaged, "
            "or other data in its place; name another folder with --data_dir, or train on image "
            "files of your own with --dataset folder"
        )
    return raw


def _unpacked(archive):
    try:
        packed = archive.read_bytes()
    except OSError as error:
        raise Stop(f"{archive}: cannot be read ({error.strerror}); see --data_dir") from None
    try:
        return np.frombuffer(bytearray(gzip.decompress(packed)), dtype=np.uint8)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None


def _download(dataset, data_dir, path):
    from torchvision import datasets  # slow to import, and only needed here

    name = DATASETS[dataset].folder
    if _image_files(Path(data_dir)):  # someone's own pictures: no place for a download
        raise Stop(
            f"{path}: not found, but {data_dir} contains image files; train on them with "
            f"--dataset folder, or name a folder for {name} with --data_dir",
            code=2,
        )
    print(f"{path} not found: downloading {name} to {data_dir}")
    try:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as away:
            raw = Path(away) / name / "raw"
            raw.mkdir(parents=True)
            for archive in path.parent.glob("*.gz"):  # need not be fetched again
                shutil.copy(archive, raw)
            getattr(datasets, name)(away, download=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            for file in raw.iterdir():
                file.replace(path.parent / file.name)  # whole, as another process may read it
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise Stop(
            f"{path}: not found, and the download failed ({reason}); name a folder that holds "
            f"{name}/raw with --data_dir, or train on the built-in set with --dataset digits"
        ) from None
    if not path.is_file():
        raise Stop(f"{path}: still missing after the download; see --data_dir")


def _image_files(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_FILES and p.is_file())


def _files_of_folder(data_dir, split):
    """Those in its train/ or test/, or every tenth file in order of the names as the test split."""
    root = Path(data_dir)
    if not root.is_dir():
        raise Stop(f"--data_dir {data_dir}: no such folder", code=2)
    divided = all((root / name).is_dir() for name in ("train", "test"))
    files = _image_files(root / split if divided else root)
    if not divided:
        is_test = [i % FOLDER_TEST_EVERY == 0 for i in range(len(files))]
        files = [p for p, test in zip(files, is_test, strict=True) if test == (split == "test")]
    if len(files) < 2:
        raise Stop(
            f"--dataset folder: {len(files)} {split} images in {data_dir}; it takes PNG, JPEG and "
            "other image files, in train/ and test/ or together (every tenth is a test image)",
            code=2,
        )
    return files


def _read_folder(data_dir, split, size):
    from PIL import Image  # comes with matplotlib; only needed here

    images = []
    for path in _files_of_folder(data_dir, split):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as picture:
                    images.append(_grey_square(picture, size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
            raise Stop(f"{path}: cannot be read as an image ({error})") from None
    return torch.from_numpy(np.stack(images))[:, None]


def _grey(picture):
    """In 8-bit grey: 16 bits are scaled, and what is transparent shows a white ground."""
    from PIL import Image

    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values are not those of 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its values are not whole numbers")
    if "A" in picture.getbands() or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert("L")


def _grey_square(picture, size):
    """The middle square in grey, at another size: means of blocks when it shrinks."""
    from PIL import Image

    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    square = _grey(picture).crop((left, top, left + side, top + side))
    how = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    return np.asarray(square.resize((size, size), how), dtype=np.uint8)


def _digits(split):
    # its own file, without its import: that takes longer than torch's
    home = Path(find_spec("sklearn").origin).parent
    table = np.loadtxt(home / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    values, labels = table[:, :-1], table[:, -1].astype(int)  # (1797, 64) in 0..16
    is_test = np.arange(len(values)) % DIGITS_TEST_EVERY == 0
    chosen = is_test if split == "test" else ~is_test
    pixels = np.rint(values[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels), torch.from_numpy(labels[chosen]).long()


def _idx_images(source: Source, split: str) -> Tensor:
    raw = _read_idx(source.dataset, source.data_dir, split, "images")
    return framed_to(torch.from_numpy(raw[16:].reshape(-1, 1, 28, 28)), source.size)


def _idx_labels(source: Source, split: str) -> Tensor:
    raw = _read_idx(source.dataset, source.data_dir, split, "labels")
    return torch.from_numpy(raw[8:]).long()


# how each `reader` of datasets.py reads
IMAGES: dict[str, Callable[[Source, str], Tensor]] = {
    "idx": _idx_images,
    "digits": lambda source, split: _digits(split)[0],
    "folder": lambda source, split: _read_folder(source.data_dir, split, source.size),
}
LABELS: dict[str, Callable[[Source, str], Tensor]] = {
    "idx": _idx_labels,
    "digits": lambda source, split: _digits(split)[1],
}


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
