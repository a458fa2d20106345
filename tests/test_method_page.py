"""What docs/hypergradient.md says of its files."""

from benchmarks.record import RESULTS
from common.tables import read_csv


def test_the_penalty_agrees_with_training_again_on_every_problem():
    rows = [r for r in read_csv(RESULTS / "hypergradient.csv") if r["auto"] == "True"]
    assert len({r["seed"] for r in rows}) >= 5
    assert all(r["cosine_implicit"] > 0.99 and r["true_implicit"] * r["implicit"] > 0 for r in rows)


def test_the_sum_is_right_where_the_terms_do_not_cancel():
    rows = [r for r in read_csv(RESULTS / "hypergradient.csv") if r["point"] == "steep"]
    assert len({r["seed"] for r in rows}) >= 4 and all(r["cosine_total"] > 0.9 for r in rows)
    right, alone = (sum(r["true_total"] * r[k] > 0 for r in rows) for k in ("total", "direct"))
    assert right >= 0.9 * len(rows) > 0.5 * len(rows) > alone
