"""Rows of runs that are not on this machine: what the CSV files hold is neither run nor lost."""

from pathlib import Path

from common.tables import read_text_csv
from comparison.cells import Cell

TABLES = ("", "runs", "curves")  # the scores, what the runs cost, FID against forward passes


def results_path(path: Path, name: str) -> Path:
    """reproduce_cpu.csv holds the scores; beside it lie reproduce_cpu_runs.csv and _curves.csv."""
    return path.with_name(f"{path.stem}_{name}.csv") if name else path


class Kept:
    """The rows of the cells that have some and no folder here, by table."""

    def __init__(self, path: Path, cells: list[Cell]):
        tables = {name: _rows(results_path(path, name)) for name in TABLES}
        judged = {_place(row) for row in tables[""]}
        commands = {_place(row): row["command"] for row in tables["runs"]}
        self.places = {
            place(cell)
            for cell in cells
            # with other flags it is another run
            if not cell.done and place(cell) in judged and commands.get(place(cell)) == cell.command
        }
        self.tables = {
            name: [row for row in rows if _place(row) in self.places]
            for name, rows in tables.items()
        }

    def holds(self, cell: Cell) -> bool:
        return place(cell) in self.places

    def missing(self, cells: list[Cell]) -> list[Cell]:
        """The cells to run, with those that they begin with."""
        needed: dict[tuple[str, str], Cell] = {}
        for cell in cells:
            if not self.holds(cell):
                for other in (*cell.begins_with, cell):
                    needed.setdefault(place(other), other)
        return list(needed.values())

    def merged(self, name: str, rows: list[dict], cells: list[Cell]) -> list[dict]:
        """The new rows of a table and the kept ones, in the order of the cells."""
        order = {place(cell): i for i, cell in enumerate(cells)}
        return sorted([*rows, *self.tables[name]], key=lambda row: order[_place(row)])


def place(cell: Cell) -> tuple[str, str]:
    return cell.method, str(cell.seed)


def _place(row):
    return row["method"], str(row["seed"])


def _rows(path):
    return read_text_csv(path) if path.exists() else []
