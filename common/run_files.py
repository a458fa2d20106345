"""The files of a run's folder: its tables, which only grow, and nothing that leads out of it."""

import csv
import hashlib
import io
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common.errors import Stop, first_line

TABLES = ("losses.csv", "scores.csv", "timing.csv", "iterations.csv", "results.csv", "points.csv")


def refuse_links(folder: Path) -> None:
    """A Stop if a folder holds more than files and folders: a link would be written through."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process was just done with it
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise Stop(
                    f"{path}: neither a file nor a folder; a run does not write through links",
                    code=2,
                )


class Tables:
    """The CSV files of a run: rows are added, and a resumed run goes back to its checkpoint's."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.digests = {name: hashlib.sha256() for name in TABLES}  # of what the files hold

    def path(self, name: str) -> Path:
        return self.folder / name

    def row(self, name: str, values: dict) -> None:
        """Add a row, below a header if it is the first; None is an empty cell."""
        path, line = self.path(name), io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        if not path.exists() or path.stat().st_size == 0:
            writer.writerow(values)
        writer.writerow(f"{v:.9g}" if isinstance(v, float) else v for v in values.values())
        content = line.getvalue().encode()
        with open(path, "ab") as file:
            file.write(content)
        self.digests[name].update(content)

    def columns(self, name: str) -> dict[str, list[float]]:
        """A file as columns of numbers; an empty cell is NaN."""
        if not self.path(name).exists():
            return {}
        try:
            with open(self.path(name), encoding="utf-8") as file:
                table = list(csv.DictReader(file))
            names = table[0] if table else ()
            return {key: [float(row[key] or "nan") for row in table] for key in names}
        except (ValueError, TypeError, csv.Error) as error:
            raise Stop(f"{self.path(name)}: damaged ({first_line(error)})") from None

    def last_rows(self) -> dict[str, dict[str, float]]:
        """The last row of each file that has any, without its empty cells."""
        rows = {name: {k: x[-1] for k, x in self.columns(name).items()} for name in TABLES}
        return {n: {k: v for k, v in row.items() if v == v} for n, row in rows.items() if row}

    def mark(self) -> dict[str, tuple[int, str]]:
        """Where each file ends, and the SHA-256 up to there; what is marked is on the disk."""
        ends = {}
        for name in TABLES:
            if not self.path(name).exists():
                continue
            with open(self.path(name), "rb") as file:
                os.fsync(file.fileno())  # the rows must not be younger than the checkpoint
            ends[name] = self.path(name).stat().st_size, self.digests[name].hexdigest()
        return ends

    def go_back(self, ends: dict[str, tuple[int, str]], warn: Callable[[str], None]) -> None:
        """Cut what was written after a mark; a Stop if what was written before has changed."""
        for name in TABLES:
            path, (size, digest) = self.path(name), ends.get(name, (0, ""))
            self.digests[name] = hashlib.sha256()
            if not path.exists():
                if size:
                    warn(f"warning: {path} is gone, and its rows up to this checkpoint are lost")
                continue
            with open(path, "rb") as file:
                content = file.read(size)
            self.digests[name].update(content)
            if size and (len(content) < size or self.digests[name].hexdigest() != digest):
                raise Stop(
                    f"{path}: changed since the checkpoint; put the original back, or delete the "
                    "file to continue without its earlier rows"
                )
            os.truncate(path, size)
