"""The ledger of a search: a flushed line a trial."""

import json
import math
import os
from pathlib import Path

import numpy as np

from common.errors import Stop, first_line, parse_json, read_json

# of a line of the ledger: what is in each column, and whether it may be empty
COLUMNS = {
    "trial": (int, False),
    "parameters": (dict, False),
    "seed": (int, False),
    "status": (str, False),
    "reason": (str, True),
    "objective": (float, True),
    "n": (int, False),
    "half": (float, True),
    "seconds": (float, True),
    "at": (float, False),
    "network_evaluations": (dict, False),
    "peak_memory": (dict, False),
}
MIN_TO_PRUNE = 3  # whole trials that a median needs


def trial_folder(search: Path, number: int) -> Path:
    """runs/00003-search-seed0/trials/007"""
    return search / "trials" / f"{number:03d}"


class Ledger:
    """search.jsonl, a flushed line a trial. A line cut short by a kill is taken away again."""

    def __init__(self, path: Path, warn=print, space: dict[str, tuple[float, float]] | None = None):
        """`space` has the ranges in which a search looks, outside of which there is no point."""
        self.path, self.rows, self.warn, self.space = path, {}, warn, space
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            warn(f"warning: {path}: its last line was cut short; that trial is looked at again")
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                row = parse_json(line)
                _check(row)
                if row["trial"] in self.rows:
                    raise ValueError(f"trial {row['trial']} a second time")
                self.rows[row["trial"]] = row
            except (ValueError, KeyError, TypeError) as error:
                reason = first_line(error)
                raise Stop(f"{path}: line {number} is damaged ({reason})") from None

    def add(self, row: dict) -> None:
        self.rows[row["trial"]] = row
        with open(self.path, "a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def known(self, trial: int, point: dict) -> dict:
        """The point of a trial: as the ledger has it, as its run began, or as it was asked for."""
        tried = self.tried(trial, point)
        if tried == point:
            return point
        space = self.space or {name: (-math.inf, math.inf) for name in point}
        if set(tried) != set(space) or not all(
            _is(float, tried[name]) and low <= tried[name] <= high
            for name, (low, high) in space.items()
        ):
            path = self.path if trial in self.rows else trial_folder(self.path.parent, trial)
            raise Stop(
                f"{path}: trial {trial} is outside the ranges of this search; start a new one, "
                "or resume with the file as the search left it"
            )
        self.warn(f"warning: trial {trial} was another point than this version asks for")
        return tried

    def tried(self, trial: int, point: dict) -> dict:
        """The parameters of a recorded trial, or of one that began; else those of `point`."""
        if trial in self.rows:
            return self.rows[trial]["parameters"]
        begun = trial_folder(self.path.parent, trial) / "args.json"
        arguments = read_json(begun).get("arguments") if begun.exists() else point
        if not isinstance(arguments, dict):
            raise Stop(f"{begun}: damaged (arguments)")
        return {name: arguments.get(name) for name in point}

    def before(self, trial: float = math.inf) -> list[dict]:
        """The rows of the trials before this one, by number."""
        return sorted(
            (row for row in self.rows.values() if row["trial"] < trial),
            key=lambda row: row["trial"],
        )

    def best(self) -> dict | None:
        return best_row(self.before())


def whole_rows(rows: list[dict]) -> list[dict]:
    """Those that came to their end."""
    return [row for row in rows if row["status"] == "ok"]


def best_row(rows: list[dict]) -> dict | None:
    """The lowest objective of those that came to their end."""
    return min(whole_rows(rows), key=lambda row: row["objective"], default=None)


def median_at_half(rows: list[dict]) -> float | None:
    """--prune: the median FID, at half their epochs, of the whole trials among the rows."""
    halves = [row["half"] for row in whole_rows(rows) if row["half"] is not None]
    return float(np.median(halves)) if len(halves) >= MIN_TO_PRUNE else None


def _check(row: dict) -> None:
    """A ValueError, KeyError or TypeError if a line is not one that a search writes."""
    for name, (kind, may_be_empty) in COLUMNS.items():
        value = row[name]
        if not (value is None and may_be_empty) and not _is(kind, value):
            raise ValueError(f"{name} is {value!r:.40}")
    numbers = [*row["parameters"].values(), *row["network_evaluations"].values()]
    if not all(_is(float, number) for number in [*numbers, *row["peak_memory"].values()]):
        raise ValueError("a number is none")
    if (row["objective"] is None) == (row["status"] == "ok"):
        raise ValueError(f"objective {row['objective']} with status {row['status']:.40}")


def _is(kind: type, value) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 1e300
    return type(value) is kind and (kind is not int or 0 <= value < 2**63)
