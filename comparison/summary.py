"""The tables of docs/comparison.md: methods of all scales beside what they are compared with."""

from statistics import mean
from typing import NamedTuple

from common.locate import ROOT
from common.tables import markdown, read_text_csv
from comparison.differences import by_the_rule, compared, paired
from comparison.rows import JUDGED_BY, JUDGES, REGIMES, headline
from comparison.scales import (
    DRAWN,
    DRAWN_SCALED,
    DRAWN_START,
    DRAWN_TAU,
    FOUR,
    FOUR_OF_FEW,
    KNOTS_HELD,
    KNOTS_OF_FEW,
    KNOTS_OF_MORE,
)

RESULTS = ROOT / "docs" / "results"
SHORT = {"cpu": "8×8", "cpu16": "16×16", "fashion": "Fashion-MNIST"}
CLIP, NO_CLIP = REGIMES
HEAD = ["images", "row", "beside", "seeds", *JUDGES.values(), "recall", "all judges", "by the rule"]


class Compared(NamedTuple):
    """A method and what it is compared with, by one sampler; a line of a table for each scale."""

    method: str
    base: str = "default"
    clip: str = CLIP


LATE, LATE_UNCLIPPED = "exact, late", "exact, late, no clipping"
ALONE_UNCLIPPED, END = "schedule alone, no clipping", "end 0.98"
PAPER = "zeroth-order, no clipping"
SEARCHES = "random", "bayesian", "grid"
# the name of a table's mark -> its comparisons
TABLES: dict[str, list[Compared]] = {
    "sampling": [
        *map(Compared, (DRAWN_TAU, FOUR, KNOTS_OF_MORE, FOUR_OF_FEW, KNOTS_OF_FEW)),
        *map(Compared, (DRAWN_SCALED, DRAWN_START)),
        *(Compared("schedule alone, eps_scale 1.15", base) for base in (DRAWN_SCALED, "default")),
        Compared(FOUR, DRAWN_TAU),
        Compared(KNOTS_OF_MORE, FOUR),
    ],
    "unclipped": [
        *(
            Compared(method, clip=NO_CLIP)
            for method in (END, "end 0.9", "tau 4, end 0.9", DRAWN, KNOTS_HELD)
        ),
        Compared(ALONE_UNCLIPPED, END, NO_CLIP),
        Compared(ALONE_UNCLIPPED, DRAWN, NO_CLIP),
    ],
    "bilevel": [
        *map(Compared, ("exact", LATE, "exact knots")),
        Compared("exact knots", KNOTS_HELD),
        *map(Compared, ("zeroth-order", PAPER)),
    ],
    "bilevel_unclipped": [
        Compared("exact, no clipping", END, NO_CLIP),
        Compared(LATE_UNCLIPPED, END, NO_CLIP),
        Compared(PAPER, "default", NO_CLIP),
        Compared(PAPER, END, NO_CLIP),
    ],
    "trained": [
        *map(Compared, (END, "end 0.9", "tau 4, end 0.9", "tau 1.15", "tau 2", "input scale 0.5")),
        *map(Compared, (KNOTS_HELD, "log SNR linear", "min-SNR", "adaptive times")),
        Compared("exact, late's schedule, anew"),
        *(Compared(name) for search in SEARCHES for name in (search, f"{search}'s schedule, anew")),
    ],
}


class Regime(NamedTuple):
    """The rows of a scale by one sampler, and what the tests say of them."""

    rows: list[dict]
    tested: dict[tuple[str, str], dict[str, tuple[str, str]]]


def regimes_of(scores: dict[str, list[dict]]) -> dict[tuple[str, str], Regime]:
    """By scale and sampler; `scores` are the rows of each scale."""
    rows = {(s, clip): headline(scores[s], clip) for s in scores for clip in (CLIP, NO_CLIP)}
    return {place: Regime(of_place, compared(of_place)) for place, of_place in rows.items()}


def table_of(lines: list[Compared], regimes: dict[tuple[str, str], Regime]) -> str:
    """The comparisons that there are rows for, a line for each scale."""
    places = [(line, scale) for line in lines for scale in SHORT]
    made = [line_of(line, scale, regimes[scale, line.clip]) for line, scale in places]
    return markdown(HEAD, [cells for cells in made if cells])


def line_of(line: Compared, scale: str, regime: Regime) -> list[str]:
    """Means of the seeds that both have, and by how many percent each seed differs."""
    ours, base = ([r for r in regime.rows if r["method"] == m] for m in (line.method, line.base))
    by_judge = [paired(ours, base, judge) for judge in JUDGED_BY]
    if not by_judge[0]:
        return []
    recalls = reversed(list(zip(*paired(ours, base, "recall"), strict=True)))
    cells = regime.tested.get((line.method, line.base))
    return [
        SHORT[scale],
        f"`{line.method}`",
        f"`{line.base}`",
        str(len(by_judge[0])),
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
    return f"{value:#.3g}".rstrip(".").removeprefix("0")


def all_tables() -> dict[str, str]:
    """All by the names of their marks."""
    scores = {scale: read_text_csv(RESULTS / f"reproduce_{scale}.csv") for scale in SHORT}
    regimes = regimes_of(scores)
    return {name: table_of(lines, regimes) for name, lines in TABLES.items()}
