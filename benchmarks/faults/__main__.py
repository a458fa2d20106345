"""Try every fault of docs/reliability.md and count how often its promise holds.

python -m benchmarks.faults              all cases, over an hour on two cores; goes on where it was
python -m benchmarks.faults --quick      a few cases of each row, three to four minutes

Writes docs/results/faults.json, and from it the table in docs/reliability.md. --quick tries its
cases anew each time, prints what held, and leaves the table's numbers alone.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.faults"
    add = cli.adder(parser)
    text = "try a few cases of each row, anew; the table's numbers are left alone"
    add("quick", False, text, action="store_true")
    text = "spend so many minutes, the same on each row that is not complete; 0: no limit"
    add("minutes", 0.0, text, type=cli.number(float, 0))
    add("rows", None, "only rows whose name or fault contains one of these", nargs="+")
    text = "forget what was measured, of all rows or of those of --rows"
    add("fresh", False, text, action="store_true")
    text = "run no case; rewrite the table from the file"
    add("report", False, text, action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import math
import sys
import time
from collections.abc import Iterator

from benchmarks.faults import (
    checkpoints,
    commands,
    comparisons,
    failures,
    files,
    folders,
    kills,
    limits,
    numbers,
    saving,
    surroundings,
)
from benchmarks.faults.page import PAGE, tables
from benchmarks.faults.row import DoesNotApply, Row
from benchmarks.record import load_average, machine, read_json, write_json
from common.provenance import commit
from common.tables import fill_file

FILE = "faults"
MODULES = (kills, comparisons, failures, saving, checkpoints, folders, files, numbers)
MODULES += (surroundings, limits, commands)
ROWS: list[Row] = [row for module in MODULES for row in module.ROWS]
SAVE_SECONDS = 5.0
KEPT = 20  # failures that are written down for each row


def nothing_yet() -> dict:
    return {"i": 0, "n": 0, "held": 0, "seconds": 0.0, "failures": []}


def measure(row: Row, result: dict, target: int, until: float) -> Iterator[None]:
    """Cases of a row from where it stands, counted in `result`; pauses when it is worth saving."""
    saved = began = time.monotonic()
    before = result["seconds"]
    while result["i"] < target and time.monotonic() < until:
        try:
            failure = row.tried(result["i"])
            result["n"] += 1
            result["held"] += failure is None
            if failure:
                result["failures"] = [*result["failures"], f"case {result['i']}: {failure}"][:KEPT]
        except DoesNotApply:
            pass
        result["i"] += 1
        result["seconds"] = round(before + time.monotonic() - began, 1)
        if time.monotonic() > saved + SAVE_SECONDS:
            saved = time.monotonic()
            yield
    yield


def say(row: Row, result: dict) -> None:
    print(f"{row.fault}: {result['held']} of {result['n']} ({result['seconds']:g} s)", flush=True)
    for failure in result["failures"]:
        print(f"  {failure}", flush=True)


def quick(chosen: list[Row]) -> dict:
    """The first cases of each row; how many there were, how many held, and what that took."""
    began, results = time.monotonic(), []
    for row in chosen:
        result = nothing_yet()
        for _ in measure(row, result, row.quick, math.inf):
            pass
        results.append(result)
        say(row, result)
    total = {name: sum(result[name] for result in results) for name in ("n", "held")}
    seconds = round(time.monotonic() - began, 1)
    facts = {"seconds": seconds, "load_average": load_average(), "commit": commit()}
    print(f"{total['held']} of {total['n']} held, {seconds:.0f} s")
    return {**total, "rows": len(chosen), **facts}


def measure_all(chosen: list[Row], record: dict, minutes: float) -> None:
    """Each row from where it stands; the record is written every few seconds."""
    end, code = time.monotonic() + 60 * minutes, commit()  # before the record is a change to it
    left = [r for r in chosen if record["rows"].get(r.name, {"i": 0})["i"] < r.whole]
    for n, row in enumerate(left):
        result = record["rows"].setdefault(row.name, nothing_yet())
        commits = dict.fromkeys([*result.get("commit", code).split(", "), code])
        result |= {"commit": ", ".join(commits), "load_average": load_average()}
        now = time.monotonic()
        until = now + (end - now) / (len(left) - n) if minutes else math.inf
        for _ in measure(row, result, row.whole, until):
            write_json(FILE, record)
        say(row, result)


def main(args) -> int:
    record = {"command": "python -m benchmarks.faults", "machine": machine(), "rows": {}}
    record |= read_json(FILE) or {}
    record["rows"] = {r.name: record["rows"][r.name] for r in ROWS if r.name in record["rows"]}
    chosen = [
        row for row in ROWS
        if not args.rows or any(text in row.name or text in row.fault for text in args.rows)
    ]  # fmt: skip
    if args.quick:
        total = quick(chosen)
        if chosen == ROWS:
            write_json(FILE, {**record, "quick": total})
            fill_file(PAGE, tables(ROWS, {**record, "quick": total}))
        return int(total["held"] < total["n"])
    for row in chosen if args.fresh else []:
        record["rows"].pop(row.name, None)
    if not args.report:
        measure_all(chosen, record, args.minutes)
    fill_file(PAGE, tables(ROWS, record))
    return int(any(record["rows"].get(r.name, {}).get("failures") for r in chosen))


if __name__ == "__main__":  # the forked processes import this file too
    sys.exit(main(ARGS))
