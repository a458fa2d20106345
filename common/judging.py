"""Judging generated images: an extractor, the reference statistics it is compared with, scores."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from common.data import Source, fingerprint, to_unit
from common.errors import Stop
from common.extractors import Extractor, load_extractor
from common.reference_cache import read_statistics, write_statistics
from common.run import Run
from common.sampling import Sampler, SamplerSettings, load_sampler
from metrics import FeatureStatistics, Reference

CACHE_VERSION = 2

# What is measured, in one place: a metric's columns, and their values from the statistics of the
# images, the reference and the splits of the Inception Score. score(), scores.csv and summary.json
# take their columns from here.
METRICS: dict[tuple[str, ...], Callable] = {
    ("fid",): lambda images, reference, splits: (images.fid(reference),),
    ("is_mean", "is_std"): lambda images, reference, splits: images.inception_score(splits),
    ("kid",): lambda images, reference, splits: (images.kid(reference),),
}
COLUMNS = tuple(column for columns in METRICS for column in columns)


class Judge:
    """One extractor and the statistics of real images by it: what a FID is measured with."""

    def __init__(self, extractor: Extractor, reference: Reference):
        if extractor.name != reference.extractor or (
            reference.weights_hash and extractor.weights_hash != reference.weights_hash
        ):
            raise ValueError(
                f"the reference was made with {reference.extractor} {reference.weights_hash}, "
                f"the images are measured with {extractor.name} {extractor.weights_hash}"
            )
        self.extractor, self.reference = extractor, reference

    @classmethod
    def load(
        cls,
        extractor: str,
        source: Source,
        device: torch.device | str,
        cache_dir: str = "cache",
        inception_weights: str | None = None,
        split: str = "test",
    ) -> "Judge":
        """Loaded before any training, so that errors come early."""
        network = load_extractor(extractor, device, inception_weights)
        return cls(network, reference_statistics(source, split, network, device, cache_dir))

    @classmethod
    def from_flags(cls, device, /, *, extractor, cache_dir, inception_weights, **flags) -> "Judge":
        """From the flags of a script: `**vars(args)`."""
        source = Source.from_flags(**flags)
        return cls.load(extractor, source, device, cache_dir, inception_weights)

    def score(self, batches: Iterable[Tensor], splits: int = 10) -> dict[str, float | int | str]:
        """Every metric of generated images, with what they were measured by."""
        statistics = FeatureStatistics()
        with torch.no_grad():
            for x in batches:
                statistics.update(*self.extractor(x))
        scores: dict[str, float | int | str] = {}
        for columns, values_of in METRICS.items():
            values = values_of(statistics, self.reference, splits)
            scores |= dict(zip(columns, values, strict=True))
        return {
            **scores,
            "n": statistics.n,
            "extractor": self.extractor.name,
            "reference": self.reference.name,
        }


def evaluate(
    sampler: Sampler,
    net: nn.Module,
    n: int,
    judge: Judge | None,
    purpose: str,
    run: Run | None = None,
) -> dict:
    """The scores of n images, with n, extractor and reference; nothing is drawn for n = 0."""
    if not n or judge is None:
        return dict.fromkeys([*COLUMNS, "n"])
    if n >= 1000:
        log = run.log if run else print
        log(f"{purpose}: {n} images, {n * sampler.steps:,} network evaluations")
    try:
        # the Inception Score of a split of few images says nothing: at least 50 images in each
        splits = max(1, min(10, n // 50))
        images = sampler.many(net, n, purpose, run.poll if run else None)
        return judge.score(images, splits) | {"splits": splits}
    except ValueError as error:
        raise Stop(f"{purpose}: {error}") from None


def judge_checkpoint(
    path,
    judge: Judge,
    device: torch.device | str,
    n: int,
    settings: SamplerSettings | None = None,
    purpose: str = "evaluation",
    run: Run | None = None,
) -> dict:
    """The scores of the network in a checkpoint; another `purpose` starts from other noise."""
    net, sampler = load_sampler(path, device, settings)
    return evaluate(sampler, net, n, judge, purpose, run)


def real_batches(
    pixels: Tensor, device: torch.device | str = "cpu", size: int = 500
) -> Iterator[Tensor]:
    """A real data set's uint8 images, batch by batch in [-1, 1] as generated ones are."""
    for part in pixels.split(size):
        yield to_unit(part.to(device))


def reference_statistics(
    source: Source,
    split: str,
    extractor: Extractor,
    device: torch.device | str,
    cache_dir: str = "cache",
) -> Reference:
    """The statistics of a data set's split, from the cache where it holds them."""
    pixels = source.images(split)
    data, weights = fingerprint(pixels), extractor.weights_hash
    key = {
        "data": data,
        "split": f"{source.name} {split}",
        "extractor": extractor.name,
        "weights": weights,
        "version": CACHE_VERSION,
    }
    name = f"{source.name.replace(' ', '-')}-{split}-{extractor.name}-{data[:8]}-{weights[:8]}.npz"
    path = Path(cache_dir) / name
    arrays = read_statistics(path, key)
    if arrays is None:
        statistics = FeatureStatistics()
        with torch.no_grad():
            for x in real_batches(pixels, device):
                statistics.update(extractor(x)[0])
        tensors = *statistics.moments(), torch.cat(statistics.sample)
        arrays = tuple(part.cpu().numpy() for part in tensors)
        write_statistics(path, key, *arrays)
    home = "cpu" if torch.device(device).type == "mps" else device  # mps has no float64
    mean, cov, sample = (torch.from_numpy(part).to(home) for part in arrays)
    label = f"{source.name} {split}, {len(pixels)} images"
    made_by = extractor.name, extractor.weights_hash
    return Reference(mean, cov, len(pixels), label, *made_by, sample)
