"""docs/metrics.md holds the tables of its files."""

from benchmarks import metric_tables, page
from common.tables import fill, read_csv


def test_the_tables_are_those_of_the_files():
    text = (page.DOCS / "metrics.md").read_text()
    assert fill(text, metric_tables.all_tables()) == text


def test_every_judge_tells_real_images_from_noise():
    """Wherever there is a judge, ten times over; by its FID and its KID."""
    rows = read_csv(metric_tables.RESULTS / "fid_floor.csv")
    places = {(row["dataset"], row["image_size"]) for row in rows}
    assert places == {(name, size) for name in ("mnist", "fashion") for size in (8, 16, 28)}
    for place in places:
        real, noise = (row for row in rows if (row["dataset"], row["image_size"]) == place)
        made = [name for name in metric_tables.JUDGED if real[name] != ""]
        assert "fid_pixels" in made and ("fid_second" in made) == (place != ("fashion", 28))
        for name in made:
            if name.startswith(("fid", "kid")):
                assert noise[name] > 10 * abs(real[name]), (place, name)
        if "fid_second" in made:
            assert noise["precision"] < real["precision"] and noise["recall"] < real["recall"]


def test_a_floor_without_a_judge_is_a_dash():
    rows = read_csv(metric_tables.RESULTS / "fid_floor.csv")
    line = metric_tables.of_floors(rows).splitlines()[-1]
    assert line.startswith("| fashion | 28 | N(0,1)") and line.count("–") == len(
        [name for name in metric_tables.JUDGED if name not in ("fid_pixels", "kid_pixels")]
    )
