"""docs/hypergradient.md holds the tables of its files, and the files hold what the page says."""

from benchmarks.method_page import PAGE, all_tables
from benchmarks.record import RESULTS
from common.tables import fill, read_csv


def test_the_tables_are_those_of_the_files():
    text = PAGE.read_text()
    assert fill(text, all_tables()) == text


def test_the_penalty_agrees_with_training_again_on_every_problem():
    rows = [r for r in read_csv(RESULTS / "hypergradient.csv") if r["auto"] == "True"]
    assert len({r["seed"] for r in rows}) >= 5
    assert all(r["cosine_implicit"] > 0.99 and r["true_implicit"] * r["implicit"] > 0 for r in rows)
