"""Compare runs: python -m common.compare 3 4 --html compared.html

The flags that differ, the final scores by every judge, what each run cost, and runs that differ in
their seed alone taken together; in figures, the scores over steps and time, the path of a learned
schedule beside what noise does to it, its slopes with their noise, and samples from the same noise.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser("Compare runs: flags that differ, final scores, cost, curves, samples.")
    parser.prog = "python -m common.compare"
    text = "folder or number of a run, runs/00004/trials/7 of a search, or 'latest'"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=text)
    add = cli.adder(parser)
    add("runs_dir", "runs", "folder in which runs are looked for by number")
    add("out", "runs/compared", "folder for the figures; it is created", metavar="DIR")
    add("html", None, "write tables and figures into one HTML file", metavar="FILE")
    text = "images to draw with the network of each run, from the same noise; 0: none"
    add("n_samples", 16, text, type=cli.count_or_none)
    text = "cpu, mps, cuda or cuda:N; auto takes cuda if available, else mps, else cpu"
    add("device", "auto", text, type=cli.device)
    add("threads", 0, "CPU threads; 0: torch's default", type=cli.threads)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import shutil
import sys
from pathlib import Path

from common.compare.figures import draw, drawn_before
from common.compare.page import page
from common.compare.records import ComparedRun, read_record
from common.compare.tables import all_tables
from common.errors import Stop, guarded
from common.locate import find_run
from common.machine import setup

LEAST_WIDTH = 100


def main(args) -> None:
    """Print the tables, draw the figures, write the page."""
    device = setup(args.device, threads=args.threads)
    drawn_before(Path(args.out))  # or a Stop, before there is output
    records = records_of(args.runs, args.runs_dir)
    tables = all_tables(records)
    width = max(LEAST_WIDTH, shutil.get_terminal_size().columns)
    print("\n\n".join(table.text(width) for table in tables))
    pictures, missing = draw(records, Path(args.out), args.n_samples, device)
    notes = [f"{record.name}: {note}" for record in records for note in record.notes] + missing
    print("\n" + "\n".join([f"note: {note}" for note in notes] + [str(p.path) for p in pictures]))
    if args.html:
        names = " ".join(record.name for record in records)
        Path(args.html).write_text(page(f"Runs {names}", tables, pictures, notes), encoding="utf-8")
        print(args.html)


def records_of(names: list[str], runs_dir: str) -> list[ComparedRun]:
    """The runs in the order in which they are named, each once."""
    folders = []
    for name in names:
        try:
            folders.append(find_run(name, runs_dir))
        except ValueError as error:
            raise Stop(f"{name}: {error}", code=2) from None
    records = [read_record(folder) for folder in dict.fromkeys(map(Path.resolve, folders))]
    known = [record.name for record in records]
    for record in records:  # runs of two folders may have the same name
        if known.count(record.name) > 1:
            record.name = str(record.folder)
    return records


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "compare"))
