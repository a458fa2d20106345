"""The generated tables of docs/noise_schedules.md, each by the name of its mark in the page."""

from collections.abc import Collection, Iterable

import numpy as np

from common.tables import markdown, plus_minus
from model import visited_times
from studies.noise_schedules import by_chance
from studies.noise_schedules.claims import (
    CLAIMS,
    DOES_NOT,
    JUDGES,
    STANDS,
    UNDECIDED,
    Group,
    Groups,
    Verdict,
    as_a_whole,
    by_own_schedule,
    groups_of,
    places_of,
    verdicts,
)
from studies.noise_schedules.closed_form import (
    EXACT,
    curve_of,
    input_error,
    parsed,
    shift_error,
)
from studies.noise_schedules.plan import (
    ALL_SIZES,
    BASE,
    CROSSED,
    DATASETS,
    FUNCTIONS,
    RECIPES,
    SCALES,
    SEEDS,
    SIZES,
)

DIGITS = {"first": ".1f", "second": ".2f", "pixels": ".2f"}


def tables_of(rows: list[dict]) -> dict[str, str]:
    """Every table of the page by the name of its mark."""
    groups = groups_of(rows)
    return {
        "noise recipes": of_recipes(),
        "noise claims": of_claims(groups),
        "noise chance": of_chance(),
        "noise verdicts": of_verdicts(groups, across_sizes=False),
        "noise verdicts across sizes": of_verdicts(groups, across_sizes=True),
        "noise runs": of_runs(groups),
        "noise optima": of_optima(groups),
        "noise scores": of_scores(rows),
        "noise ratios": of_ratios(groups),
        "noise scatter": of_scatter(groups),
        "noise crossed": of_crossed(groups),
        "noise machines": of_machines(rows),
    }


def closed_forms() -> str:
    """The verdict of the claim that needs no run."""
    return STANDS if shift_error() < EXACT and input_error() < EXACT else DOES_NOT


def of_recipes() -> str:
    """log SNR of every recipe at the first, the middle and the last but one of the visited times.

    At T itself beta is cut off.
    """
    args = parsed(BASE)
    times = visited_times(args.timesteps, args.backward_steps, args.tau_type)
    shown = times[0], times[len(times) // 2 - 1], times[-2]
    lines = [[name, *(f"{curve_of(name).log_snr[t - 1]:.2f}" for t in shown)] for name in RECIPES]
    return markdown(["recipe", *(f"log SNR at t = {t}" for t in shown)], lines)


def of_claims(groups: Groups) -> str:
    """A row a claim, as a whole."""
    lines = {
        number: [number, claim.text, whole_verdict(verdicts(claim, groups).values())]
        for number, claim in CLAIMS.items()
    }
    lines["3"] = ["3", "scaling the input by b shifts log SNR by 2 log b", closed_forms()]
    return markdown(["", "claim", "verdict"], [lines[number] for number in sorted(lines)])


def whole_verdict(at_places: Collection[Verdict]) -> str:
    """The verdict of a claim, and whether an undecided one may still stand."""
    name = as_a_whole(verdict.name for verdict in at_places)
    fallen = any(verdict.held < verdict.checks for verdict in at_places)
    return f"{name}, but can no longer stand" if name == UNDECIDED and fallen else name


def of_chance() -> str:
    """How often each verdict comes out at a place where no schedule matters."""
    lines = [
        [number, " to ".join(map(str, sizes)), *(f"{share:.0%}" for share in of_verdict.values())]
        for (number, sizes), of_verdict in by_chance.shares().items()
    ]
    return markdown(["claim", "size", *by_chance.VERDICTS], lines)


def of_verdicts(groups: Groups, across_sizes: bool) -> str:
    """The verdicts at every place: a row a claim and data set, a column a size."""
    lines, head = [], []
    for number, claim in CLAIMS.items():
        if claim.across_sizes != across_sizes:
            continue
        at_places = verdicts(claim, groups)
        head = [" to ".join(map(str, sizes)) for sizes in places_of(claim)]
        for dataset in DATASETS:
            at = [at_places[dataset, sizes] for sizes in places_of(claim)]
            judges = dict.fromkeys(judge for verdict in at for judge in verdict.judges)
            texts = [verdict.text for verdict in at]
            lines.append([number, dataset, *texts, ", ".join(judges) or "–"])
    return markdown(["claim", "data set", *head, "judges"], lines)


def of_runs(groups: Groups) -> str:
    """How many of the planned runs have rows."""
    lines = []
    for dataset in DATASETS:
        line = [dataset]
        for size in SIZES:
            done = sum(
                len({recipe for recipe, _ in group.rows})
                for (name, side, _), group in groups.items()
                if (name, side) == (dataset, size)
            )
            line.append(f"{done} of {SEEDS * len(RECIPES)}")
        lines.append(line)
    return markdown(["data set", *(f"{size}×{size}" for size in SIZES)], lines)


def of_optima(groups: Groups) -> str:
    """The best b and the best function of every seed, by each judge."""
    lines = []
    for (dataset, size, seed), group in sorted(groups.items(), key=by_place):
        for judge in JUDGES:
            line = [dataset, size, seed, judge]
            for recipes in (SCALES, FUNCTIONS):
                needs = [(recipe, "own") for recipe in recipes]
                if not group.has(needs) or not group.sees(judge, needs):
                    line += ["–", "–"]
                    continue
                best = group.lowest(recipes, judge)
                name = "b 1" if recipes is SCALES and best == BASE else best
                level = float(group.rows[best, "own"]["log_snr_middle"])
                line.append(f"{name} (log SNR {level:.2f})")
                line.append(f"{group.fid(best, judge):{DIGITS[judge]}}")
            if line[4:] != ["–"] * 4:
                lines.append(line)
    head = ["data set", "size", "seed", "judge", "best b", "FID", "best function", "FID"]
    return markdown(head, lines)


def by_place(item) -> tuple[int, int, int]:
    """A key to sort groups by."""
    dataset, size, seed = item[0]
    return DATASETS.index(dataset), size, seed


def of_scores(rows: list[dict]) -> str:
    """A row a recipe and place: mean ± standard error over its seeds, by each judge."""
    lines = []
    for dataset in DATASETS:
        for size in ALL_SIZES:
            for recipe in RECIPES:
                runs = [
                    row
                    for row in rows
                    if row["sampled_by"] == "own"
                    and (row["dataset"], int(row["size"]), row["recipe"]) == (dataset, size, recipe)
                ]
                if runs:
                    fids = [fid_cell(runs, judge) for judge in JUDGES]
                    level = f"{float(runs[0]['log_snr_middle']):.2f}"
                    lines.append([dataset, size, recipe, level, len(runs), *fids])
    head = [f"FID by `{judge}`" for judge in JUDGES]
    return markdown(["data set", "size", "recipe", "log SNR at T/2", "seeds", *head], lines)


def fid_cell(rows: Iterable[dict], judge: str) -> str:
    values = [float(row[f"fid_{judge}"]) for row in rows if row[f"fid_{judge}"]]
    return plus_minus(values, DIGITS[judge])


def with_every_b(groups: Groups, judge: str) -> dict[tuple[str, int], list[Group]]:
    """The seeds of each place that a judge has scored with every b."""
    needs = by_own_schedule(*SCALES)
    complete: dict[tuple[str, int], list[Group]] = {}
    for (dataset, size, _), group in sorted(groups.items(), key=by_place):
        if group.has(needs) and group.sees(judge, needs):
            complete.setdefault((dataset, size), []).append(group)
    return complete


def of_ratios(groups: Groups) -> str:
    """FID with each b over that with b = 1 of the same seed, mean ± standard error."""
    others = sorted(set(SCALES) - {BASE}, key=lambda name: parsed(name).input_scale)
    lines = []
    for judge in JUDGES:
        for (dataset, size), of_place in with_every_b(groups, judge).items():
            line = [judge, dataset, size, len(of_place)]
            for name in others:
                ratios = [group.fid(name, judge) / group.fid(BASE, judge) for group in of_place]
                line.append(plus_minus(ratios, ".2f"))
            lines.append(line)
    return markdown(["judge", "data set", "size", "seeds", *others], lines)


def of_scatter(groups: Groups) -> str:
    """How far log FID over b is from a sum of an effect of b and one of the seed: the deviation."""
    columns = {judge: with_every_b(groups, judge) for judge in JUDGES}
    places = {place: None for of_judge in columns.values() for place in of_judge}
    lines = []
    for place in places:
        line = [*place]
        for judge in JUDGES:
            of_place = columns[judge].get(place, [])
            fids = np.array([[group.fid(name, judge) for name in SCALES] for group in of_place])
            line.append(f"{scatter(np.log(fids)):.0%}" if len(of_place) > 1 else "–")
        lines.append(line)
    return markdown(["data set", "size", *JUDGES], lines)


def scatter(values: np.ndarray) -> float:
    """The standard deviation of what rows and columns of a table do not explain."""
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    return float(np.sqrt((rest**2).sum() / freedom))


def of_crossed(groups: Groups) -> str:
    """FID of images drawn by cosine over that of the own schedule's, mean over the seeds."""
    lines = []
    for dataset in DATASETS:
        for size in ALL_SIZES:
            of_place = [
                g for (name, side, _), g in groups.items() if (name, side) == (dataset, size)
            ]
            for recipe in CROSSED:
                needs = [(recipe, "own"), (recipe, "cosine")]
                complete = [g for g in of_place if g.has(needs)]
                if not complete:
                    continue
                line = [dataset, size, recipe, len(complete)]
                for judge in JUDGES:
                    ratios = [
                        group.fid(recipe, judge, "cosine") / group.fid(recipe, judge)
                        for group in complete
                        if group.sees(judge, needs)
                    ]
                    line.append(plus_minus(ratios, ".2f"))
                lines.append(line)
    return markdown(["data set", "size", "trained with", "seeds", *JUDGES], lines)


def of_machines(rows: list[dict]) -> str:
    """Where the rows come from, and what they took."""

    def every(*names):
        return "; ".join(sorted({" ".join(row[name] for name in names) for row in rows}))

    runs = [row for row in rows if row["sampled_by"] == "own"]
    hours = sum(float(row["seconds"]) for row in runs) / 3600
    return markdown(
        ["", ""],
        [
            ["processor", every("device", "processor")],
            ["threads of a run", every("threads")],
            ["python, torch", every("python", "torch")],
            ["commit", every("commit")],
            ["reference", every("reference")],
            ["images judged", every("n")],
            ["DDIM steps", every("ddim_steps")],
            ["hours of the runs, by the clock", f"{hours:.1f}"],
        ],
    )
