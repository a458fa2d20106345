"""Tables of the bilevel runs: both terms of their gradients, what they learned beside noise."""

import statistics

from common.families import FAMILIES, NAMES, knots_table
from common.tables import markdown
from comparison.rows import grouped, numbers
from comparison.scales import KNOTS, METHODS

OUTER = 0.05  # the share of noise beyond either end of a band
NONE = "No bilevel run whose schedule moved has left its log here."


def terms_table(slopes: list[dict]) -> str:
    """A row a run and parameter: the medians of both terms, and the last average of their sum."""
    lines = []
    for run, rows in grouped(slopes, "method", "seed").items():
        for name in NAMES:
            terms = (numbers(rows, f"{term}_{name}") for term in ("direct", "implicit"))
            medians = (f"{statistics.median(term):.0f}" for term in terms)
            average, noise = (numbers(rows[-1:], f"{part}_{name}") for part in ("grad", "spread"))
            last = f"{average[0]:.0f} ± {noise[0]:.0f}" if average and noise else "–"
            lines.append([*run, name, str(len(rows)), *medians, last])
    head = ["method", "seed", "parameter", "updates", "direct", "implicit", "average of the sum"]
    return markdown(head, lines) if lines else NONE


def noise_table(rows: list[dict]) -> str:
    """A row a run: each learned value, and between which ends noise alone leaves it."""
    lines = []
    for run, of_run in grouped(rows, "method", "seed").items():
        cells = {row["parameter"]: noise_cell(row) for row in of_run}
        lines.append([*run, *(cells.get(name, "–") for name in NAMES)])
    if not lines:
        return NONE
    counts = "; ".join(
        f"{method} {sum(map(is_outside, of_method))} of {len(of_method)} "
        f"(by chance at most {sum(map(chance, of_method)):.1f})"
        for (method,), of_method in grouped(rows, "method").items()
    )
    return f"{markdown(['method', 'seed', *NAMES], lines)}\n\nOutside: {counts}."


def chance(row: dict) -> float:
    """How likely noise leaves a value outside: beyond an end that is a bound there is nothing."""
    family = knots_table(1) if KNOTS in METHODS[row["method"]].flags else FAMILIES["cosine"]
    bounds = family[row["parameter"]]
    _, low, high = ends_of(row)
    return OUTER * ((low > bounds.low) + (high < bounds.high))


def ends_of(row: dict) -> tuple[float, float, float]:
    """A learned value, and between which ends noise alone leaves it."""
    return float(row["learned"]), float(row["low"]), float(row["high"])


def is_outside(row: dict) -> bool:
    value, low, high = ends_of(row)
    return not low <= value <= high


def noise_cell(row: dict) -> str:
    value, low, high = ends_of(row)
    text = f"**{value:.4g}**" if is_outside(row) else f"{value:.4g}"
    return f"{text} ({low:.4g} to {high:.4g})"
