"""docs/metrics.md holds the tables of its files."""

from benchmarks import metric_tables, page
from common.tables import fill, read_csv


def test_the_tables_are_those_of_the_files():
    text = (page.DOCS / "metrics.md").read_text()
    assert fill(text, metric_tables.all_tables()) == text


def test_every_judge_tells_real_images_from_noise():
    """At every size, ten times over; by its FID and its KID."""
    rows = read_csv(metric_tables.RESULTS / "fid_floor.csv")
    sizes = {row["image_size"] for row in rows if row["dataset"] == "mnist"}
    assert sizes == {8, 16, 28}
    for size in sizes:
        real, noise = (row for row in rows if row["image_size"] == size)
        for name in metric_tables.JUDGED:
            if name.startswith(("fid", "kid")):
                assert noise[name] > 10 * abs(real[name]), (size, name)
        assert noise["precision"] < real["precision"] and noise["recall"] < real["recall"]
