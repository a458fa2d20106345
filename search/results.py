"""What a search found: the table of trials, the best schedule, both judged on held-out noise."""

from collections import Counter

from common import checkpoint, figures
from common.errors import Stop
from common.judging import Judges, judge_checkpoint
from common.run import Run
from common.sampling import SamplerSettings
from scheduler import Schedule
from search import pictures
from search.ledger import Ledger, trial_folder
from search.points import fitted


def trial_line(row: dict) -> str:
    """A line of the table of trials."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in row["parameters"].items())
    result = row["reason"] or f"FID {row['objective']:.5g} (n {row['n']})"
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
    return f"trial {row['trial']:3d} {row['status']:7s} {values:55s} {seconds:>7s}  {result}"


def trials_table(rows: list[dict]) -> str:
    """All trials, the best first; those without an objective last."""

    def order(row):
        return (row["objective"] is None, row["objective"], row["trial"])

    return "best first:\n" + "\n".join(trial_line(row) for row in sorted(rows, key=order))


def best_of(run: Run, ledger: Ledger) -> dict:
    """The best trial's row; a Stop if no trial came to its end."""
    rows = list(ledger.rows.values())
    if not rows:
        raise Stop(f"{run.folder}: ended before the first trial; a longer --deadline is needed")
    best = ledger.best()
    if not best:
        raise Stop(f"{run.folder}: all {len(rows)} trials failed; the first: {rows[0]['reason']}")
    return best


def judge_on_held_out_noise(
    run: Run,
    rows: dict[str, dict],
    judges: Judges,
    settings: SamplerSettings,
    n: int,
    device,
) -> dict[str, dict]:
    """The scores of each row's network, all from one noise, on which none was selected."""
    known = {}  # trial -> scores; the best may be the default
    for row in rows.values():
        number = row["trial"]
        if number not in known:
            path = checkpoint.newest(trial_folder(run.folder, number))
            known[number] = judge_checkpoint(path, judges, device, n, settings, "fresh noise", run)
    scores = {name: known[row["trial"]] for name, row in rows.items()}
    fids = (
        f"{name} (trial {rows[name]['trial']}) FID {s['fid']:.5g}" for name, s in scores.items()
    )
    run.log(f"on the same held-out noise, {n} images each, against test images: {', '.join(fids)}")
    return scores


def save_best(
    run: Run,
    first: Schedule | None,
    best: Schedule,
    space: dict,
    search_seed: int,
    rows: list[dict],
) -> None:
    """schedule.json, and the figures of the search; `first` is trial 0's where that is a given."""
    run.write_json("schedule.json", best.to_dict())
    folder = run.folder / "figures"
    default = Schedule(best.family, best.timesteps)
    name = f"{best.family}'s default"
    lines = {name: default, "best": best}
    if first and first.values() != default.values():
        name = "as given"
        lines["trial 0, as given"] = first
    figures.plot_schedules(folder / "schedule.png", lines)
    marked = name if first else None
    pictures.plot_search(folder, fitted(space, search_seed, rows), rows, marked)
    run.log(f"pictures: {', '.join(map(str, sorted(folder.iterdir())))}")


def totals(rows: list[dict]) -> dict:
    """Trials by status, and the largest peak of memory among them."""
    peaks = {name for row in rows for name in row["peak_memory"]}
    return {"trials": len(rows), **Counter(row["status"] for row in rows)} | {
        f"trials_peak_{name}": max(row["peak_memory"].get(name, 0) for row in rows)
        for name in sorted(peaks)
    }
