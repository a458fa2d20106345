"""Tables: a CSV file and a page give back what was put in."""

import pytest

from common.errors import Stop
from common.tables import fill, fill_file, markdown, read_csv, write_csv

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
