"""The tables of docs/hypergradient.md."""

from itertools import product
from math import hypot
from statistics import mean, median

from benchmarks.metric_tables import JUDGED, LARGER
from benchmarks.record import RESULTS
from common.tables import markdown, plus_minus, read_csv


def of_cosines(rows: list[dict]) -> str:
    head = ["network", "end", "gradient in", "estimate", "steps left out", "cosine", "norm"]
    head += ["samplings", "memory"]
    cells = [
        [
            f"{int(r['checkpoint'].split('_')[-1].removesuffix('.pt'))} steps", r["end"],
            r["gradient"], r["estimate"], r["left_out"], f"{r['cosine']:.3f}", f"{r['norm']:.3g}",
            f"{r['samplings']:.1f}", f"{r['training_steps_of_memory']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    return markdown(head, cells)


def of_gammas(rows: list[dict]) -> str:
    """The implicit term of the first problem, by gamma."""
    key = {"seed": 0, "point": "flat", "further": 0, "exact_every": 1, "batches": 47}
    first = [r for r in rows if all(r[name] == value for name, value in key.items())]
    names = list(dict.fromkeys(r["parameter"] for r in first))
    true = ["training again", *(f"{r['true_implicit']:.3g}" for r in first[: len(names)])]
    lines = [[*true, ""]]
    for gamma in sorted({r["gamma"] for r in first}):
        run = [r for r in first if r["gamma"] == gamma]
        label = f"penalty, gamma {gamma:.0e}" + (" (auto)" if run[0]["auto"] == "True" else "")
        values = [f"{r['implicit']:.3g}" for r in run]
        lines.append([label, *values, f"{run[0]['cosine_implicit']:.4f}"])
    return markdown(["", *names, "cosine"], lines)


def of_unet(rows: list[dict]) -> str:
    """Both terms for a step h in each parameter, the true ones and ours, a pair of lines a term."""
    lines = []
    for seed, point in dict.fromkeys((r["seed"], r["point"]) for r in rows):
        run = [r for r in rows if (r["seed"], r["point"]) == (seed, point)]
        for term in ("direct", "implicit", "total"):
            for label, key in (("training again", f"true_{term}"), ("penalty", term)):
                values = [f"{r[key]:.3g}" for r in run]
                agreement = f"{run[0][f'cosine_{term}']:.4f}" if key == term else ""
                lines.append([seed, point, term, label, *values, agreement])
    names = list(dict.fromkeys(r["parameter"] for r in rows))
    return markdown(["seed", "point", "term", "by", *names, "cosine"], lines)


def of_seeds(rows: list[dict]) -> str:
    """Both terms and their sum at the chosen gamma, over all problems, a line a setting."""
    lines, names = [], ("point", "further", "exact_every", "batches")
    rows = [r for r in rows if r["auto"] == "True"]
    for setting in sorted({tuple(r[name] for name in names) for r in rows}):
        run = [r for r in rows if tuple(r[name] for name in names) == setting]
        problems = [[r for r in run if r["seed"] == seed] for seed in {r["seed"] for r in run}]
        sums = sorted(problem[0]["cosine_total"] for problem in problems)
        cells = [len(problems), f"{min(r['cosine_implicit'] for r in run):.4f}"]
        cells += [f"{mean(sizes):.3f}" for sizes in zip(*map(sizes_of, problems), strict=True)]
        cells += [f"{median(sums):.3f}", f"{sums[0]:.3f}"]
        signs = [
            sum(r[f"true_{true}"] * r[ours] > 0 for r in run)
            for true, ours in (("implicit", "implicit"), ("total", "total"), ("total", "direct"))
        ]
        lines.append([*setting, *cells, *(f"{count} of {len(run)}" for count in signs)])
    head = ["point", "further steps", "steps a gradient", "batches", "problems", "implicit, least"]
    head += ["size of the sum", "its error", "sum, median", "sum, least", "signs of implicit"]
    return markdown([*head, "of the sum", "of the direct term alone"], lines)


def sizes_of(problem: list[dict]) -> tuple[float, float]:
    """The true sum and our error in it, over the true direct term."""
    direct = hypot(*(r["true_direct"] for r in problem))
    error = hypot(*(r["total"] - r["true_total"] for r in problem))
    return hypot(*(r["true_total"] for r in problem)) / direct, error / direct


def of_gradients(rows: list[dict]) -> str:
    """An estimate a line: its price and noise on the U-Nets, and what it says of the truth."""
    of_unets = [r for r in read_csv(RESULTS / "cosines.csv") if r["end"] == 1]
    lines = []
    for estimate in dict.fromkeys(r["estimate"] for r in rows):
        run = [r for r in rows if r["estimate"] == estimate]
        of_q, of_weights = (
            [r for r in of_unets if (r["estimate"], r["gradient"]) == (estimate, what)]
            for what in ("q", "weights")
        )
        # reverse mode gives both from one pass, zeroth-order estimates are one each
        parts = [of_q, of_weights] if "zeroth" in estimate else [of_weights or of_q]
        samplings = sum(mean(r["samplings"] for r in part) for part in parts)
        memory = mean(r["training_steps_of_memory"] for r in parts[-1])
        cosines = [", ".join(f"{r['cosine']:.3f}" for r in part) for part in (of_q, of_weights)]
        signs = f"{sum(r['signs'] for r in run)} of {4 * len(run)}"
        truths = ", ".join(f"{r['cosine_true']:.3f}" for r in run)
        lines.append([estimate, f"{samplings:.1f}", f"{memory:.2f}", *cosines, signs, truths])
    head = ["estimate", "samplings", "memory", "cosine in q", "in the weights"]
    return markdown([*head, "signs of the sum", "cosine of the sum with the truth"], lines)


def of_cleaning(rows: list[dict]) -> str:
    head = ["images a step", "theta_z sees", "gamma", "cosine", "signs that agree", "error"]
    lines = []
    for r in rows:
        sees = "the same batches" if r["same_batches"] == "True" else "other batches"
        gamma = f"{r['gamma']:.0e}" + (" (auto)" if r["auto"] == "True" else "")
        numbers = [f"{r['cosine']:.4f}", f"{r['signs']:.1%}", f"{r['error']:.3g}"]
        lines.append([r["images"], sees, gamma, *numbers])
    return markdown(head, lines)


def of_cleaned(rows: list[dict]) -> str:
    """Mean over the seeds."""
    lines = []
    for weights in dict.fromkeys(r["weights"] for r in rows):
        run = [r for r in rows if r["weights"] == weights]
        cells = [f"{least:.3f}" if (least := run[0]["least_cosine"]) != "" else ""]
        for name, form in (("f1", ".3f"), ("auc", ".3f"), ("accuracy", ".2%")):
            values = [r[name] for r in run if r[name] != ""]
            cells.append(format(sum(values) / len(values), form) if values else "")
        if cells[0]:
            cells[0] = f"{min(r['least_cosine'] for r in run):.3f}"
        lines.append([weights, len(run), *cells])
    head = ["weights of the examples", "seeds", "least of four cosines on the way", "F1", "AUC"]
    return markdown([*head, "test accuracy"], lines)


def of_joint(rows: list[dict]) -> str:
    head = ["seed", "moved by", "start", "end", "tau", "epsilon", "F", "F from scratch"]
    keys = ("start", "end", "tau", "epsilon", "fid", "fid_from_scratch")
    return markdown(
        head, [[r["seed"], r["moved_by"], *(f"{r[k]:.3g}" for k in keys)] for r in rows]
    )


def of_cost(rows: list[dict]) -> str:
    head = ["base", "images", "DDIM steps", "samplings", "memory"]
    keys = ("base", "images", "backward_steps", "samplings", "training_steps_of_memory")
    return markdown(head, [[r[key] for key in keys] for r in rows])


def of_frozen(rows: list[dict]) -> str:
    """Mean and standard error over the networks, by every judge: a line a sampler and schedule."""
    names = [n for n in JUDGED if n in rows[0]]
    about = "size", "network", "clip", "steps", "schedule"
    lines = []
    for key in sorted({tuple(r[k] for k in about) for r in rows}, key=_in_order):
        run = [r for r in rows if tuple(r[k] for k in about) == key]
        clip = {"True": "yes", "False": "no"}.get(key[2], "")
        cells = [plus_minus([r[name] for r in run], ".3g") for name in names]
        lines.append([key[0], key[1], clip, *key[3:], *cells])
    head = ["size", "network", "clipping", "steps", "schedule"]
    return markdown([*head, *(JUDGED[name] for name in names)], lines)


def _in_order(key: tuple) -> tuple:
    """Of a size real images first, then a network after the other, with clipping before without."""
    size, network, clip, steps, schedule = key
    return size, clip != "", network, clip == "False", steps, schedule


def of_frozen_counts(rows: list[dict]) -> str:
    """In how many cells a judge prefers the learned schedule to another of the same network."""
    about = "size", "network", "seed", "clip", "steps", "schedule"
    by_key = {tuple(r[k] for k in about): r for r in rows}
    learned = {key[:-1]: r for key, r in by_key.items() if key[-1] == "learned"}
    names, lines = [name for name in JUDGED if name in rows[0]], []
    cases = dict.fromkeys(key[:2] for key in sorted(learned))
    others = dict.fromkeys(key[-1] for key in by_key if key[-1] not in ("", "learned"))
    for case, clip, other in product(cases, ("True", "False"), others):
        of_case = {k: r for k, r in learned.items() if k[:2] == case and k[3] == clip}
        pairs = [(r, by_key[(*k, other)]) for k, r in of_case.items() if (*k, other) in by_key]
        if len(pairs) < 2:  # nothing to count
            continue
        cells = []
        for name in names:
            sign = -1 if name in LARGER else 1
            better = sum(sign * ours[name] < sign * theirs[name] for ours, theirs in pairs)
            cells.append(f"{better} of {len(pairs)}")
        lines.append([*case, "yes" if clip == "True" else "no", other, *cells])
    return markdown(
        ["size", "network", "clipping", "better than", *(JUDGED[name] for name in names)], lines
    )


TABLES = {
    "frozen": ("frozen.csv", of_frozen),
    "frozen_counts": ("frozen.csv", of_frozen_counts),
    "cost": ("reverse_cost.csv", of_cost),
    "cosines": ("cosines.csv", of_cosines),
    "gamma": ("hypergradient.csv", of_gammas),
    "seeds": ("hypergradient.csv", of_seeds),
    "unet": ("hypergradient_unet.csv", of_unet),
    "gradients": ("gradient_table.csv", of_gradients),
    "cleaning": ("data_cleaning.csv", of_cleaning),
    "cleaned": ("data_cleaning_end.csv", of_cleaned),
    "joint": ("joint_end.csv", of_joint),
}


def all_tables() -> dict[str, str]:
    """Every table of the page by the name of its marks."""
    return {name: make(read_csv(RESULTS / file)) for name, (file, make) in TABLES.items()}
