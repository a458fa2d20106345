"""A table of runs: a column a run, a row a quantity, as text that fits a terminal."""

from dataclasses import dataclass, field

NONE = "–"
LONGEST = 32  # characters of a value that are shown: of a path, its end


@dataclass
class Table:
    """A title, a column a run, a row a quantity; `note` says how to read it."""

    title: str
    head: list[str]
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    note: str = ""

    def add(self, name: str, values: list[str]) -> None:
        """A row, unless there is nothing in it."""
        if any(value != NONE for value in values):
            self.rows.append((name, values))

    def text(self, width: int) -> str:
        """As lines of at most this width, where a column allows it: the runs in several blocks."""
        first = max(map(len, ["", *(name for name, _ in self.rows)]))
        columns = [
            max(map(len, [name, *(values[i] for _, values in self.rows)]))
            for i, name in enumerate(self.head)
        ]
        blocks, start = [], 0
        while start < len(columns):
            end = start + 1
            while (
                end < len(columns) and first + sum(c + 2 for c in columns[start : end + 1]) <= width
            ):
                end += 1
            parts = [(name, values[start:end]) for name, values in self.rows]
            parts = [("", self.head[start:end]), *(p for p in parts if set(p[1]) != {NONE})]
            blocks.append("\n".join(_line(*part, first, columns[start:end]) for part in parts))
            start = end
        note = [self.note] if self.note else []
        return "\n".join([f"{self.title}:", *blocks, *note])


def _line(name: str, values: list[str], first: int, columns: list[int]) -> str:
    cells = (value.rjust(column + 2) for value, column in zip(values, columns, strict=True))
    return name.ljust(first) + "".join(cells)


def with_error(value: float, error: float | None) -> str:
    return f"{value:.5g}" if error is None else f"{value:.5g} ± {error:.2g}"


def shown(value) -> str:
    """A value of a flag or a summary, short."""
    if value is None or value == "":
        return NONE
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return " ".join(map(shown, value))
    text = str(value.get("family", "...") if isinstance(value, dict) else value)
    return text if len(text) <= LONGEST else f"…{text[-LONGEST:]}"
