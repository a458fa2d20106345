"""The tables of docs/comparison.md: methods of all scales beside what they are compared with."""

from statistics import mean
from typing import NamedTuple

from common.locate import ROOT
from common.tables import markdown, read_text_csv
from comparison.differences import FEWEST, by_the_rule, compared, paired
from comparison.rows import JUDGED_BY, headline
from comparison.scales import (
    DRAWN,
    DRAWN_SCALED,
    DRAWN_START,
    DRAWN_TAU,
    FOUR,
    FOUR_OF_FEW,
    KNOTS_OF_FEW,
    KNOTS_OF_MORE,
)

RESULTS = ROOT / "docs" / "results"
SHORT = {"cpu": "8×8", "cpu16": "16×16", "fashion": "Fashion-MNIST"}
CLIP, NO_CLIP = "True", "False"
HEAD = ["images", "row", "beside", "seeds", "run's extractor", "`second`", "`pixels`", "recall"]
HEAD += ["all judges", "by the rule"]


class Pair(NamedTuple):
    """A method and what it is compared with, by one sampler; a line of a table for each scale."""

    method: str
    base: str = "default"
    clip: str = CLIP


LATE, LATE_FREE = "exact, late", "exact, late, no clipping"
FREE, HELD_98 = "schedule alone, no clipping", "end 0.98"
PAPER = "zeroth-order, no clipping"
SEARCHES = "random", "bayesian", "grid"
# the name of a table's mark -> its pairs
TABLES: dict[str, list[Pair]] = {
    "sampling": [
        *map(Pair, (DRAWN_TAU, FOUR, KNOTS_OF_MORE, FOUR_OF_FEW, KNOTS_OF_FEW)),
        *map(Pair, (DRAWN_SCALED, DRAWN_START)),
        Pair(FOUR, DRAWN_TAU),
        Pair(KNOTS_OF_MORE, FOUR),
    ],
    "unclipped": [
        *(Pair(method, clip=NO_CLIP) for method in (HELD_98, "end 0.9", "tau 4, end 0.9", DRAWN)),
        Pair(FREE, HELD_98, NO_CLIP),
        Pair(FREE, DRAWN, NO_CLIP),
    ],
    "bilevel": [*map(Pair, ("exact", LATE, "exact knots", "zeroth-order", PAPER))],
    "bilevel_unclipped": [
        Pair("exact, no clipping", HELD_98, NO_CLIP),
        Pair(LATE_FREE, HELD_98, NO_CLIP),
        Pair(PAPER, "default", NO_CLIP),
        Pair(PAPER, HELD_98, NO_CLIP),
    ],
    "trained": [
        *map(Pair, (HELD_98, "end 0.9", "tau 4, end 0.9", "tau 1.15", "tau 2", "input scale 0.5")),
        *map(Pair, ("min-SNR", "adaptive times", "exact, late's schedule, anew")),
        *(Pair(name) for search in SEARCHES for name in (search, f"{search}'s schedule, anew")),
    ],
}


def of_pairs(pairs: list[Pair], scores: dict[str, list[dict]]) -> str:
    """The lines that there are rows for; `scores` are the rows of each scale."""
    places = [(pair, scale) for pair in pairs for scale in SHORT]
    lines = [of_pair(pair, scale, headline(scores[scale], pair.clip)) for pair, scale in places]
    return markdown(HEAD, [line for line in lines if line])


def of_pair(pair: Pair, scale: str, rows: list[dict]) -> list[str]:
    """Means of the seeds that both have, and by how many percent each seed differs."""
    ours, base = ([r for r in rows if r["method"] == name] for name in (pair.method, pair.base))
    by_judge = [paired(ours, base, judge) for judge in JUDGED_BY]
    if not by_judge[0]:
        return []
    seeds = len(by_judge[0])
    recalls = reversed(list(zip(*paired(ours, base, "recall"), strict=True)))
    cells = compared(rows).get((pair.method, pair.base), {}) if seeds >= FEWEST else {}
    return [
        SHORT[scale],
        f"`{pair.method}`",
        f"`{pair.base}`",
        str(seeds),
        *map(change, by_judge),
        " → ".join(f"{mean(values):.2f}".removeprefix("0") for values in recalls),
        agreement(by_judge),
        by_the_rule(cells) if cells else "not tested",
    ]


def change(pairs: list[tuple[float, float]]) -> str:
    """The mean of the base, that of the method, and the range of the changes in percent."""
    percent = sorted(round(100 * (a / b - 1)) for a, b in pairs)
    before, after = (three(mean(values)) for values in reversed(list(zip(*pairs, strict=True))))
    low, high = (f"{x:+d}" if x else "0" for x in (percent[0], percent[-1]))
    return f"{before} → {after} ({low if low == high else f'{low} to {high}'} %)".replace("-", "−")


def agreement(by_judge: list[list[tuple[float, float]]]) -> str:
    """In how many seeds all judges see a lower FID, a higher one, the same, or are split."""
    counts = {"lower": 0, "higher": 0, "equal": 0, "split": 0}
    for of_seed in zip(*by_judge, strict=True):
        signs = {(a > b) - (a < b) for a, b in of_seed}
        name = {-1: "lower", 1: "higher", 0: "equal"}[signs.pop()] if len(signs) == 1 else "split"
        counts[name] += 1
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def three(value: float) -> str:
    """Three digits, without a leading zero."""
    text = f"{value:.3g}" if value < 1 else f"{value:#.3g}"
    return text.rstrip(".").removeprefix("0")


def all_tables() -> dict[str, str]:
    """All by the names of their marks."""
    scores = {scale: read_text_csv(RESULTS / f"reproduce_{scale}.csv") for scale in SHORT}
    return {name: of_pairs(pairs, scores) for name, pairs in TABLES.items()}
