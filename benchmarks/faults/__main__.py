"""Try every fault of docs/reliability.md and count how often its promise holds.

python -m benchmarks.faults --quick      a few cases of each row, three minutes
python -m benchmarks.faults              all of them, two hours on two cores; continues where it was

Writes docs/results/faults.json, and from it the table in docs/reliability.md.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.faults"
    add = cli.adder(parser)
    add("quick", False, "a few cases of each row", action="store_true")
    text = "begin no further case after so many minutes; 0: no limit"
    add("minutes", 0.0, text, type=cli.number(float, 0))
    add("rows", None, "only rows whose name or fault contains one of these", nargs="+")
    text = "forget what was measured, of all rows or of those of --rows"
    add("fresh", False, text, action="store_true")
    text = "run no case; rewrite the table from the file"
    add("report", False, text, action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import sys
import time
from collections.abc import Iterator

from benchmarks.faults import commands, files, numbers, runs, surroundings
from benchmarks.faults.row import DoesNotApply, Row
from benchmarks.record import ROOT, command_line, machine, read_json, write_json
from common.tables import fill_file, markdown

FILE, PAGE = "faults", ROOT / "docs" / "reliability.md"
ROWS: list[Row] = [*runs.ROWS, *files.ROWS, *numbers.ROWS, *surroundings.ROWS, *commands.ROWS]
SAVE_SECONDS = 5.0
KEPT = 20  # failures that are written down for each row


def render(record: dict) -> str:
    """The table: what was done, what is promised, and how often it held."""
    cells = []
    for row in ROWS:
        if found := record["rows"].get(row.name):
            cells.append([row.fault, row.promise, f"{found['held']:,} of {found['n']:,}"])
    return markdown(["fault", "promise", "held"], cells)


def measure(row: Row, found: dict, target: int, until: float) -> Iterator[None]:
    """Cases of a row from where it stands, counted in `found`; pauses when it is worth saving."""
    saved = time.monotonic()
    while found["i"] < target and time.monotonic() < until:
        try:
            failure = row.tried(found["i"])
            found["n"] += 1
            found["held"] += failure is None
            if failure:
                found["failures"] = [*found["failures"], f"case {found['i']}: {failure}"][:KEPT]
        except DoesNotApply:
            pass
        found["i"] += 1
        if found["i"] % 50 == 0 or time.monotonic() > saved + SAVE_SECONDS:
            saved = time.monotonic()
            yield
    yield


def main(args) -> int:
    record = read_json(FILE) or {"rows": {}}
    chosen = [
        row for row in ROWS
        if not args.rows or any(text in row.name or text in row.fault for text in args.rows)
    ]  # fmt: skip
    until = time.monotonic() + (60 * args.minutes or 10**9)
    for row in [] if args.report else chosen:
        if args.fresh:
            record["rows"].pop(row.name, None)
        new = {"i": 0, "n": 0, "held": 0, "seconds": 0.0, "failures": []}
        found = record["rows"].setdefault(row.name, new)
        began, before = time.monotonic(), found["seconds"]
        for _ in measure(row, found, row.quick if args.quick else row.whole, until):
            found["seconds"] = round(before + time.monotonic() - began, 1)
            write_json(FILE, {"command": command_line("faults"), "machine": machine(), **record})
        print(f"{row.fault}: {found['held']} of {found['n']}", flush=True)
        for failure in found["failures"]:
            print(f"  {failure}", flush=True)
    record = {**record, "command": command_line("faults"), "machine": machine()}
    if not args.report:
        write_json(FILE, record)
    fill_file(PAGE, {"faults": render(record)})
    return int(any(record["rows"].get(r.name, {}).get("failures") for r in chosen))


if __name__ == "__main__":  # the forked processes import this file too
    sys.exit(main(ARGS))
