"""What docs/sampling_schedules.md says of the files in docs/results."""

import json

from common.locate import ROOT
from common.tables import read_csv
from comparison.rows import grouped

RESULTS = ROOT / "docs" / "results"
TEXT = " ".join((ROOT / "docs" / "sampling_schedules.md").read_text().split())


def test_networks_predict_the_right_amount_of_noise():
    rows = read_csv(RESULTS / "predicted_noise.csv")
    factors = [row["factor"] for row in rows]
    assert min(factors) >= 0.988 and max(factors) <= 1.021
    assert "between 0.988 and 1.021 at every time" in TEXT
    late = [row for row in rows if row["time"] < 100]
    assert len(late) == 7 * 4
    for row in late:
        short, many, tau, scaled = (
            row["noised"] - row[name] for name in ("chain", "chain_50", "chain_tau", "chain_scaled")
        )
        assert min(many, tau) > 0 and max(many, tau) < short < scaled


def test_chains_of_the_right_size_are_better_on_fashion_alone():
    fids = read_csv(RESULTS / "predicted_noise_fids.csv")
    networks = grouped(fids, "size", "network", "seed")
    assert len(networks) == 7
    for (size, network, _), rows in networks.items():
        tau, rescaled, default = (
            [row[f"fid_{judge}"] for judge in ("first", "second", "pixels")]
            for name in ("tau 1.15", "rescaled", "default")
            for row in rows
            if row["chain"] == name
        )
        assert all(a < b for a, b in zip(tau, default, strict=True))
        if "Fashion" in network:
            assert all(a < b < c for a, b, c in zip(tau, rescaled, default, strict=True))
        if size == 16:
            assert rescaled[0] > default[0] and 1.13 <= rescaled[2] / default[2] < 1.225
        if size == 28:
            assert all(0.935 < b / c < 0.966 for b, c in zip(rescaled, default, strict=True))
    assert "fall by 4 to 6 %" in TEXT and "13 to 22 % by `pixels`" in TEXT


def test_one_number_does_what_a_descent_does():
    rows = [r for r in read_csv(RESULTS / "frozen_search.csv") if "Fashion" in r["network"]]
    assert len({r["seed"] for r in rows}) == 3
    ratios: dict[str, list[float]] = {}
    for of_network in grouped(rows, "seed").values():
        by_plan = {(r["space"], r["method"]): r for r in of_network}
        best = {plan: float(r["minimised"]) for plan, r in by_plan.items()}
        descent, knots = best["4 parameters", "descent"], best["12 knots", "descent"]
        assert json.loads(by_plan["tau", "grid"]["point"]) == {"tau": 1.3}
        assert json.loads(by_plan["eps_scale", "grid"]["point"])["eps_scale"] in (1, 0.975)
        assert descent < best["4 parameters", "random"] and knots < best["12 knots", "random"]
        for name, ratio in {
            "tau": best["tau", "grid"] / descent,
            "bayesian": best["4 parameters", "bayesian"] / descent,
            "bayesian, knots": best["12 knots", "bayesian"] / knots,
            "random, knots": best["12 knots", "random"] / knots,
            "random": best["4 parameters", "random"] / descent,
            "knots": knots / descent,
        }.items():
            ratios.setdefault(name, []).append(ratio)
    assert max(ratios["tau"]) < 1.02 and max(ratios["bayesian"]) < 1.02
    assert min(ratios["knots"]) > 0.93 and max(ratios["knots"]) < 1
    for name, told in {
        "random": "ends {} to {} % above it over four parameters",
        "random, knots": "and {} to {} % above it over knots",
        "bayesian, knots": "within {} to {} % over knots",
    }.items():
        percent = (round(100 * (extreme(ratios[name]) - 1)) for extreme in (min, max))
        assert told.format(*percent) in TEXT
