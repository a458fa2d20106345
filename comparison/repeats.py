"""Tables of the runs that were made a second time, by `reproduce.py --again`."""

import statistics

from common.tables import markdown
from comparison.rows import JUDGED_BY, REGIMES, SCORES, grouped, headline

MEASURED_BY = ("steps", "n", "extractor", "reference")  # equal in scores that can be compared
Pairs = list[tuple[dict, dict]]  # a cell's row of the first run, and that of the second
TEXT = """These runs were made a second time. Bits repeat on one machine with the same versions;
elsewhere rounding moves a run away from itself. The last rows of the tables of scores are the root
mean squares of these differences; the standard errors of rows and differences contain them."""


def pairs_of(scores: list[dict], again: list[dict], clip: str) -> Pairs:
    """The rows of one regime of the cells that were run twice and measured alike."""
    first = {(row["method"], row["seed"]): row for row in headline(scores, clip)}
    pairs = ((first.get((row["method"], row["seed"])), row) for row in headline(again, clip))
    return [
        (old, new)
        for old, new in pairs
        if old and all(old.get(name) == new.get(name) for name in MEASURED_BY)
    ]


def apart(pairs: Pairs, column: str) -> list[float]:
    return [
        float(new[column]) - float(old[column]) for old, new in pairs if old[column] and new[column]
    ]


def drift_lines(of_regimes: list[Pairs], columns: tuple[str, ...]) -> list[list[str]]:
    """A line a method for a table of scores: the columns of each regime's pairs in turn."""
    lines = []
    for (method,) in grouped([new for _, new in of_regimes[0]], "method"):
        line = [f"*{method} again: rms difference*"]
        for i, pairs in enumerate(of_regimes):
            of_method = [pair for pair in pairs if pair[1]["method"] == method]
            line += [] if i else [str(len(of_method))]
            for column in columns:
                squares = [x * x for x in apart(of_method, column)]
                digits = SCORES[column][1]
                line.append(f"{statistics.fmean(squares) ** 0.5:.{digits}f}" if squares else "–")
        lines.append(line)
    return lines


def repeats_table(
    scores: list[dict], again: list[dict], runs: list[dict], runs_again: list[dict]
) -> str:
    """What the judges said of both runs, and where these were made, under a line of text."""
    lines = []
    for clip, regime in REGIMES.items():
        for old, new in pairs_of(scores, again, clip):
            for judge in (judge for judge in JUDGED_BY if old[judge] and new[judge]):
                name, digits = SCORES[judge]
                a, b = float(old[judge]), float(new[judge])
                both = (f"{x:.{digits}f}" for x in (a, b, b - a))
                lines.append([new["method"], new["seed"], regime, name, *both])
    if not lines:
        return "No run has been made a second time."
    head = ["method", "seed", "sampler", "by", "first", "again", "difference"]
    return "\n\n".join([TEXT, markdown(head, lines), machines_table(runs, runs_again)])


def machines_table(runs: list[dict], runs_again: list[dict]) -> str:
    """The processor, the version and the commit of both runs of each cell."""
    first = {(run["method"], run["seed"]): run for run in runs}
    lines = []
    for run in runs_again:
        if old := first.get((run["method"], run["seed"])):
            both = (f"{r['processor']}, torch {r['torch']}, {r['commit']}" for r in (old, run))
            lines.append([run["method"], run["seed"], *both])
    return markdown(["method", "seed", "first run", "second run"], lines)
