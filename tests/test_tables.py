"""Tables: a CSV file and a page give back what was put in."""

import pytest

from common.errors import Stop
from common.tables import fill, fill_file, markdown, read_csv, read_text_csv, rounded, write_csv

PAGE = "Before.\n\n<!-- table: a -->\nold\n<!-- end of table -->\n\nBetween.\n\n<!-- table: b -->\n"
PAGE += "<!-- end of table -->\nAfter.\n"


def test_a_page_is_filled_between_its_marks_and_nowhere_else(tmp_path):
    r"""Twice gives the same; a backslash in a table, such as \1, means nothing."""
    tables = {"a": "| \\1 |", "b": markdown(["x", "y"], [[1, 2.5]])}
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    for _ in range(2):
        fill_file(path, tables)
        assert path.read_text() == (
            "Before.\n\n<!-- table: a -->\n| \\1 |\n<!-- end of table -->\n\nBetween.\n\n"
            "<!-- table: b -->\n| x | y |\n| --- | --- |\n| 1 | 2.5 |\n<!-- end of table -->\n"
            "After.\n"
        )


@pytest.mark.parametrize("text", ["", "<!-- table: a -->\n", PAGE + PAGE])
def test_a_table_without_its_marks_or_with_two_places_is_an_error(text):
    with pytest.raises(Stop, match="table: a"):
        fill(text, {"a": "| x |"})


def test_rows_of_a_csv_file_keep_their_kinds(tmp_path):
    rows = [{"name": "a, b", "n": 3, "fid": 1e-3}, {"name": "", "n": 4, "fid": 2.0}]
    write_csv(tmp_path / "new" / "t.csv", rows)
    assert read_csv(tmp_path / "new" / "t.csv") == rows


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    class Unprintable:
        def __str__(self):
            raise OSError("no space left")

    path = tmp_path / "rows.csv"
    write_csv(path, [{"a": 1}])
    with pytest.raises(OSError, match="no space"):
        write_csv(path, [{"a": n} for n in range(10**4)] + [{"a": Unprintable()}])
    assert read_text_csv(path) == [{"a": "1"}]


def test_rounded_rows():
    row = {"x": 1 / 3, "n": 123456789, "text": "0.123456789", "flag": True}
    assert rounded(row) == row | {"x": "0.333333"} and rounded(row, 2) == row | {"x": "0.33"}
