"""The generated tables of docs/reward.md, each by the name of its mark in the page."""

import math
import statistics

import numpy as np

from common.tables import markdown, plus_minus, with_error
from studies.reward.tasks import METHODS

LABELS = {
    "target_class": "class of r1, chosen by the rule",
    "direction": "direction of r2, chosen by the rule",
    "choice_lambda": "λ of the maximum, on the rule's samples",
    "choice_gain": "height of that maximum of the mean r1 above the higher of the two ends; "
    "the smaller value of two halves of the samples",
    "backward_steps": "DDIM steps",
    "bank_samples": "samples without guidance for the importance weights, a seed",
    "choice_samples": "samples without guidance for the rule",
    "n_directions": "directions among which the rule chose",
    "guided_samples": "images in a trial of a search",
    "eval_samples": "images of the final numbers, a seed",
    "gamma": "γ",
    "min_ess": "effective samples at the smallest λ",
    "iterations": "steps of the upper level",
    "step": "step size of log λ",
    "max_step": "largest step of log λ",
    "extractor": "judge's extractor",
    "reference": "judge's reference",
    "model": "SHA-256 of the checkpoint, DDIM steps, their spacing, clipping",
    "commit": "commit",
    "device": "device",
    "threads": "CPU threads of a run",
    "started": "started",
    "leader_seconds": "seconds of the first bilevel run, which also draws the rule's samples",
    "leader_cpu_seconds": "its CPU seconds",
    "page_runs": "runs of this page",
    "page_seconds": "their seconds",
    "page_cpu_seconds": "their CPU seconds, user and system, with those of interrupted runs",
    "page_jobs": "runs at once",
    "first_runs": "runs of `--scale first`",
    "first_seconds": "their seconds",
    "first_cpu_seconds": "their CPU seconds",
    "first_jobs": "runs at once, `--scale first`",
}


def all_tables(rows: dict[str, list[dict]]) -> dict[str, str]:
    return {
        "reward results": of_results(rows["results"]),
        "reward optima": of_optima(rows["results"], rows["curves"]),
        "reward curves": of_curves(rows["curves"]),
        "reward oracles": of_oracles(rows["oracles"]),
        "reward facts": of_facts(rows["facts"]),
    }


def of_results(rows: list[dict]) -> str:
    """A row a method: mean ± standard error over the seeds."""
    columns = {
        "lambda": ".2f", "r1": ".2f", "r2": ".2f", "accuracy": ".3f",
        "frechet_distance": ".0f", "choosing_cpu_seconds": ".0f",
    }  # fmt: skip
    plain = {row["seed"]: row for row in rows if row["method"] == "unguided"}
    lines = []
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        cells = {name: cell([r[name] for r in of_method], form) for name, form in columns.items()}
        gains = [r["r1"] - plain[r["seed"]]["r1"] for r in of_method if r["seed"] in plain]
        weights = [r["weight"] for r in of_method if r["weight"] != ""]
        lam = cells["lambda"] + (f", w {cell(weights, '.2f')}" if weights else "")
        spent = round(statistics.fmean(r["choosing_evaluations"] for r in of_method))
        lines.append(
            [method, len(of_method), lam, cells["r1"], cell(gains, "+.2f"), cells["r2"],
             cells["accuracy"], cells["frechet_distance"], cells["choosing_cpu_seconds"],
             f"{spent:,}"]
        )  # fmt: skip
    head = ["method", "seeds", "λ", "r1", "r1 − unguided", "r2", "accuracy", "Fréchet distance"]
    return markdown([*head, "CPU seconds to choose", "evaluations to choose"], lines)


def cell(values: list, form: str) -> str:
    """Mean ± standard error of what is there, or a dash."""
    return plus_minus([value for value in values if value != ""], form)


def of_optima(results: list[dict], curves: list[dict]) -> str:
    """Which lambda each estimator ends at, beside the optima of the curves."""
    weighted = of_kind(curves, "weighted")

    def of(method, name):
        return [row[name] for row in results if row["method"] == method]

    def line(label, lams):
        heights = [h for lam in lams if (h := at(weighted, lam, "r1_gain")) is not None]
        return [label, cell(lams, ".3f"), cell(heights, "+.3f") if heights else "–"]

    best = max(weighted, key=lambda row: row["r1"])
    lines = [
        [
            f"optimum of the importance-weighted curve, {best['n']:,} samples",
            f"{best['lambda']:.3f}",
            f"{best['r1_gain']:+.3f} ± {best['r1_gain_se']:.3f}",
        ]
    ]
    lines += [
        line("the same, on the samples of each seed", of("bilevel", "best_of_curve")),
        line("weighted estimator", of("bilevel", "lambda")),
        line("published estimator", of("bilevel, published estimator", "lambda")),
        line("published estimator, from guided runs", of("bilevel, guided estimator", "lambda")),
        line("lower bound, by effective samples", of("bilevel", "lambda_low")),
    ]
    for kind in ("guided", "linearised"):
        if rows := of_kind(curves, kind):
            row = max(rows, key=lambda row: row["r1"])
            name = f"best of the {kind} curve, {row['n']} images at each λ"
            lines.append([name, f"{row['lambda']:.3f}", line("", [row["lambda"]])[2]])
    for name in ("r1", "r2"):
        lam = parting(curves, name)
        label = f"{name}: at this λ and below, the two gains differ by over 2 standard errors"
        lines.append([label, "–" if lam is None else f"{lam:.3f}", "–"])
    return markdown(["", "λ", "gain in r1 on the importance-weighted curve"], lines)


def of_kind(curves: list[dict], kind: str) -> list[dict]:
    return [row for row in curves if row["kind"] == kind]


def at(weighted: list[dict], lam: float, name: str) -> float | None:
    """A column of the importance-weighted curve at a lambda, linear in log lambda; None outside."""
    xs = [math.log(row["lambda"]) for row in weighted]
    if not xs[0] <= math.log(lam) <= xs[-1] + 1e-9:
        return None
    return float(np.interp(math.log(lam), xs, [row[name] for row in weighted]))


def parting(curves: list[dict], name: str) -> float | None:
    """The lambda from which on, down to the smallest, the gains differ by two standard errors."""
    weighted, parted = of_kind(curves, "weighted"), None
    for row in sorted(of_kind(curves, "guided"), key=lambda row: row["lambda"]):
        gain, error = (at(weighted, row["lambda"], f"{name}_{x}") for x in ("gain", "gain_se"))
        if gain is None:
            continue
        if row[f"{name}_gain_se"] == "":
            return None
        if abs(row[f"{name}_gain"] - gain) <= 2 * math.hypot(error, row[f"{name}_gain_se"]):
            break
        parted = row["lambda"]
    return parted


def of_curves(curves: list[dict]) -> str:
    """Guided r1 and r2 beside the importance-weighted ones, at the guided curves' lambdas."""
    weighted, lines = of_kind(curves, "weighted"), []
    for row in (r for r in curves if r["kind"] != "weighted"):
        cells = []
        for name in ("r1", "r2", "r1_gain", "r2_gain"):
            sign = "+" if name.endswith("gain") else ""
            values = [
                (row[name], row[f"{name}_se"]),
                (at(weighted, row["lambda"], name), at(weighted, row["lambda"], f"{name}_se")),
            ]
            cells += [
                "–" if value in ("", None)
                else with_error(value, None if error == "" else error, f"{sign}.2f")
                for value, error in values
            ]  # fmt: skip
        lines.append([row["kind"], f"{row['lambda']:.3g}", row["n"], *cells])
    names = ("r1", "r2", "gain in r1", "gain in r2")
    head = [f"{name}, {kind}" for name in names for kind in ("guided", "weighted")]
    return markdown(["guidance", "λ", "images", *head], lines)


def of_oracles(rows: list[dict]) -> str:
    """Every closed-form case with its error; an infinite tolerance marks a known bias."""
    lines = [
        [r["case"], r["quantity"], f"{r['exact']:.4f}", f"{r['computed']:.4f}", f"{r['error']:.4f}",
         "known bias" if r["tolerance"] == float("inf") else f"{r['tolerance']:g}"]
        for r in rows
    ]  # fmt: skip
    return markdown(["case", "quantity", "exact", "computed", "error", "tolerance"], lines)


def of_facts(rows: list[dict]) -> str:
    return markdown(["", ""], [[LABELS[r["name"]], short(r["value"])] for r in rows])


def short(value: str) -> str:
    """A number of many digits with four of them; anything else as it is."""
    digits = value.removeprefix("-").replace(".", "")
    return f"{float(value):.4g}" if "." in value and digits.isdigit() and len(digits) > 6 else value
