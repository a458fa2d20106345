"""What is measured of generated images, and by whom: the one table that all results follow."""

from collections.abc import Callable

from metrics import FeatureStatistics, Reference


def _fid(images: FeatureStatistics, reference: Reference, splits: int) -> tuple:
    return (images.fid(reference),)


def _kid(images: FeatureStatistics, reference: Reference, splits: int) -> tuple:
    return (images.kid(reference),)


def _score(images: FeatureStatistics, reference: Reference, splits: int) -> tuple:
    return images.inception_score(splits) if images.probs else (None, None)


Metrics = dict[tuple[str, ...], Callable[[FeatureStatistics, Reference, int], tuple]]

# What is measured, in one place: a metric's columns, and their values from the statistics of the
# images, the reference and the splits of the Inception Score. METRICS are those of a run's own
# extractor: scores.csv and summary.json take their columns from here.
METRICS: Metrics = {("fid",): _fid, ("is_mean", "is_std"): _score, ("kid",): _kid}

# Who else judges final images, and what they measure. A run may have been tuned to its own
# extractor; these have other weights, other training images, or none.
JUDGES: dict[str, Metrics] = {
    "first": {("fid_first",): _fid, ("kid_first",): _kid},
    "second": {
        ("fid_second",): _fid,
        ("kid_second",): _kid,
        ("precision", "recall"): lambda images, reference, _: images.precision_recall(reference),
        ("confidence",): lambda images, *_: (images.confidence(),),
    },
    "pixels": {("fid_pixels",): _fid, ("kid_pixels",): _kid},
}
COLUMNS = tuple(column for columns in METRICS for column in columns)
JUDGES_COLUMNS = tuple(c for metrics in JUDGES.values() for columns in metrics for c in columns)


def values(
    metrics: Metrics, images: FeatureStatistics, reference: Reference, splits: int
) -> dict[str, float | None]:
    """Column -> value of each of the metrics."""
    measured = {}
    for columns, values_of in metrics.items():
        measured |= dict(zip(columns, values_of(images, reference, splits), strict=True))
    return measured
