"""The curves of docs/reward.md against closed forms, their errors, and the tables made of them."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from common.tables import fill, write_csv
from studies.reward import curves, gaussian, page, report
from studies.reward.gaussian import BEST
from studies.reward.tasks import BILEVEL


def leader(folder, seed, n=2000):
    """A stand-in for a bilevel run whose samples are of the Gaussian case."""
    folder.mkdir()
    x = gaussian.draws(n, seed)
    pairs = zip(gaussian.r1(x).tolist(), gaussian.linear(x).tolist(), strict=True)
    write_csv(folder / "bank.csv", [{"r1": a, "r2": b} for a, b in pairs])
    args = SimpleNamespace(min_ess=60.0, lambda_max=100.0)
    return SimpleNamespace(method=BILEVEL, folder=folder, parsed=lambda: args)


def near(rows, lam):
    return min(rows, key=lambda row: abs(np.log(row["lambda"] / lam)))


def test_the_pooled_curve_has_the_closed_forms_optimum_and_honest_errors(tmp_path):
    """r1's gain under p_lambda is known, and so is the deviation of its estimates over repeats."""
    pooled = curves.weighted([leader(tmp_path / str(s), s) for s in range(5)])
    assert pooled[0]["n"] == 10_000 and pooled[0]["ess"] == pytest.approx(60, rel=1e-6)
    assert max(pooled, key=lambda row: row["r1"])["lambda"] == pytest.approx(BEST, rel=0.2)
    lam = near(pooled, 2.0)["lambda"]
    alone = [curves.weighted([leader(tmp_path / f"r{s}", 100 + s)]) for s in range(60)]
    points = [near(rows, lam) for rows in alone]
    for name in ("r1", "r2"):
        for kind in ("", "_gain"):
            spread = np.std([p[f"{name}{kind}"] for p in points], ddof=1)
            stated = np.mean([p[f"{name}{kind}_se"] for p in points])
            assert stated == pytest.approx(spread, rel=0.35), f"{name}{kind}"
    law, data = gaussian.tilted(lam), gaussian.DATA

    def r1_of(mean, variance):
        return -0.5 * ((mean - gaussian.C) ** 2 + variance)

    gain = r1_of(law.mean, law.variance) - r1_of(data.mean, data.variance)
    row = near(pooled, lam)
    assert abs(row["r1_gain"] - gain) < 4 * row["r1_gain_se"]


def trial(lam, r1, r2):
    return {"lambda": lam, "r1": r1, "r1_se": 9.0, "r2": r2, "r2_se": 9.0, "n": 32}


def test_a_guided_gain_is_paired_within_its_seed():
    """Seeds that differ by a constant alone have a gain without error, but means with one."""
    seeds = [[trial(0.1, c + 2, 1), trial(10, c, 0)] for c in (0.0, 1.0, 5.0)]
    low, high = curves.guided(seeds)
    assert (low["n"], low["seeds"], low["r1"], low["r1_gain"]) == (96, 3, 4, 2)
    assert low["r1_gain_se"] == 0 and low["r1_se"] > 1 and high["r1_gain"] == 0
    alone = curves.guided(seeds[:1])[0]
    assert (alone["r1_se"], alone["r1_gain"], alone["r1_gain_se"]) == (9, 2, "")


def row(kind, lam, gain, error):
    return {"kind": kind, "lambda": lam, "r1_gain": gain, "r1_gain_se": error}


def test_the_curves_part_where_two_standard_errors_no_longer_cover_the_gap():
    line = [row("weighted", lam, 1 / lam, 0.03) for lam in np.geomspace(0.1, 100, 200)]
    near_it = [row("guided", lam, 1 / lam + 0.05, 0.04) for lam in (0.05, 0.2, 1.0, 5.0)]
    assert page.parting([*line, *near_it], "r1") is None
    apart = [r | {"r1_gain": r["r1_gain"] - 0.2} if r["lambda"] < 2 else r for r in near_it]
    assert page.parting([*line, *apart], "r1") == 1.0
    assert page.at(line, 2.0, "r1_gain") == pytest.approx(0.5, rel=1e-3)
    assert page.at(line, 0.05, "r1_gain") is None
    one_seed = [r | {"r1_gain_se": ""} for r in apart]
    assert page.parting([*line, *one_seed], "r1") is None


def test_what_the_calls_took_adds_up_and_outlives_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "results_file", lambda name: tmp_path / f"{name}.csv")
    calls = [
        {"runs": 3, "jobs": 2, "seconds": 10.2, "cpu_seconds": 15.1},
        {"runs": 4, "jobs": 1, "seconds": 5.0, "cpu_seconds": 4.6},
    ]
    write_csv(tmp_path / "spent.csv", calls)
    expected = {"first_runs": 7, "first_seconds": 15, "first_cpu_seconds": 20, "first_jobs": 2}
    assert report.spent(tmp_path / "spent.csv", "first") == expected
    stored = [{"name": name, "value": value} for name, value in expected.items()]
    write_csv(tmp_path / "facts.csv", [*stored, {"name": "page_runs", "value": 1}])
    kept = report.spent(tmp_path / "none.csv", "first")
    assert kept == {name: str(value) for name, value in expected.items()}


def test_the_page_holds_the_tables_of_the_results():
    text = (ROOT / "docs" / "reward.md").read_text()
    assert fill(text, page.all_tables(report.stored())) == text
    for name in set(re.findall(r"\((figures/\S+)\)", text)):
        assert (ROOT / "docs" / name).stat().st_size > 1000


def test_the_oracles_of_the_page_are_within_their_tolerances():
    assert all(row["ok"] for row in report.stored()["oracles"])
