"""The generated tables of docs/lr_schedules.md, each by the name of its mark in the page."""

import statistics
from collections.abc import Callable

from common.tables import markdown, plus_minus
from scheduler import Schedule
from studies.lr_schedules.numbers import Numbers
from studies.lr_schedules.paper import DECAYING, METRICS, NAMES, of_the_paper
from studies.lr_schedules.sweep import of_the_sweep, of_the_sweeps_range
from studies.lr_schedules.together import TIMESTEPS


def all_tables(
    numbers: Numbers,
    sweep: list[dict],
    digits: list[dict],
    speed: dict | None = None,
    sampling: dict | None = None,
) -> dict[str, str]:
    """Every table for which there are numbers."""
    tables = {"what was run": of_the_runs(numbers)} | comparison_tables(numbers)
    if "constant" in numbers.lr_schedules:
        tables["what the noise schedule costs"] = of_the_noise_schedule(numbers)
    if set(numbers.lr_schedules) == set(NAMES):
        tables["the two lowest divergences"] = of_the_lowest(numbers)
        tables["divergence less the constant rate's"] = of_the_differences(numbers)
        tables["divergence over the constant rate's"] = of_the_ratios(numbers)
        tables["time of the schedules"] = of_the_lr_schedules_time(numbers)
    if sweep:
        tables["sweep"] = of_the_sweep(sweep)
        tables["sweep, summary"] = of_the_sweeps_range(sweep)
    if digits:
        tables["digits"] = of_the_digits(digits)
    if speed:
        tables["time"] = of_the_speed(speed, max(numbers.steps))
        tables["how the time was measured"] = of_the_measurement(speed)
    if sampling:
        tables["sampling"] = of_the_sampling(sampling)
    return tables


def of_the_runs(numbers: Numbers) -> str:
    rows = [
        ["seeds", ", ".join(map(str, numbers.seeds))],
        ["steps of a run", ", ".join(f"{n:,}" for n in numbers.steps)],
        ["points generated", ", ".join(f"{n:,}" for n in numbers.points)],
    ]
    return markdown(["", ""], rows)


def comparison_tables(numbers: Numbers) -> dict[str, str]:
    """Tables 1 to 5: one a metric in the paper's order, then all of them."""
    tables = {f"Table {i}": of_a_metric(numbers, m) for i, m in enumerate(METRICS, 1)}
    return tables | {"Table 5": of_the_means(numbers)}


def of_a_metric(numbers: Numbers, metric: str) -> str:
    """One metric by learning-rate schedule and data set, ours with the paper's in brackets."""
    form = METRICS[metric][2]

    def cell(lr_schedule, name):
        paper = of_the_paper(metric, lr_schedule, name)
        return f"{numbers.cell(metric, lr_schedule, name, form)} ({paper:g})"

    rows = [[NAMES[s], *(cell(s, name) for name in numbers.sets)] for s in numbers.lr_schedules]
    return markdown(["", *numbers.sets], rows)


def of_the_means(numbers: Numbers) -> str:
    """Every metric, averaged over the data sets."""

    def cell(metric, lr_schedule):
        form = METRICS[metric][2]
        paper = statistics.fmean(of_the_paper(metric, lr_schedule, name) for name in numbers.sets)
        return f"{numbers.mean(metric, lr_schedule):{form}} ({paper:{form}})"

    rows = [[NAMES[s], *(cell(metric, s) for metric in METRICS)] for s in numbers.lr_schedules]
    return markdown(["", *(heading(metric) for metric in METRICS)], rows)


def heading(metric: str) -> str:
    title, unit, _ = METRICS[metric]
    return f"{title} [{unit}]" if unit else title


def of_the_noise_schedule(numbers: Numbers) -> str:
    """The divergence of the constant rate from both starts, and what is left of the signal."""
    alpha_bar = Schedule("ddpm_unscaled", TIMESTEPS).alpha_bar()[-1].item()
    rows = [
        [name, *(numbers.cell(metric, "constant", name, ".3f") for metric in ("kl", "kl_matched"))]
        for name in numbers.sets
    ]
    head = [
        f"T = {TIMESTEPS}, alpha_bar = {alpha_bar:.3f}, its root {alpha_bar**0.5:.2f}",
        "KL, sampled from normal noise",
        "KL, sampled from noised data",
    ]
    return markdown(head, rows)


def of_the_lowest(numbers: Numbers) -> str:
    """The two schedules of lowest divergence on each set."""

    def lowest(value: Callable[[str], float]) -> str:
        return ", ".join(NAMES[s] for s in sorted(NAMES, key=value)[:2])

    rows = [
        [
            name,
            lowest(lambda s, name=name: numbers.mean("kl", s, name)),
            lowest(lambda s, name=name: of_the_paper("kl", s, name)),
        ]
        for name in numbers.sets
    ]
    return markdown(["", "ours", "the paper's"], rows)


def of_the_differences(numbers: Numbers) -> str:
    """KL less that of the constant rate in the same seed, and in how many seeds it is higher."""

    def cell(lr_schedule: str, name: str) -> str:
        runs = (
            [numbers.rows.get((seed, name, s)) for seed in numbers.seeds]
            for s in (lr_schedule, "constant")
        )
        values = [a["kl"] - b["kl"] for a, b in zip(*runs, strict=True) if a and b]
        higher = sum(value > 0 for value in values)
        return f"{plus_minus(values, '+.3f')} ({higher} of {len(values)})"

    others = [s for s in numbers.lr_schedules if s != "constant"]
    rows = [[NAMES[s], *(cell(s, name) for name in numbers.sets)] for s in others]
    return markdown(["", *numbers.sets], rows)


def of_the_ratios(numbers: Numbers) -> str:
    """KL over that of the constant rate on every set and as a geometric mean, and the paper's."""

    def ratios(kl: Callable[[str, str], float], lr_schedule: str) -> list[float]:
        each = [kl(lr_schedule, name) / kl("constant", name) for name in numbers.sets]
        return [*each, statistics.geometric_mean(each)]

    rows = []
    for lr_schedule in DECAYING:
        ours = ratios(lambda s, name: numbers.mean("kl", s, name), lr_schedule)
        theirs = ratios(lambda s, name: of_the_paper("kl", s, name), lr_schedule)
        cells = [f"{x:.2f} ({y:.1f})" for x, y in zip(ours, theirs, strict=True)]
        rows.append([NAMES[lr_schedule], *cells])
    return markdown(["", *numbers.sets, "geometric mean"], rows)


def of_the_lr_schedules_time(numbers: Numbers) -> str:
    """What could make a run with one schedule slower than with another."""
    share = max(
        numbers.mean("own", s, name) / numbers.mean("training", s, name)
        for s in numbers.lr_schedules
        for name in numbers.sets
    )
    sampling = [numbers.mean("sampling", s) for s in numbers.lr_schedules]
    rows = [
        ["largest share of a learning-rate schedule in its run's training time", f"{share:.2%}"],
        ["slowest mean inference time over the fastest", f"{max(sampling) / min(sampling):.2f}"],
    ]
    return markdown(["", ""], rows)


def of_the_digits(rows: list[dict]) -> str:
    """A row a run of --digits, with what it was and what its FID was measured by."""
    cells = [
        [
            NAMES.get(r["lr_schedule"], r["lr_schedule"]),
            f"{r['fid']:.2f}",
            f"{r['loss']:.4f}",
            f"{r['steps']:,}",
            r["seed"],
            f"{r['n']:,}",
            f"`{r['extractor']}`",
            r["reference"],
        ]
        for r in rows
    ]
    head = ["schedule", "FID", "training loss, last epoch", "steps", "seed"]
    return markdown([*head, "FID's images", "extractor", "reference"], cells)


def of_the_speed(speed: dict, steps: int) -> str:
    """Together beside one after another, and both beside what the processor could do."""
    rows = [
        [
            label,
            f"{speed[key] * 1e3:.0f} ms",
            f"{speed[key] * steps / 60:.0f} min",
            f"{speed[key] / speed['floor']:.1f}",
        ]
        for label, key in (
            ("one run after another, plain PyTorch", "plain"),
            ("together", "together"),
            ("the matrix products alone", "floor"),
        )
    ]
    return markdown(["", f"a step of all {speed['runs']} runs", f"{steps:,} steps", "floors"], rows)


def of_the_measurement(speed: dict) -> str:
    span = f"{speed['ratio_lowest']:.2f} to {speed['ratio_highest']:.2f}"
    rows = [
        ["turns, steps in each", f"{speed['turns']}, {speed['steps']}"],
        ["CPU threads", speed["threads"]],
        ["load average", f"{speed['load']:.1f}"],
        [
            "plain time over together, median and range of the turns",
            f"{speed['ratio']:.2f}, {span}",
        ],
        ["matrix products in a step", f"{speed['gflop_per_step']:.1f} GFLOP"],
        ["speed of a large product", f"{speed['gflops_per_second']:.0f} GFLOP/s"],
    ]
    return markdown(["", ""], rows)


def of_the_sampling(sampling: dict) -> str:
    """The time of generating the points, and its floor."""
    rows = [
        ["the time's part of the first layer for each point", f"{sampling['time_each']:.1f} s"],
        ["the time's part once a step, as the study samples", f"{sampling['shared_time']:.1f} s"],
        ["the matrix products of the latter alone", f"{sampling['floor']:.1f} s"],
        ["matrix products", f"{sampling['gflop']:.0f} GFLOP"],
        ["speed of a large product", f"{sampling['gflops_per_second']:.0f} GFLOP/s"],
        ["load average", f"{sampling['load']:.1f}"],
    ]
    title = f"{sampling['points']:,} points in {sampling['sampling_steps']} steps"
    return markdown([title, f"CPU time, median of {sampling['turns']} turns"], rows)
