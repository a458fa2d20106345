"""Fill the tables of the pages from docs/results.

python -m benchmarks.page
python -m benchmarks.page --pages speed.md
"""

from common import cli

NAMES = ["comparison.md", "hypergradient.md", "metrics.md", "sampling_schedules.md", "speed.md"]


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.page"
    add = cli.adder(parser)
    add("pages", NAMES, "pages to fill", choices=NAMES, nargs="+")
    return parser


if __name__ == "__main__":  # -h prints help and writes nothing
    ARGS = make_parser().parse_args()

from benchmarks import method_tables, metric_tables, sampling_tables, speed_tables
from benchmarks.record import ROOT
from common.tables import fill_file
from comparison import summary

DOCS = ROOT / "docs"
# page -> its tables, by the names of their marks
TABLES = {
    "comparison.md": summary.all_tables,
    "hypergradient.md": method_tables.all_tables,
    "metrics.md": metric_tables.all_tables,
    "sampling_schedules.md": sampling_tables.all_tables,
    "speed.md": speed_tables.all_tables,
}


if __name__ == "__main__":
    for page in ARGS.pages:
        fill_file(DOCS / page, TABLES[page]())
        print(f"wrote {DOCS / page}")
