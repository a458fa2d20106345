"""Rows of runs that are not on this machine: what the CSV files hold is neither run nor lost."""

from pathlib import Path

from common.tables import read_text_csv
from comparison.cells import Cell, without_threads

# the scores, what the runs cost, FID against forward passes, both terms of the gradients, where
# noise alone would have taken the schedule
TABLES = ("", "runs", "curves", "slopes", "null")


def results_path(path: Path, name: str) -> Path:
    """reproduce_cpu.csv holds the scores; beside it lie reproduce_cpu_runs.csv and _curves.csv."""
    return path.with_name(f"{path.stem}_{name}.csv") if name else path


def figure_path(path: Path, name: str) -> Path:
    """docs/results/x.csv -> docs/figures/x_name.png"""
    return path.parent.parent / "figures" / f"{path.stem}_{name}.png"


class Kept:
    """The rows of cells that are not done here, or not asked for, by table."""

    def __init__(self, path: Path, scale: list[Cell], asked: list[Cell], fresh: bool = False):
        """`scale` are the cells of all methods and seeds, `asked` those that are wanted now.

        `fresh`: those are run whatever rows they have, which stay until there are new ones.
        """
        self.unwanted = set(map(place, asked)) if fresh else set()
        self.tables = {name: _rows(results_path(path, name)) for name in TABLES}
        judged = {_place(row) for row in self.tables[""]}
        commands = {_place(row): row["command"] for row in self.tables["runs"]}
        known = {place(cell): cell for cell in scale if place(cell) in judged & set(commands)}

        def as_made(cell: Cell | None) -> bool:
            """Whether its row, if it has one, was made with its flags."""
            return not cell or cell.made_by(commands.get(place(cell), cell.command))

        # a row is no longer of its cell, either, when what the cell begins with has other flags
        self.places = {p for p, c in known.items() if all(map(as_made, (c, c.source, c.network)))}
        done = {place(cell) for cell in asked if cell.done}
        of_other_flags = (judged | set(commands)) - self.places - done
        self.changed = len(of_other_flags)
        every = dict.fromkeys(map(place, [*scale, *asked]))
        self.order = {cell: i for i, cell in enumerate(every)}

    def has_rows(self, cell: Cell) -> bool:
        return place(cell) in self.places - self.unwanted

    def holds(self, cell: Cell) -> bool:
        return self.has_rows(cell) and not cell.done

    def missing(self, cells: list[Cell]) -> list[Cell]:
        """The cells to run, with those that they begin with."""
        needed: dict[tuple[str, str], Cell] = {}
        for cell in cells:
            if not self.holds(cell):
                for other in (*cell.begins_with, cell):
                    needed.setdefault(place(other), other)
        return list(needed.values())

    def offer_schedules(self, cells: list[Cell]) -> None:
        """A cell whose source has kept rows trains with the schedule in them, if it is new."""
        rows = {_place(row): row for row in self.tables["runs"]}
        for cell in cells:
            if cell.source and self.holds(cell.source):
                cell.offered = rows[place(cell.source)]

    def replace(self, cells: list[Cell]) -> None:
        """The rows of these cells are written anew: none of theirs is kept, in any table."""
        self.places -= set(map(place, cells))

    def merged(self, name: str, rows: list[dict]) -> list[dict]:
        """The new rows of a table and the kept ones, in the order of the cells."""
        kept = [row for row in self.tables[name] if _place(row) in self.places]
        if rows:  # an older file may have other columns
            kept = [{column: row.get(column, "") for column in rows[0]} for row in kept]
        return sorted([*rows, *kept], key=lambda row: self.order[_place(row)])


def place(cell: Cell) -> tuple[str, str]:
    return cell.method, str(cell.seed)


def _place(row):
    return row["method"], str(row["seed"])


def _rows(path):
    return read_text_csv(path) if path.exists() else []


def read_tables(path: Path) -> dict[str, list[dict]]:
    """The rows of all files by name; of `again` and `again_runs` those of the first runs' flags."""
    names = (*TABLES, "again", "again_runs")
    tables = {name: _rows(results_path(path, name)) for name in names}
    first = {_place(row): without_threads(row["command"]) for row in tables["runs"]}
    same = {
        _place(row)
        for row in tables["again_runs"]
        if first.get(_place(row)) == without_threads(row["command"])
    }
    for name in ("again", "again_runs"):
        tables[name] = [row for row in tables[name] if _place(row) in same]
    return tables
