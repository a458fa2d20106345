"""The generated tables of docs/reward.md, each by the name of its mark in the page."""

import statistics

from common.tables import markdown, plus_minus
from studies.reward.tasks import METHODS

LABELS = {
    "target_class": "class of r1, chosen by the rule",
    "direction": "direction of r2, chosen by the rule",
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
        "lambda": ".2f", "r1": ".2f", "r2": ".2f", "accuracy": ".3f", "fid": ".0f",
        "choosing_cpu_seconds": ".0f",
    }  # fmt: skip
    plain = {row["seed"]: row for row in rows if row["method"] == "unguided"}
    lines = []
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        cells = {name: cell([r[name] for r in of_method], form) for name, form in columns.items()}
        gains = [r["r1"] - plain[r["seed"]]["r1"] for r in of_method]
        weights = [r["weight"] for r in of_method if r["weight"] != ""]
        lam = cells["lambda"] + (f", w {cell(weights, '.2f')}" if weights else "")
        spent = round(statistics.fmean(r["choosing_evaluations"] for r in of_method))
        lines.append(
            [method, len(of_method), lam, cells["r1"], cell(gains, "+.2f"), cells["r2"],
             cells["accuracy"], cells["fid"], cells["choosing_cpu_seconds"], f"{spent:,}"]
        )  # fmt: skip
    head = ["method", "seeds", "λ", "r1", "r1 − unguided", "r2", "accuracy", "Fréchet distance"]
    return markdown([*head, "CPU seconds to choose", "evaluations to choose"], lines)


def cell(values: list, form: str) -> str:
    """Mean ± standard error of what is there, or a dash."""
    return plus_minus([value for value in values if value != ""], form)


def of_optima(results: list[dict], curves: list[dict]) -> str:
    """Which lambda each estimator ends at, beside the optima of both curves."""

    def of(method, name):
        return [row[name] for row in results if row["method"] == method]

    best, height = of("bilevel", "best_of_curve"), of("bilevel", "best_of_curve_r1")
    lines = [["optimum of the importance-weighted curve", cell(best, ".3f"), cell(height, ".2f")]]
    for label, method in (
        ("weighted estimator", "bilevel"),
        ("published estimator", "bilevel, published estimator"),
    ):
        lam, r1 = of(method, "lambda"), of(method, "weighted_r1")
        lines.append([label, cell(lam, ".3f"), cell(r1, ".2f")])
    guided = of("bilevel, guided estimator", "lambda")
    lines.append(["published estimator, from guided runs", cell(guided, ".3f"), "–"])
    lows = of("bilevel", "lambda_low")
    lines.append(["lower bound, by effective samples", cell(lows, ".3f"), "–"])
    for kind in ("guided", "linearised"):
        rows = [row for row in curves if row["kind"] == kind]
        if not rows:
            continue
        row = max(rows, key=lambda row: row["r1"])
        name = f"best of the {kind} curve, seed 0 ({row['n']} images at each λ)"
        lines.append([name, f"{row['lambda']:.3f}", f"{row['r1']:.2f} (guided)"])
    return markdown(["", "λ", "importance-weighted r1"], lines)


def of_curves(curves: list[dict]) -> str:
    """Guided r1 and r2 beside the importance-weighted ones, at the guided curves' lambdas."""
    weighted = [row for row in curves if row["kind"] == "weighted"]
    lines = []
    for row in (r for r in curves if r["kind"] != "weighted"):
        near = min(weighted, key=lambda w: abs(w["lambda"] / row["lambda"] - 1))
        inside = abs(near["lambda"] / row["lambda"] - 1) < 0.15
        lines.append(
            [row["kind"], f"{row['lambda']:.2f}", f"{row['r1']:.2f} ± {row['r1_se']:.2f}",
             f"{near['r1']:.2f}" if inside else "–", f"{row['r2']:.2f} ± {row['r2_se']:.2f}",
             f"{near['r2']:.2f}" if inside else "–"]
        )  # fmt: skip
    head = ["guidance", "λ", "r1, guided", "r1, weighted", "r2, guided", "r2, weighted"]
    return markdown(head, lines)


def of_oracles(rows: list[dict]) -> str:
    """Every closed-form case with its error; an infinite tolerance marks a known bias."""
    lines = [
        [r["case"], r["quantity"], f"{r['exact']:.4f}", f"{r['computed']:.4f}", f"{r['error']:.4f}",
         "known bias" if r["tolerance"] == float("inf") else f"{r['tolerance']:g}"]
        for r in rows
    ]  # fmt: skip
    return markdown(["case", "quantity", "exact", "computed", "error", "tolerance"], lines)


def of_facts(rows: list[dict]) -> str:
    return markdown(["", ""], [[LABELS[r["name"]], r["value"]] for r in rows])
