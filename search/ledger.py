"""The ledger of a search: a flushed line a trial."""

import json
import math
import os
from pathlib import Path

import numpy as np

from common.errors import Stop

COLUMNS = {"trial", "parameters", "seed", "status", "reason", "objective", "n", "half"}
COLUMNS |= {"seconds", "at", "network_evaluations", "peak_memory"}  # of a line of the ledger


MIN_TO_PRUNE = 3  # whole trials that a median needs


class Ledger:
    """search.jsonl, a flushed line a trial. A line cut short by a kill is taken away again."""

    def __init__(self, path: Path, warn=print):
        self.path, self.rows, self.warn = path, {}, warn
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            warn(f"warning: {path}: its last line was cut short; that trial is looked at again")
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                value = row["objective"]
                failed = value is None and row["status"] != "ok"
                if not failed and not math.isfinite(value):
                    raise ValueError(f"objective {value}")
                if missing := COLUMNS - set(row):
                    raise KeyError(*missing)
                self.rows[int(row["trial"])] = row
            except (ValueError, KeyError, TypeError) as error:
                raise Stop(f"{path}: line {number} is damaged ({error!r})") from None

    def add(self, row: dict) -> None:
        self.rows[row["trial"]] = row
        with open(self.path, "a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def known(self, trial: int, point: dict) -> dict:
        """The point of a trial: as the ledger has it, or as it was asked for."""
        row = self.rows.get(trial)
        if row and row["parameters"] != point:
            self.warn(f"warning: trial {trial} was another point than this version asks for")
        return row["parameters"] if row else point

    def before(self, trial: float = math.inf) -> list[dict]:
        """The rows of the trials before this one, by number."""
        return sorted(
            (row for row in self.rows.values() if row["trial"] < trial),
            key=lambda row: row["trial"],
        )

    def whole(self) -> list[dict]:
        """The trials that came to their end, by number."""
        return whole_rows(self.before())

    def best(self) -> dict | None:
        return best_row(self.before())

    def limit(self, before: float = math.inf) -> float | None:
        return median_at_half(self.before(before))


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
