"""The files of the classifiers that judge: where they lie, which images each knows; no torch."""

from collections.abc import Callable
from pathlib import Path

from common.datasets import FRAME_SIDE, MNIST_SIDE, side_of
from common.locate import ROOT

ASSETS = ROOT / "assets"
NETWORKS = ("first", "second")  # one for each data set and size


def default_extractor(dataset: str, side: int) -> str:
    """What --extractor is unless given: a network for the images in use, or none."""
    if dataset == "digits" or (dataset, side) == ("mnist", MNIST_SIDE):
        return "mnist"
    return "first" if is_made("first", dataset, side) else "pixels"


def is_made(name: str, dataset: str, side: int) -> bool:
    """Whether an extractor can look at such images; half of a network's two files counts."""
    if name not in NETWORKS:
        return True
    path = weights_path(name, *made_for(dataset, side))
    return path.exists() or path.with_suffix(".json").exists()


def weights_path(network: str, dataset: str, side: int) -> Path:
    """Where the weights of a classifier lie."""
    if network == "mnist":
        return ASSETS / "mnist_classifier.pt"
    return ASSETS / "judges" / f"{dataset}-{side}-{network}.pt"


def made_for(dataset: str, side: int) -> tuple[str, int]:
    """The data set and size whose networks judge such images.

    Framed images are judged by their middle, scikit-learn's digits enlarged as MNIST was made.
    """
    if dataset == "digits":
        return "mnist", MNIST_SIDE
    return dataset, MNIST_SIDE if side == FRAME_SIDE else side


def check_made(name: str, dataset: str, side: int) -> None:
    """A ValueError where an extractor's network does not know such images."""
    if not is_made(name, dataset, side):
        raise ValueError(
            f"--extractor {name}: no network for {dataset} of {side}x{side} pixels; there are "
            f"those for {', '.join(existing(name)) or 'nothing'}, and --extractor pixels"
        )


def settled(name: str | None, dataset: str, image_size: int | None) -> str:
    """The extractor that the flags name, or the default one."""
    return name or default_extractor(dataset, side_of(dataset, image_size))


def warn_of_one_judge(
    name: str | None, dataset: str, image_size: int | None, log: Callable[[str], None]
) -> None:
    """Say so where the extractor that is optimised is also the only judge of the final images."""
    side, name = side_of(dataset, image_size), settled(name, dataset, image_size)
    if name == "pixels" and not any(is_made(other, dataset, side) for other in NETWORKS):
        log(
            "warning: `pixels`, which is optimised, is also the only judge of such images, so that "
            "nothing confirms a lower FID; with --extractor inception, `pixels` is not optimised"
        )


def existing(network: str) -> list[str]:
    """The data sets and sizes that a network was made for, such as 'mnist 8'."""
    paths = sorted((ASSETS / "judges").glob(f"*-{network}.pt"))
    return [" ".join(path.stem.split("-")[:2]) for path in paths]
