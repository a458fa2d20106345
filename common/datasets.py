"""The data sets, one entry each: what they are, which sizes they come in, where their files lie.

Plain Python, for -h to answer at once; common/data.py reads the files.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

MNIST_SIDE = 28
FRAME_SIDE = 32  # images framed in black: their middle is what they were


class DataSet(NamedTuple):
    """A data set of grey square images; `sizes` begins with its own, which --image_size changes."""

    meaning: str
    reader: str  # how common/data.py reads it: idx, digits or folder
    sizes: tuple[int, ...]
    train_images: int | None = None  # None: as many as are found
    folder: str = ""  # torchvision's name for it and for its folder
    sha256: Mapping[tuple[str, str], str] = MappingProxyType({})  # of the four unpacked IDX files


# torchvision checks what it downloads, never what it reads: hence the hashes
DATASETS = {
    "mnist": DataSet(
        "28x28 handwritten digits",
        "idx",
        (28, 8, 16, 32, 64),
        60000,
        "MNIST",
        {
            ("train", "images"): "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ("train", "labels"): "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ("test", "images"): "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ("test", "labels"): "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion": DataSet(
        "28x28 pieces of clothing (Fashion-MNIST)",
        "idx",
        (28, 8, 16, 32, 64),
        60000,
        "FashionMNIST",
        {
            ("train", "images"): "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ("train", "labels"): "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ("test", "images"): "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ("test", "labels"): "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    "digits": DataSet(
        "the 8x8 digits shipped with scikit-learn, no download", "digits", (8,), 1437
    ),
    "folder": DataSet(
        "the image files in --data_dir, in greyscale, cropped to their middle square",
        "folder",
        (28, 8, 16, 32, 64),
    ),
}
DIMENSIONS = {"images": 3, "labels": 1}
IMAGE_SIZES = sorted({size for entry in DATASETS.values() for size in entry.sizes})


def idx_file(split: str, what: str) -> str:
    """The name of an IDX file, the same for every data set of that form."""
    prefix = "train" if split == "train" else "t10k"
    return f"{prefix}-{what}-idx{DIMENSIONS[what]}-ubyte"


def archive_of(file: Path) -> Path:
    """The packed file beside it, which is read where the file itself is missing."""
    return file.with_name(f"{file.name}.gz")


def side_of(dataset: str, image_size: int | None) -> int:
    """The side of its images in pixels: --image_size, or the data set's own."""
    return image_size or DATASETS[dataset].sizes[0]


def check_size(dataset: str, image_size: int | None) -> None:
    """ValueError where a data set does not come in a size."""
    sizes = DATASETS[dataset].sizes
    if image_size is not None and image_size not in sizes:
        offered = ", ".join(str(size) for size in sorted(sizes))
        raise ValueError(f"--image_size {image_size}: {dataset} comes in {offered}")
