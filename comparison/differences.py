"""Differences of methods that are paired by seed, their tests, and the rule for a gain."""

import statistics

from scipy.stats import ttest_rel, wilcoxon

from common.tables import markdown, plus_minus
from comparison.rows import JUDGED_BY, SCORES, UNTUNED, by_method
from comparison.scales import METHODS

FEWEST = 3  # seeds of a difference: with two, a test says nothing and weakens the others


def differences(rows: list[dict]) -> str:
    """Each method less the rows that it is compared with, a line a pair.

    A judge's first p is that of a paired t test after Holm's correction over the table; in brackets
    Wilcoxon's, which is not corrected. A gain needs all judges that nothing was tuned to.
    """
    lines = compared(rows)
    if not lines:
        return "No difference has three seeds."
    head = ["method", "compared with", *(SCORES[judge][0] for judge in JUDGED_BY), "by the rule"]
    return markdown(
        head,
        [
            [*pair, *(cells.get(judge, ("–", ""))[0] for judge in JUDGED_BY), by_the_rule(cells)]
            for pair, cells in lines.items()
        ],
    )


def compared(rows: list[dict]) -> dict[tuple[str, str], dict[str, tuple[str, str]]]:
    """(method, what it is compared with) -> what `of_judge` says by each judge, paired by seed."""
    groups = by_method(rows)
    pairs_of: dict[tuple[str, str, str], list[tuple[float, float]]] = {}  # method, base, judge
    for method in groups:
        for base in METHODS[method].controls:
            for judge in JUDGED_BY:
                pairs = paired(groups[method], groups.get(base, []), judge)
                if method != base and len(pairs) >= FEWEST:
                    pairs_of[method, base, judge] = pairs
    p_values = holm([ttest_rel(*zip(*pairs, strict=True)).pvalue for pairs in pairs_of.values()])
    lines: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for ((method, base, judge), pairs), p in zip(pairs_of.items(), p_values, strict=True):
        lines.setdefault((method, base), {})[judge] = of_judge(judge, pairs, p)
    return lines


def of_judge(judge: str, pairs: list[tuple[float, float]], p: float) -> tuple[str, str]:
    """A difference as a cell, bold where the test shows it, and whether it is better or worse."""
    values = [a - b for a, b in pairs]
    rank = wilcoxon(values).pvalue if any(values) else 1.0
    change = plus_minus(values, f".{SCORES[judge][1]}f")
    seeds, tests = signs(values), f"p {_probability(p)} ({_probability(rank)})"
    if p >= 0.05:
        return f"{change}; {seeds}; {tests}", ""
    return f"**{change}**; {seeds}; {tests}", "better" if statistics.mean(values) < 0 else "worse"


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def by_the_rule(cells: dict[str, tuple[str, str]]) -> str:
    """What the judges say together that nothing was tuned to."""
    verdicts = {cells.get(judge, ("", ""))[1] for judge in UNTUNED}
    if verdicts == {"better"}:
        return "gain"
    return "loss" if verdicts == {"worse"} else "–"


def signs(values: list[float]) -> str:
    """In how many seeds a difference is below 0; and in how many it is 0."""
    lower, equal = sum(v < 0 for v in values), values.count(0)
    return f"{lower} of {len(values)}" + (f", {equal} equal" if equal else "")


def paired(rows: list[dict], base: list[dict], column: str) -> list[tuple[float, float]]:
    """The values of the seeds that both have."""
    of_base = {row["seed"]: float(row[column]) for row in base if row.get(column)}
    return [
        (float(row[column]), of_base[row["seed"]])
        for row in rows
        if row["seed"] in of_base and row.get(column)
    ]


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction, in the order given; a nan counts as 1."""
    clean = [1.0 if p != p else float(p) for p in p_values]
    order = sorted(range(len(clean)), key=clean.__getitem__)
    corrected, largest = [1.0] * len(clean), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(clean) - rank) * clean[i]))
        corrected[i] = largest
    return corrected
