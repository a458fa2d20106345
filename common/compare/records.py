"""What a run's folder holds, as plain numbers: read without torch, whatever state the run is in.

An unfinished run has no summary, a failed one may end in the middle of a line, and a run of another
version has other columns: what is missing or damaged is noted, and the rest is read.
"""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import parse_json
from common.families import among

TABLES = ("scores", "timing", "iterations")
MEASURED = ("n", "extractor", "reference", "splits")
COUNTS = ("network_evaluations", "peak_memory")
Columns = dict[str, list[float]]


@dataclass
class ComparedRun:
    """A run as its files describe it."""

    folder: Path
    name: str
    about: dict[str, Any] = field(default_factory=dict)  # args.json
    summary: dict[str, Any] = field(default_factory=dict)  # empty: the run has not finished
    schedule: dict[str, Any] = field(default_factory=dict)
    band: Columns = field(default_factory=dict)
    tables: dict[str, Columns] = field(default_factory=dict)
    trials: list[dict] = field(default_factory=list)  # of a search, in order
    status: str = "finished"
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.about.get("kind", "unknown"))

    @property
    def arguments(self) -> dict[str, Any]:
        """Flags of the sampler that an older run lacks have the value that it drew with."""
        given = self.about.get("arguments") or {}
        if self.kind == "bilevel":  # which does not read it; its default was another once
            given = {name: value for name, value in given.items() if name != "frozen_updates"}
        return {"eta": 0.0, "eps_scale": 1.0, **given} if "sampler" in given else given


def read_record(folder: Path) -> ComparedRun:
    """Everything that is there; `notes` says what is not as it should be."""
    record = ComparedRun(folder, name_of(folder))
    record.about = _json(record, "args.json")
    record.summary = _json(record, "summary.json")
    record.schedule = _json(record, "schedule.json")
    record.band = _json(record, "null_band.json")
    record.tables = {name: _columns(record, f"{name}.csv") for name in TABLES}
    record.trials = _lines(record, "search.jsonl")
    record.status = "finished" if record.summary else _unfinished(record)
    if record.kind == "sample":
        record.status = "sampled only"
    elif not record.summary:
        record.notes.append(f"{record.status}, so it has no final scores")
    return record


def name_of(folder: Path) -> str:
    """00003-train-seed0, or 00004-search-seed0/007 of a trial."""
    folder = folder.resolve()
    if folder.parent.name == "trials":
        return f"{folder.parents[1].name}/{folder.name}"
    return folder.name


def last_row(columns: Columns) -> dict[str, float]:
    """The last number of each column."""
    return {name: values[-1] for name, values in columns.items() if values}


def parameters_of(schedule: dict) -> dict[str, float]:
    """The parameters of a schedule.json."""
    return {n: v for n, v in among(schedule).items() if isinstance(v, int | float)}


def _unfinished(record: ComparedRun) -> str:
    """How far a run came, or why a search gave it up."""
    trials = record.folder.parent
    if trials.name == "trials":
        known = _lines(ComparedRun(trials.parent, ""), "search.jsonl")
        row = next((r for r in known if f"{r.get('trial'):03d}" == record.folder.name), {})
        if row.get("status") in ("failed", "pruned"):
            return f"{row['status']} ({row.get('reason')})"
    if record.kind == "frozen":  # it has updates in place of epochs
        made = len(record.tables["iterations"].get("iteration", ()))
        return f"unfinished, {made} of {record.arguments.get('frozen_updates')} updates made"
    epochs = record.arguments.get("epochs")
    done = last_row(record.tables["scores"]).get("epoch", 0)
    if record.trials:
        return f"unfinished, {len(record.trials)} trials done"
    return f"unfinished, {done:.0f} of {epochs} epochs done" if epochs else "unfinished"


def _json(record: ComparedRun, name: str) -> dict:
    path = record.folder / name
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_bytes())
        if isinstance(content, dict) and _is_of_a_run(content):
            return content
    except (OSError, ValueError):
        pass
    record.notes.append(f"{name} is damaged")
    return {}


def _is_of_a_run(content: dict) -> bool:
    """Whether what the tables take apart has the type that a run writes."""
    arguments, *counts = (content.get(name) or {} for name in ("arguments", *COUNTS))
    again = content.get("judged_again") or []
    return (
        all(isinstance(part, dict) for part in (arguments, *counts))
        and all(isinstance(value, int | float) for part in counts for value in part.values())
        and isinstance(again, list)
        and all(isinstance(entry, dict) for entry in again)
        and not any(isinstance(content.get(name), dict | list) for name in MEASURED)
    )


def _lines(record: ComparedRun, name: str) -> list[dict]:
    """The objects of a file of JSON lines; a line cut short is left out."""
    path, rows = record.folder / name, []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = parse_json(line)
        except ValueError:
            record.notes.append(f"{name} has a damaged line")
            continue
        sound = isinstance(row, dict) and isinstance(row.get("trial"), int) and _is_of_a_run(row)
        rows += [row] if sound else []
    return sorted(rows, key=lambda row: row["trial"])


def _columns(record: ComparedRun, name: str) -> Columns:
    """A CSV file as columns of numbers: what is no number is NaN."""
    path = record.folder / name
    if not path.is_file():
        return {}
    with open(path, errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        record.notes.append(f"{name} has no rows")
        return {}
    return {key: [_number(row.get(key)) for row in rows] for key in rows[0] if key}


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
