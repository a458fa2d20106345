"""The tables of a comparison of runs: what differs, the scores by every judge, seeds together."""

import json
import math
from collections import Counter
from typing import Any

from common.cli import MAY_CHANGE
from common.compare.records import MEASURED, ComparedRun, parameters_of
from common.compare.text import NONE, Table, shown, with_error
from common.families import NAMES
from common.run import forward_passes
from common.sampling import SAMPLED_BY
from common.tables import mean_and_error

# flags and facts that change no number, and those that belong to another row
BOOKKEEPING = MAY_CHANGE - {"inception_weights"} | {"jobs", *NAMES}
FACTS = ("commit", "device", "threads", "data")
# of summary.json: neither a score nor what a score was measured with
COSTS = {
    "epochs", "steps", "seconds", "network_evaluations", "peak_memory", "trials", "ok", "failed",
    "pruned", "trials_peak_host", "trials_peak_cuda", "best", "optimizer_seconds", "updates",
    "learning_seconds", "judged_again", "loss",
    "ema_memory",
}  # fmt: skip


def all_tables(records: list[ComparedRun]) -> list[Table]:
    """The tables in the order in which they are read."""
    tables = [differences(records), scores(records), costs(records), over_seeds(records)]
    return [table for table in tables if table.rows]


def differences(records: list[ComparedRun]) -> Table:
    """The flags that differ, and the schedule that each run ended with.

    A flag that only some kinds of run have is shown where their values differ or where a command
    gave it.
    """
    table = Table("flags that differ", names(records))
    table.add("kind", same_or_all([record.kind for record in records]))
    for flag in dict.fromkeys(name for record in records for name in record.arguments):
        known = [record for record in records if flag in record.arguments]
        values = {json.dumps(record.arguments[flag]) for record in known}
        given = any(f"--{flag}" in str(r.about.get("command", "")).split() for r in known)
        if flag not in BOOKKEEPING and (len(values) > 1 or (len(known) < len(records) and given)):
            table.add(flag, [shown(record.arguments.get(flag)) for record in records])
    for fact in FACTS:
        table.add(fact, same_or_all([shown(record.about.get(fact)) for record in records]))
    families = [record.schedule.get("family") for record in records]
    table.add("schedule", same_or_all([shown(family) for family in families]))
    parameters = [parameters_of(record.schedule) for record in records]
    knots = [sum(name.startswith("knot_") for name in values) for values in parameters]
    table.add("schedule: knots", [str(count) if count else NONE for count in knots])
    for name in dict.fromkeys(name for values in parameters for name in values if name in NAMES):
        table.add(f"schedule: {name}", [shown(values.get(name)) for values in parameters])
    return table


def scores(records: list[ComparedRun]) -> Table:
    """Every number of summary.json that a judge gave, with its standard error if it has one."""
    table = Table("final scores", names(records))
    measured = [scores_of(record.summary) for record in records]
    for name in dict.fromkeys(name for values in measured for name in values):
        table.add(name, [values.get(name, NONE) for values in measured])
    for name in MEASURED:
        table.add(name, [shown(record.summary.get(name)) for record in records])
    notes = ["± of is_mean: standard error over the splits; a number without ± has none on file"]
    if any(len({*map(str, set_of(records, name))}) > 1 for name in MEASURED[:3]):
        notes.append("FIDs compare only at equal n, extractor and reference: here they differ")
    table.note = "\n".join(notes)
    return table


def set_of(records: list[ComparedRun], name: str) -> set:
    """The values of a key of summary.json among the runs that have it."""
    return {record.summary[name] for record in records if record.summary.get(name) is not None}


def scores_of(summary: dict[str, Any]) -> dict[str, str]:
    """Name -> number ± error; those of nested parts and of later evaluations under their names."""
    parts, seen = {"": summary}, Counter[str]()
    parts |= {f"{k}: ": v for k, v in summary.items() if isinstance(v, dict) and k not in COSTS}
    for entry in summary.get("judged_again") or ():
        changed = [
            n if v is True else f"{n} {shown(v)}"
            for n, v in entry.items()
            if n in (*SAMPLED_BY, *MEASURED[:3]) and v != summary.get(n)
        ]
        label = ", ".join(["again", *changed])
        seen[label] += 1
        number = f" ({seen[label]})" if seen[label] > 1 else ""
        parts[f"{label}{number}: "] = entry
    cells = {}
    for prefix, part in parts.items():
        skip = {*COSTS, *MEASURED, *SAMPLED_BY, *parameters_of(part)}
        for name, value in part.items():
            text = isinstance(value, bool) or not isinstance(value, int | float)
            if not (text or name in skip or name.endswith(("_se", "_std"))):
                cells[prefix + name] = with_error(value, error_of(part, name))
    return cells


def error_of(part: dict[str, Any], name: str) -> float | None:
    """The standard error of a score, where its file has what it needs."""
    if isinstance(error := part.get(f"{name}_se"), int | float):
        return error
    splits, std = part.get("splits"), part.get("is_std")
    if (
        name == "is_mean"
        and isinstance(std, int | float)
        and isinstance(splits, int)
        and splits > 1
    ):
        return std / math.sqrt(splits - 1)  # it is the deviation of all splits
    return None


def costs(records: list[ComparedRun]) -> Table:
    """How far each run came and what it took."""
    table = Table("cost", names(records))
    summaries = [record.summary for record in records]
    table.add("status", [record.status for record in records])
    for name in ("epochs", "steps", "updates", "trials", "loss"):
        table.add(name, [shown(summary.get(name)) for summary in summaries])
    evaluations = [summary.get("network_evaluations") for summary in summaries]
    table.add("evaluations", [f"{forward_passes(e):,}" if e else NONE for e in evaluations])
    table.add("seconds", [shown(summary.get("seconds")) for summary in summaries])
    peaks = [max((summary.get("peak_memory") or {"": 0}).values()) for summary in summaries]
    table.add("peak GiB", [f"{peak / 2**30:.2f}" if peak else NONE for peak in peaks])
    table.note = "evaluations: forward passes of one image; a backward pass counts as two"
    return table


def over_seeds(records: list[ComparedRun]) -> Table:
    """Runs that differ in nothing but the seed as one column; then differences, seed by seed."""
    groups: dict[str, dict[str, ComparedRun]] = {}
    for record in records:
        if record.summary:
            by_seed = groups.setdefault(flags_without_seed(record), {})
            by_seed[repr(record.arguments.get("seed"))] = record
    parts = [list(by_seed.values()) for by_seed in groups.values()]
    table = Table("over seeds", [f"{p[0].name} × {len(p)}" for p in parts])
    if max(map(len, parts), default=0) < 2:
        return table
    first = parts[0]
    for name in numbers(first[0]):
        table.add(name, [mean_text([numbers(r).get(name) for r in part]) for part in parts])
    for name in numbers(first[0]) if len(parts) > 1 else ():
        paired = [paired_differences(first, part, name) for part in parts[1:]]
        table.add(f"{name}, difference", [NONE, *(mean_text(values) for values in paired)])
    table.note = (
        "mean ± standard error over seeds (number of seeds); difference: to the first column, "
        "between runs of the same seed"
    )
    return table


def numbers(record: ComparedRun) -> dict[str, float]:
    """The scores of a run as numbers."""
    plain = {n: v for n, v in record.summary.items() if isinstance(v, int | float)}
    return {name: plain[name] for name in scores_of(record.summary) if name in plain}


def flags_without_seed(record: ComparedRun) -> str:
    """What two runs of different seeds have in common."""
    skip = BOOKKEEPING - set(NAMES) | {"seed"}
    flags = {n: v for n, v in record.arguments.items() if n not in skip}
    return json.dumps([record.kind, flags, record.about.get("data")], sort_keys=True)


def paired_differences(
    first: list[ComparedRun], other: list[ComparedRun], name: str
) -> list[float]:
    """Of runs with the same seed."""
    by_seed = {record.arguments.get("seed"): numbers(record).get(name) for record in first}
    deltas = []
    for record in other:
        value, base = numbers(record).get(name), by_seed.get(record.arguments.get("seed"))
        if value is not None and base is not None:
            deltas.append(value - base)
    return deltas


def mean_text(values: list) -> str:
    """Mean ± standard error (count)."""
    values = [value for value in values if value is not None]
    if not values:
        return NONE
    return f"{with_error(*mean_and_error(values))} ({len(values)})"


def same_or_all(values: list[str]) -> list[str]:
    """The values of a row, or nothing to show where all are the same."""
    return values if len(set(values)) > 1 else [NONE] * len(values)


def names(records: list[ComparedRun]) -> list[str]:
    return [record.name for record in records]
