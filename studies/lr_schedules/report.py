"""The report of the learning-rate study: tables, figures and verdicts, all from its CSV files.

Runs leave their own CSV files; `publish` gathers them under docs/results and writes the report from
there alone, so that it can be written again without a run.
"""

import csv
import json
import statistics
from pathlib import Path

from common.errors import Stop

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
SHOWN = 300  # points of each run that are kept for the figures
NAMES = {
    "constant": "constant",
    "step": "StepLR",
    "exponential": "ExponentialLR",
    "plateau": "ReduceLROnPlateau",
    "cosine": "CosineAnnealingLR",
}
METRICS = {  # the paper's order
    "training": ("Training time of a run", "s", ".0f"),
    "loss": ("Evaluation loss", "", ".3f"),
    "sampling": ("Inference time", "s", ".2f"),
    "kl": ("KL divergence, real from generated", "nats", ".3f"),
}
PAPER = {
    ("constant", "circle"): (127.74, 0.438, 0.89, 0.343),
    ("constant", "dino"): (128.44, 0.663, 0.92, 1.063),
    ("constant", "line"): (129.12, 0.807, 0.67, 0.168),
    ("constant", "moons"): (129.21, 0.613, 1.03, 0.088),
    ("step", "circle"): (109.53, 0.804, 0.85, 6.034),
    ("step", "dino"): (109.80, 0.892, 1.05, 7.142),
    ("step", "line"): (111.87, 0.842, 0.84, 0.422),
    ("step", "moons"): (108.61, 0.825, 0.88, 2.624),
    ("exponential", "circle"): (109.07, 0.574, 0.64, 2.569),
    ("exponential", "dino"): (107.92, 0.800, 0.57, 6.570),
    ("exponential", "line"): (111.73, 0.820, 0.62, 0.269),
    ("exponential", "moons"): (107.13, 0.710, 0.60, 1.530),
    ("plateau", "circle"): (114.61, 0.763, 0.88, 5.571),
    ("plateau", "dino"): (112.58, 0.885, 0.70, 7.116),
    ("plateau", "line"): (114.36, 0.902, 0.81, 0.704),
    ("plateau", "moons"): (114.42, 0.789, 0.71, 2.434),
    ("cosine", "circle"): (111.48, 0.449, 0.53, 0.333),
    ("cosine", "dino"): (109.98, 0.681, 0.76, 1.636),
    ("cosine", "line"): (110.18, 0.807, 0.99, 0.172),
    ("cosine", "moons"): (109.36, 0.624, 0.80, 0.098),
}
# what a run's folder holds -> what is kept of it
KEPT = {
    "study": {"results": "lr_results", "timing": "lr_timing", "losses": "lr_losses",
              "points": "lr_points"},
    "sweep": {"results": "lr_sweep"},
}  # fmt: skip


def publish(folders: list[Path]) -> None:
    """Take the numbers of runs into docs/results, if any are given, and write the report.

    A study of other seeds joins one of the same sets and steps; all else is replaced.
    """
    gathered = {}
    for folder in folders:
        for name, rows in rows_of(folder).items():
            gathered.setdefault(name, []).extend(rows)
    known = {name: read_csv(DOCS / "results" / f"{name}.csv") for name in KEPT["study"].values()}
    kinds = [
        {(row["set"], row["schedule"], row["steps"]) for row in found.get("lr_results", [])}
        for found in (known, gathered)
    ]
    for name, rows in gathered.items():
        if kinds[0] == kinds[1] and name in known:
            seeds = {row.get("seed") for row in rows}
            kept = [row for row in known[name] if row.get("seed") not in seeds]
            rows = known[name] if seeds == {None} else kept + rows  # one seed's points are shown
        write_csv(DOCS / "results" / f"{name}.csv", rows)
    if not (DOCS / "results" / "lr_results.csv").exists():
        raise Stop("docs/results holds no lr_results.csv yet: --report RUN brings one", code=2)
    write_report()
    print(f"wrote {DOCS / 'lr_schedules.md'}")


def rows_of(folder: Path) -> dict[str, list[dict]]:
    """The rows of a run by the CSV file that they belong to."""
    try:
        about = json.loads((folder / "args.json").read_text())
        summary = json.loads((folder / "summary.json").read_text())
        kind, args = about["kind"], about["arguments"]
    except (OSError, ValueError, KeyError) as error:
        raise Stop(f"--report {folder}: not a finished run's folder ({error})", code=2) from None
    if kind == "train":
        if args["dataset"] != "digits" or args["lr_schedule"] not in NAMES:
            raise Stop(f"--report {folder}: not a run of --digits", code=2)
        names = ("lr_schedule", "seed", "lr", "epochs", "model_base_dim")
        scores = ("steps", "fid", "n", "extractor", "reference", "loss")
        return {"lr_digits": [{k: args[k] for k in names} | {k: summary[k] for k in scores}]}
    if kind != "lr_schedules":
        raise Stop(f"--report {folder}: a {kind} run has no place in this report", code=2)
    kept = KEPT["sweep" if args["sweep"] else "study"]
    rows = {name: read_csv(folder / f"{source}.csv") for source, name in kept.items()}
    for row in rows.get("lr_timing", []):
        row["drawn"] = args["eval_points"]
    return rows


def read_csv(path: Path) -> list[dict]:
    """Rows of a CSV file, numbers as numbers; none if it is not there."""
    if not path.exists():
        return []
    with open(path) as file:
        return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text):
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


class Numbers:
    """Means and deviations over seeds, by schedule and data set."""

    def __init__(self, results: list[dict], timing: list[dict]):
        self.rows = {(r["seed"], r["set"], r["schedule"]): dict(r) for r in results}
        for r in timing:
            clock = {"training": r["shared"] + r["own"], "own": r["own"]}
            key = (r["seed"], r["set"], r["schedule"])
            self.rows[key] |= clock | {"sampling": r["sampling"]}
        self.sets = sorted({s for _, s, _ in self.rows})
        self.schedules = [s for s in NAMES if any(s == key[2] for key in self.rows)]
        self.seeds = sorted({seed for seed, _, _ in self.rows})
        self.steps = sorted({r["steps"] for r in results})
        self.drawn = sorted({r["drawn"] for r in timing})

    def values(self, metric: str, schedule: str, name: str) -> list[float]:
        keys = ((seed, name, schedule) for seed in self.seeds)
        return [self.rows[key][metric] for key in keys if key in self.rows]

    def mean(self, metric: str, schedule: str, name: str | None = None) -> float:
        """Over the seeds, and over the sets too if none is named."""
        names = [name] if name else self.sets
        return statistics.fmean(v for s in names for v in self.values(metric, schedule, s))

    def cell(self, metric: str, schedule: str, name: str, form: str) -> str:
        values = self.values(metric, schedule, name)
        if not values:
            return "–"
        spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):{form}}{spread}"


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def metric_table(numbers: Numbers, number: int, metric: str) -> str:
    """One of the paper's metrics, ours with the paper's in brackets."""
    title, unit, form = METRICS[metric]
    column = list(METRICS).index(metric)
    rows = [
        [NAMES[schedule]]
        + [
            f"{numbers.cell(metric, schedule, name, form)} ({PAPER[schedule, name][column]:g})"
            for name in numbers.sets
        ]
        for schedule in numbers.schedules
    ]
    unit = f" [{unit}]" if unit else ""
    title = f"**Table {number}. {title}{unit}: ours (the paper's)**"
    return f"{title}\n\n{table(['', *numbers.sets], rows)}"


def summary_table(numbers: Numbers) -> str:
    """Every metric, averaged over the data sets."""
    rows = []
    for schedule in numbers.schedules:
        row = [NAMES[schedule]]
        for i, (metric, (_, _, form)) in enumerate(METRICS.items()):
            paper = statistics.fmean(PAPER[schedule, name][i] for name in numbers.sets)
            row.append(f"{numbers.mean(metric, schedule):{form}} ({paper:{form}})")
        rows.append(row)
    head = ["", *(f"{title} [{unit}]" if unit else title for title, unit, _ in METRICS.values())]
    title = "**Table 5. Means over the data sets: ours (the paper's)**"
    return f"{title}\n\n{table(head, rows)}"


def tables(results: list[dict], timing: list[dict]) -> str:
    """Tables 1 to 5: one a metric in the paper's order, then all of them."""
    numbers = Numbers(results, timing)
    each = [metric_table(numbers, i, metric) for i, metric in enumerate(METRICS, 1)]
    return "\n\n".join([*each, summary_table(numbers)])


def write_report() -> None:
    from studies.lr_schedules import figures, verdicts

    path = DOCS / "results" / "lr_speed.json"
    speed = json.loads(path.read_text()) if path.exists() else None
    results, timing, losses, points, sweep, digits = (
        read_csv(DOCS / "results" / f"lr_{name}.csv")
        for name in ("results", "timing", "losses", "points", "sweep", "digits")
    )
    numbers = Numbers(results, timing)
    figures.draw_all(DOCS / "figures", numbers, losses, points, sweep)
    sections = [
        verdicts.head(numbers),
        tables(results, timing),
        verdicts.of_the_process(numbers),
        verdicts.of_the_paper(numbers),
        verdicts.FIGURES,
        verdicts.of_the_sweep(sweep),
        verdicts.of_the_digits(digits),
        verdicts.of_the_speed(speed, numbers),
    ]
    text = "\n\n".join(section for section in sections if section)
    (DOCS / "lr_schedules.md").write_text(text + "\n")
