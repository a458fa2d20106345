"""The study of noise schedules: verdicts, tables and figures of made-up rows."""

import math
from functools import cache

import numpy as np
import pytest

from studies.noise_schedules import by_chance, claims, figures, plan, report, tables
from studies.noise_schedules.claims import CLAIMS, PAIRS, groups_of, verdict_at
from studies.noise_schedules.plan import DATASETS, MATCHED, RECIPES, SCALES, SIZES


@cache
def settings_of(recipe):
    """A recipe's b, and its log SNR at T/2."""
    return tuple(by_chance.facts(recipe).values())


def made_up(fid, seeds=plan.SEEDS, judges=claims.JUDGES):
    """Rows of all recipes whose FIDs are fid(size, recipe, sampled_by)."""
    places = [(d, s, seed) for d in DATASETS for s in SIZES for seed in range(seeds)]
    return [
        {"dataset": d, "size": s, "seed": seed, "recipe": name, "sampled_by": by,
         "input_scale": settings_of(name)[0], "log_snr_middle": settings_of(name)[1],
         **{f"fid_{judge}": fid(s, name, by) if judge in judges else "" for judge in claims.JUDGES}}
        for d, s, seed in places for name in RECIPES
        for by in (("own", "cosine") if name in plan.CROSSED else ("own",))
    ]  # fmt: skip


def as_the_paper_says(size, name, by):
    """The best log SNR falls with size, normalising helps, cosine samples well, a function counts
    by its log SNR alone."""
    function = {function: b for b, function in MATCHED.items()}.get(name, name)
    distance = settings_of(function)[1] - {8: 0.0, 16: -1.4, 32: -2.4}[size]
    worse = 2 if plan.NOT_NORMALISED in name else 1
    return worse * (10 + distance**2) * (0.9 if by == "cosine" else 1)


def as_it_never_was(size, name, by):
    """Less noise is better in large images, no b is good, normalising harms, cosine does too."""
    distance = settings_of(name)[1] - {8: -2.4, 16: -1.4, 32: 0.6}[size]
    worse = 0.5 if plan.NOT_NORMALISED in name else 2 if name in SCALES else 1
    return worse * (10 + distance**2) * (2 if by == "cosine" else 1)


def names_of(rows):
    """The verdict of every claim at every place."""
    groups = groups_of(rows)
    return {
        number: {verdict.name for verdict in claims.verdicts(claim, groups).values()}
        for number, claim in CLAIMS.items()
    }


def test_every_claim_can_stand_and_can_fall():
    stand, fall = names_of(made_up(as_the_paper_says)), names_of(made_up(as_it_never_was))
    assert stand == {number: {"stands"} for number in CLAIMS}
    assert fall == {number: {"does not"} for number in CLAIMS}
    assert "stands" in tables.of_claims(groups_of(made_up(as_the_paper_says)))


def test_every_claim_is_undecided_with_two_seeds_or_without_a_row():
    assert names_of(made_up(as_the_paper_says, seeds=2)) == {n: {"undecided"} for n in CLAIMS}
    rows = made_up(as_the_paper_says)
    for number, claim in CLAIMS.items():
        recipe, by = claim.needs[-1]
        kept = [
            row for row in rows
            if (row["recipe"], row["sampled_by"], row["seed"]) != (recipe, by, 1)
        ]  # fmt: skip
        assert names_of(kept)[number] == {"undecided"}


def test_a_claim_that_one_judge_denies_stands_in_part():
    rows = made_up(as_the_paper_says)
    wrong = {(r["recipe"], r["sampled_by"], r["size"]): r for r in made_up(as_it_never_was)}
    for row in rows:
        row["fid_pixels"] = wrong[row["recipe"], row["sampled_by"], row["size"]]["fid_pixels"]
    assert names_of(rows) == {number: {"in part"} for number in CLAIMS}


def test_half_of_the_checks_is_in_part_and_fewer_is_not():
    counts = [claims.Verdict(3, ("first",), held, 4).name for held in range(5)]
    assert counts == ["does not", "does not", "in part", "in part", "stands"]


def test_a_judge_that_is_not_made_has_no_say():
    groups = groups_of(made_up(as_the_paper_says, judges=("pixels",)))
    verdict = verdict_at(CLAIMS["7"], groups, "fashion", (32,))
    assert verdict.judges == ("pixels",) and verdict.checks == 2 * plan.SEEDS
    silent = groups_of(made_up(as_the_paper_says, judges=()))
    assert verdict_at(CLAIMS["7"], silent, "fashion", (32,)).name == "undecided"


@pytest.mark.parametrize("sizes, expected", [(PAIRS[0], "stands"), (PAIRS[2], "does not")])
def test_an_optimum_that_stays_falls_from_no_size_to_the_last(sizes, expected):
    groups = groups_of(made_up(lambda size, name, by: as_the_paper_says(8, name, by)))
    for number in ("1", "2"):
        assert verdict_at(CLAIMS[number], groups, "mnist", sizes).name == expected


def test_a_claim_with_a_failed_check_can_no_longer_stand():
    rows = made_up(as_the_paper_says, seeds=1)
    groups = groups_of(rows)
    at_places = claims.verdicts(CLAIMS["7"], groups).values()
    assert tables.whole_verdict(at_places) == "undecided"
    for row in rows:
        if row["recipe"] == "b 0.1, not normalised" and row["size"] == 16:
            row["fid_second"] = 0.1
    fallen = claims.verdicts(CLAIMS["7"], groups_of(rows)).values()
    assert tables.whole_verdict(fallen) == "undecided, but can no longer stand"


def test_the_shares_by_chance_are_those_of_the_rule(monkeypatch):
    """Claim 7 needs its 6 checks: each holds if one of two equal FIDs is 1.05 times the other."""
    shares = by_chance.shares()
    assert {number for number, _ in shares} == set(CLAIMS)
    assert all(sum(of_verdict.values()) == pytest.approx(1) for of_verdict in shares.values())
    z = math.log(claims.AS_GOOD) / (math.sqrt(2) * by_chance.SPREAD)
    p = math.erfc(z / math.sqrt(2)) / 2
    fewer = sum(math.comb(6, k) * p**k * (1 - p) ** (6 - k) for k in range(3))
    assert shares["7", (8,)]["does not"] == pytest.approx(fewer, abs=0.09)  # three deviations
    monkeypatch.setattr(by_chance, "SPREAD", 1e-6)
    assert by_chance.shares.__wrapped__(5)["4", (8,)]["stands"] == 1


@pytest.mark.parametrize(
    "names, whole",
    [
        (["stands", "stands"], "stands"), (["does not", "does not"], "does not"),
        (["stands", "does not"], "in part"), (["in part", "in part"], "in part"),
        (["stands", "undecided"], "undecided"),
    ],
)  # fmt: skip
def test_a_claim_as_a_whole(names, whole):
    assert claims.as_a_whole(names) == whole


def test_two_recipes_of_the_same_noise_are_two_points():
    points = [("linear", 0.0, 4.0), ("sigmoid", 0.0, 6.0), ("sigmoid", 0.0, 9.0), ("b", -1.0, 2.0)]
    expected = [(-1, 2, 0, 0), (0, 4, 0, 0), (0, 7.5, 1.5, 1.5)]
    assert figures.mean_and_range(points) == expected


def test_a_recipe_that_lacks_a_seed_is_no_point():
    rows = [{"recipe": name, "seed": seed} for name in ("linear", "sigmoid") for seed in "01"]
    assert figures.with_every_seed(rows[:3]) == rows[:2]
    assert figures.with_every_seed(rows) == rows


def test_ratios_and_scatter_are_those_of_made_up_effects():
    """A seed's own factor cancels in both; noise of 10 % is found again."""
    effect = {name: 1 + 0.1 * i for i, name in enumerate(SCALES)}
    rows = [r for r in made_up(lambda _, name, __: effect.get(name, 1)) if r["size"] == 16]
    for row in rows:
        row["fid_first"] *= 10 ** row["seed"]
    groups = groups_of(rows)
    ratios, scatter = tables.of_ratios(groups), tables.of_scatter(groups)
    assert "| first | mnist | 16 | 3 | 1.50 ± 0.00 | 1.20 ± 0.00 | 1.10 ± 0.00 |" in ratios
    assert "| mnist | 16 | 0% | 0% | 0% |" in scatter
    noise = 0.1 * np.random.default_rng(0).standard_normal((200, 6))
    assert tables.scatter(noise + np.arange(6)) == pytest.approx(0.1, rel=0.05)


def test_only_seeds_with_every_scale_are_counted_under_a_figure(monkeypatch, tmp_path):
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)
    rows = made_up(as_the_paper_says)
    rows = [row for row in rows if row["seed"] != 1 or row["recipe"] != "b 0.7"]
    text = report.pictures(groups_of(rows), tmp_path / "results" / "x.csv")
    assert "mnist 8×8: 2; mnist 16×16: 2" in text
