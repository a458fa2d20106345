"""Judging generated images: an extractor, the reference statistics it is compared with, scores."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from common.data import fingerprint, load_images, to_unit
from common.errors import Stop
from common.extractors import Extractor, load_extractor
from common.reference_cache import read_moments, write_moments
from common.run import Run
from common.sampling import Sampler, load_sampler
from metrics import FeatureStatistics, Reference

CACHE_VERSION = 1


def make_judge(args, device) -> tuple:
    """Extractor and reference statistics; made before any training, so that errors come early."""
    extractor = load_extractor(args.extractor, device, args.inception_weights)
    reference = reference_statistics(
        args.dataset, args.data_dir, "test", extractor, device, args.cache_dir
    )
    return extractor, reference


def evaluate(
    sampler: Sampler, net: nn.Module, n: int, judge, run: Run | None, purpose: str
) -> dict:
    """FID and IS of n images, with n, extractor and reference; nothing is drawn for n = 0."""
    if not n:
        return {"fid": None, "is_mean": None, "is_std": None, "n": None}
    say = run.log if run else print
    if n >= 1000:
        say(f"{purpose}: {n} images, {n * sampler.steps:,} network evaluations")
    extractor, reference = judge
    try:
        # the Inception Score of a split of few images says nothing: at least 50 images in each
        splits = max(1, min(10, n // 50))
        images = sampler.many(net, n, purpose, run)
        return score_images(images, extractor, reference, splits) | {"splits": splits}
    except ValueError as error:
        raise Stop(f"{purpose}: {error}") from None


def score_images(
    batches: Iterable[Tensor], extractor: Extractor, reference: Reference, splits: int = 10
) -> dict[str, float | int | str]:
    """FID and Inception Score of generated images in [-1, 1], with what they were measured by."""
    if extractor.name != reference.extractor or (
        reference.weights_hash and extractor.weights_hash != reference.weights_hash
    ):
        raise ValueError(
            f"the reference was made with {reference.extractor} {reference.weights_hash}, "
            f"the images are measured with {extractor.name} {extractor.weights_hash}"
        )
    statistics = FeatureStatistics()
    with torch.no_grad():
        for x in batches:
            statistics.update(*extractor(x))
    fid = statistics.fid(reference)
    is_mean, is_std = statistics.inception_score(splits)
    return {
        "fid": fid,
        "is_mean": is_mean,
        "is_std": is_std,
        "n": statistics.n,
        "extractor": extractor.name,
        "reference": reference.name,
    }


def real_batches(
    pixels: Tensor, device: torch.device | str = "cpu", size: int = 500
) -> Iterator[Tensor]:
    """A real data set's uint8 images, batch by batch in [-1, 1] as generated ones are."""
    for part in pixels.split(size):
        yield to_unit(part.to(device))


def reference_statistics(
    dataset: str,
    data_dir: str,
    split: str,
    extractor: Extractor,
    device: torch.device | str,
    cache_dir: str = "cache",
) -> Reference:
    """The statistics of a data set's split, from the cache where it holds them."""
    pixels = load_images(dataset, data_dir, split)
    key = {
        "data": fingerprint(pixels),
        "split": f"{dataset} {split}",
        "extractor": extractor.name,
        "weights": extractor.weights_hash,
        "version": CACHE_VERSION,
    }
    name = f"{dataset}-{split}-{extractor.name}-{key['data'][:8]}-{key['weights'][:8]}.npz"
    path = Path(cache_dir) / name
    moments = read_moments(path, key)
    if moments is None:
        statistics = FeatureStatistics()
        with torch.no_grad():
            for x in real_batches(pixels, device):
                statistics.update(extractor(x)[0])
        moments = [part.cpu().numpy() for part in statistics.moments()]
        write_moments(path, key, *moments)
    home = "cpu" if torch.device(device).type == "mps" else device  # mps has no float64
    mean, cov = (torch.from_numpy(part).to(home) for part in moments)
    label = f"{dataset} {split}, {len(pixels)} images"
    return Reference(mean, cov, len(pixels), label, extractor.name, extractor.weights_hash)


def judge_checkpoint(path, args, device, run: Run | None = None, purpose="evaluation") -> dict:
    """FID and IS of the network in a checkpoint; another `purpose` starts from other noise."""
    net, sampler = load_sampler(path, device, args)
    return evaluate(sampler, net, args.eval_samples, make_judge(args, device), run, purpose)
