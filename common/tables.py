"""Tables: CSV files, Markdown, and the generated tables of a page, between marks.

In a page a table has its place between two marks, and the text around them is written by hand:

    <!-- table: NAME -->
    <!-- end of table -->
"""

import csv
import os
import re
import statistics
from pathlib import Path

from common.errors import Stop

END = "<!-- end of table -->"


def read_text_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as text: a commit such as 6e1234567890 stays what it is."""
    with open(path) as file:
        return list(csv.DictReader(file))


def read_csv(path: Path) -> list[dict]:
    """Rows of a CSV file, numbers as numbers."""
    return [{k: _number(v) for k, v in row.items()} for row in read_text_csv(path)]


def _number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write_csv(path: Path, rows: list[dict]) -> None:
    """The columns are those of the first row; what another row lacks is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")  # the rows that are there outlive an interrupt
    with open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def rounded(row: dict, digits: int = 6) -> dict:
    """A row with its floats as text of so many significant digits."""
    return {k: f"{v:.{digits}g}" if type(v) is float else v for k, v in row.items()}


def markdown(head: list, rows: list[list]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    """The mean, and its standard error; one value alone has none."""
    n = len(values)
    return statistics.fmean(values), statistics.stdev(values) / n**0.5 if n > 1 else None


def plus_minus(values: list[float], form: str) -> str:
    """Mean ± standard error as a cell of a table, in a number's format such as `.2f` or `+.1f`."""
    return with_error(*mean_and_error(values), form) if values else "–"


def with_error(value: float, error: float | None, form: str) -> str:
    """A number, ± its error if there is one."""
    text = f"{value:{form}}"
    return text if error is None else f"{text} ± {error:{form.removeprefix('+')}}"


def counted(number: int, thing: str) -> str:
    """As in 1 epoch and 2 epochs."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def fill(text: str, tables: dict[str, str]) -> str:
    """A page's text with each table between its marks; a table without marks is a Stop."""
    for name, table in tables.items():
        start = f"<!-- table: {name} -->\n"
        pattern = re.compile(re.escape(start) + ".*?" + re.escape(END), re.DOTALL)
        places = list(pattern.finditer(text))
        if len(places) != 1:
            raise Stop(f"the page needs one line {start.strip()} and, after it, {END}")
        filled = f"{start}{table.strip()}\n{END}"
        text = text[: places[0].start()] + filled + text[places[0].end() :]
    return text


def fill_file(path: Path, tables: dict[str, str]) -> None:
    """Fill the tables of a page in place."""
    path.write_text(fill(path.read_text(), tables))
