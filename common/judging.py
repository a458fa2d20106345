"""Judging generated images: an extractor, the reference statistics it is compared with, scores."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from common.data import Source, fingerprint, to_unit
from common.errors import Stop
from common.extractors import Extractor, load_extractor
from common.judge_files import default_extractor, is_made
from common.processes import in_turn
from common.reference_cache import read_statistics, write_statistics
from common.run import Run
from common.sampling import Sampler, SamplerSettings, load_sampler
from common.scores import COLUMNS, JUDGES, JUDGES_COLUMNS, METRICS, values
from metrics import FeatureStatistics, Reference, float64_home

CACHE_VERSION = 2
# the flags that choose judges, beside those of the images
JUDGED_BY = ("data_dir", "cache_dir", "extractor", "inception_weights", "eval_samples")


class Judge:
    """One extractor and the statistics of real images by it: what a FID is measured with."""

    columns = COLUMNS

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
        extractor: str | None,
        source: Source,
        device: torch.device | str,
        cache_dir: str = "cache",
        inception_weights: str | None = None,
        split: str = "test",
    ) -> "Judge":
        """Loaded before any training, so that errors come early; no extractor is the default one.

        This is the one place where a default is settled: it depends on the images.
        """
        name = extractor or default_extractor(source.dataset, source.size)
        network = load_extractor(name, device, inception_weights, source.dataset, source.size)
        return cls(network, reference_statistics(source, split, network, device, cache_dir))

    @classmethod
    def from_flags(
        cls, device, /, *, extractor, cache_dir, inception_weights, split="test", **flags
    ) -> "Judge":
        """From the flags of a script: `**vars(args)`."""
        source = Source.from_flags(**flags)
        return cls.load(extractor, source, device, cache_dir, inception_weights, split)

    def score(self, batches: Iterable[Tensor], splits: int = 10) -> dict:
        """Every metric of generated images, with what they were measured by."""
        return Judges(self).score(batches, splits)


class Judges:
    """A run's own judge and those that nothing was tuned to: all of them see the same images."""

    columns = (*COLUMNS, *JUDGES_COLUMNS)

    def __init__(self, main: Judge, others: dict[str, Judge] | None = None):
        self.main, self.others = main, others or {}

    @classmethod
    def from_flags(cls, device, /, *, eval_samples, split="test", **flags) -> "Judges":
        """From the flags of a script; without final images the run's own judge is enough.

        `split` is the reference of the run's own judge, the others' is always the test images.
        """
        main = Judge.from_flags(device, split=split, **flags)
        if not eval_samples:
            return cls(main)
        source = Source.from_flags(**flags)
        known = [name for name in JUDGES if is_made(name, source.dataset, source.size)]
        return cls(main, {n: Judge.from_flags(device, **flags | {"extractor": n}) for n in known})

    def __str__(self) -> str:
        return f"FID by {self.main.extractor.name} against {self.main.reference.name}"

    def score(self, batches: Iterable[Tensor], splits: int = 10) -> dict:
        """Every metric of generated images by every judge, with what they were measured by."""
        judges = [*self.others.values(), self.main]
        extractors = {judge.extractor.name: judge.extractor for judge in judges}
        statistics = {name: FeatureStatistics() for name in extractors}  # one pass for each

        def seen(x):
            return {name: tuple(extractor(x)) for name, extractor in extractors.items()}

        with torch.no_grad():
            for by_extractor in in_turn(batches, seen, self.main.reference.mean.device):
                for name, features in by_extractor.items():
                    statistics[name].update(*features)
        images = statistics[self.main.extractor.name]
        scores = values(METRICS, images, self.main.reference, splits) | {
            "n": images.n,
            "extractor": self.main.extractor.name,
            "reference": self.main.reference.name,
        }
        if self.others:
            scores |= dict.fromkeys(JUDGES_COLUMNS)
        for name, judge in self.others.items():
            scores |= values(JUDGES[name], statistics[name], judge.reference, splits)
        return scores


def evaluate(
    sampler: Sampler,
    net: nn.Module,
    n: int,
    judge: Judge | Judges | None,
    purpose: str,
    run: Run | None = None,
) -> dict:
    """The scores of n images, with n, extractor and reference; nothing is drawn for n = 0."""
    if not n or judge is None:
        return dict.fromkeys([*(judge or Judge).columns, "n"])
    if n >= 1000:
        log = run.log if run else print
        log(f"{purpose}: {n} images, {n * sampler.steps:,} network evaluations")
    try:
        # the Inception Score of a split of few images says nothing: at least 50 images in each
        splits = max(1, min(10, n // 50))
        images = sampler.many(net, n, purpose, run.poll if run else None)
        return judge.score(images, splits) | {"splits": splits}
    except ValueError as error:  # a lower rate from here on would come too late
        reason = "the network has diverged, and a new run requires a lower --lr"
        raise Stop(f"{purpose}: {error}: {reason}") from None


def judge_checkpoint(
    path,
    judge: Judge | Judges,
    device: torch.device | str,
    n: int,
    settings: SamplerSettings | None = None,
    purpose: str = "evaluation",
    run: Run | None = None,
    **changes,
) -> dict:
    """The scores of the network in a checkpoint; another `purpose` starts from other noise.

    `changes` replace arguments of its run.
    """
    net, sampler = load_sampler(path, device, settings, **changes)
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
    mean, cov, sample = (torch.from_numpy(part).to(float64_home(device)) for part in arrays)
    label = f"{source.name} {split}, {len(pixels)} images"
    made_by = extractor.name, extractor.weights_hash
    return Reference(mean, cov, len(pixels), label, *made_by, sample)
