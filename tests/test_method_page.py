"""What docs/hypergradient.md says of its files."""

from statistics import median

from benchmarks import reverse_cost
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


def test_the_penalty_mostly_agrees_with_training_again_on_the_u_net():
    """In direction and in size: at fixed statistics of batch norm it is many times too large."""
    rows = read_csv(RESULTS / "hypergradient_unet.csv")
    cosines = {(r["seed"], r["point"]): r["cosine_implicit"] for r in rows}
    assert len(cosines) == 6 and sum(cosine > 0.99 for cosine in cosines.values()) >= 5
    assert 0.7 < median(r["implicit"] / r["true_implicit"] for r in rows) < 1.4


def test_the_second_network_prefers_the_learned_sampling_schedule_too():
    rows = read_csv(RESULTS / "frozen.csv")
    about = "size", "network", "seed", "clip", "steps", "schedule"
    cells = {tuple(r[k] for k in about): r for r in rows}
    learned = {key: r for key, r in cells.items() if key[-1] == "learned"}
    assert len({key[2] for key in learned}) >= 3 and len({key[4] for key in learned}) >= 3
    for key, ours in learned.items():
        theirs = cells[(*key[:-1], "default")]
        assert all(ours[j] < theirs[j] for j in ("fid_first", "fid_second")), key


def test_rows_of_an_older_measurement_stay_beside_new_ones(tmp_path, monkeypatch):
    table = tmp_path / "reverse_cost.csv"
    table.write_text("base,images,backward_steps,samplings\n64,36,5,3.5\n")
    monkeypatch.setattr(reverse_cost, "TABLE", table)
    words = "--steps 1 --images 2 --base 4 --repeats 1".split()
    reverse_cost.main(reverse_cost.make_parser().parse_args(words))
    old, new = read_csv(table)
    assert (old["samplings"], old["repeats"]) == (3.5, "") and new["samplings"] > 0
