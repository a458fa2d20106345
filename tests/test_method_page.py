"""What docs/hypergradient.md says of its files."""

from benchmarks.record import RESULTS
from common.tables import read_csv


def test_the_penalty_agrees_with_training_again_on_every_problem():
    rows = [r for r in read_csv(RESULTS / "hypergradient.csv") if r["auto"] == "True"]
    assert len({r["seed"] for r in rows}) >= 5
    assert all(r["cosine_implicit"] > 0.99 and r["true_implicit"] * r["implicit"] > 0 for r in rows)
