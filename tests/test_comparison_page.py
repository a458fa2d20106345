"""What docs/comparison.md says of the files in docs/results."""

import json
from collections import Counter
from statistics import fmean

from common.locate import ROOT
from common.tables import read_csv, read_text_csv
from comparison.rows import JUDGED_BY, headline
from comparison.summary import CLIP, NO_CLIP, SHORT, agreement

RESULTS = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "comparison.md").read_text()
TEXT = " ".join(PAGE.split())
FOUR, TAU = "schedule alone, 4 parameters, 256 images", "tau 1.15 in sampling"
Fids = dict[str, list[float]]  # seed -> by the three judges


def of(scale: str, method: str, clip: str = CLIP, steps: int = 10) -> Fids:
    """Of the most images, or in other numbers of steps."""
    rows = read_text_csv(RESULTS / f"reproduce_{scale}.csv")
    rows = headline(rows, clip) if steps == 10 else [r for r in rows if r["clip"] == clip]
    rows = [r for r in rows if r["method"] == method and int(r["steps"]) == steps]
    return {r["seed"]: [float(r[j]) for j in JUDGED_BY] for r in rows}


def lower(ours: Fids, base: Fids) -> list[int]:
    """In how many seeds each judge sees a lower FID."""
    return [sum(ours[seed][k] < base[seed][k] for seed in ours) for k in range(3)]


def agreed(ours: Fids, base: Fids) -> str:
    pairs = [[(ours[seed][k], base[seed][k]) for seed in ours] for k in range(3)]
    return agreement(pairs)


def percent_of(ours: Fids, base: Fids) -> dict[str, list[int]]:
    """In percent, by seed."""
    return {
        seed: [round(100 * (a / b - 1)) for a, b in zip(ours[seed], base[seed], strict=True)]
        for seed in ours
    }


def rms(ours: Fids, base: Fids) -> float:
    """Of the differences by the run's extractor, over the seeds of the first."""
    return fmean((ours[seed][0] - base[seed][0]) ** 2 for seed in ours) ** 0.5


def test_clipping_beside_schedules():
    default = of("cpu", "default")
    assert lower(of("cpu", "end 0.98", NO_CLIP), default)[:2] == [9, 10]
    assert lower(of("cpu", "end 0.98", NO_CLIP), default)[2] < 5
    assert set(lower(of("cpu", "end 0.9", NO_CLIP), default)) == {7, 8}
    assert "in nine seeds of ten and by `second` in all" in TEXT
    assert "`end 0.9` by each judge in seven or eight" in TEXT
    for method in ("end 0.98", "end 0.9"):
        assert set(lower(of("cpu", method), default)) <= {7, 8}


def test_most_of_the_unclipped_gain_needs_no_training():
    shares = []
    for scale in ("cpu16", "fashion"):
        default, drawn, learned = (
            of(scale, method, NO_CLIP)
            for method in ("default", "end 0.98 in sampling", "schedule alone, no clipping")
        )
        for seed, fids in drawn.items():
            ends = zip(default[seed], fids, learned[seed], strict=True)
            shares += [(a - b) / (a - c) for a, b, c in ends]
    assert len(shares) == 18 and round(100 * min(shares)) == 77
    assert "goes 77 % of the way" in TEXT
    five = of("cpu", "schedule alone, no clipping", NO_CLIP, 5), of("cpu", "end 0.98", NO_CLIP, 5)
    assert agreed(*five) == "10 higher"


def test_in_other_numbers_of_steps():
    for steps in (5, 20, 50):
        for method in (TAU, FOUR):
            ours, base = (of("fashion", name, CLIP, steps) for name in (method, "default"))
            assert agreed(ours, base) == "10 lower"
            small, base = (of("cpu16", name, CLIP, steps) for name in (method, "default"))
            split = {20: 1, 50: 2}.get(steps, 0) if method == FOUR else 0
            assert lower(small, base) == [3, 3, 3 - split]


def test_what_is_learned_is_a_larger_tau():
    taus, still = {}, []
    for scale in ("fashion", "cpu16"):
        runs = read_csv(RESULTS / f"reproduce_{scale}_runs.csv")
        runs = [run for run in runs if run["method"] == FOUR]
        taus[scale] = f"{min(r['tau'] for r in runs):.2f} to {max(r['tau'] for r in runs):.2f}"
        assert all(run["start"] == 0 and run["end"] >= 0.95 for run in runs)
        still += [run["epsilon"] == 0 for run in runs]
    told = f"a tau of {taus['fashion']} on Fashion-MNIST and of {taus['cpu16']} at 16×16"
    assert told in TEXT and f"an epsilon of 0 in {sum(still)} runs of {len(still)}" in TEXT


def test_the_best_rows_gain_in_seeds_that_no_choice_has_seen():
    default = of("fashion", "default")
    assert len(default) == 10 and "in all ten seeds" in TEXT
    for method in (TAU, FOUR):
        ours, words = of("fashion", method), []
        assert agreed(ours, default) == "10 lower"
        for k in range(3):
            percent = [100 * (1 - ours[seed][k] / default[seed][k]) for seed in "789"]
            words.append(f"{min(percent):.0f} to {max(percent):.0f}")
        assert f"{words[0]}, {words[1]} and {words[2]} %" in TEXT
    page = (ROOT / "docs" / "reproduce_fashion.md").read_text()
    page = page[: page.index("## Scores without clipping")] + page[page.index("## Differences") :]
    lines = [line for line in page.splitlines() if line.startswith(f"| {FOUR} | ")]
    with_default, with_constant = (
        next(line for line in lines if line.startswith(f"| {FOUR} | {base} | **"))
        for base in ("default", TAU)
    )
    assert with_default.endswith("| gain |") and with_constant.endswith("| – |")
    assert "p 0.213 (" in with_constant and "(p 0.213)" in TEXT
    four, constant = (of("fashion", method) for method in (FOUR, TAU))
    assert lower(four, constant) == [10, 10, 9]
    knots = of("fashion", "schedule alone, 256 images")
    assert lower(four, knots)[0] < 5 < lower(four, knots)[2]


def test_the_published_recipe_follows_noise_and_loses():
    paper, held = (of("fashion", m, NO_CLIP) for m in ("zeroth-order, no clipping", "end 0.98"))
    assert lower(paper, held)[0] == 0 and lower(paper, of("fashion", "default", NO_CLIP)) == [3] * 3
    assert lower(of("fashion", "zeroth-order, no clipping"), of("fashion", "default"))[0] == 0
    rows = read_csv(RESULTS / "reproduce_fashion_null.csv")
    rows = [row for row in rows if row["method"] == "zeroth-order, no clipping"]
    inside = sum(row["low"] <= row["learned"] <= row["high"] for row in rows)
    assert f"{inside} of {len(rows)} learned values lie inside the band of noise" in TEXT
    ends = [row for row in rows if row["parameter"] == "end"]
    assert {(round(r["low"], 2), round(r["high"], 2)) for r in ends} == {(0.33, 0.98)}
    learned = sorted(f"{row['learned']:.2f}" for row in ends)
    assert f"it ended at {learned[0]} to {learned[-1]}" in TEXT


def test_the_recipe_ours_raises_tau():
    ours, default = (of("fashion", method) for method in ("zeroth-order", "default"))
    assert lower(ours, default) == [0, 1, 3]
    first, _, third = (sorted(c) for c in zip(*percent_of(ours, default).values(), strict=True))
    assert f"FIDs are {first[0]} to {first[-1]} % higher than the default's by the run's" in TEXT
    assert f"extractor and {-third[-1]} to {-third[0]} % lower by `pixels`" in TEXT
    rows = read_csv(RESULTS / "reproduce_fashion_null.csv")
    taus = [r["learned"] for r in rows if "order" in r["method"] and r["parameter"] == "tau"]
    assert f"raise it to {min(taus):.1f} to {max(taus):.1f}, and the FID" in TEXT
    rows = [row for row in rows if row["method"] == "zeroth-order"]
    outside = [row for row in rows if not row["low"] <= row["learned"] <= row["high"]]
    counts = Counter(row["parameter"] for row in outside)
    assert counts == {"start": 3, "end": 2, "tau": 1, "epsilon": 1}
    assert f"{len(outside)} of {len(rows)} learned values lie outside the band of noise, wh" in TEXT
    taus = [row["learned"] for row in rows if row["parameter"] == "tau"]
    assert [f"{tau:.3g}" for tau in taus] == ["6.12", "8.09", "3.78"]
    bands = {f"{r['low']:.2f} to {r['high']:.2f}" for r in rows if r["parameter"] == "tau"}
    assert f"takes tau to 6.1, 8.09 and 3.8 (noise alone: {', '.join(bands)})" in TEXT


def test_the_runs_in_which_tau_rose_have_lower_fids():
    number, still, count = ["no", "one", "two", "three", "four", "five", "six", "seven"], 0, 0
    shown = []
    for scale in ("cpu16", "fashion"):
        runs = read_csv(RESULTS / f"reproduce_{scale}_runs.csv")
        runs = [run for run in runs if run["method"] == "exact, late"]
        bands = read_csv(RESULTS / f"reproduce_{scale}_null.csv")
        bands = [b for b in bands if (b["method"], b["parameter"]) == ("exact, late", "tau")]
        noise = {str(b["seed"]): f"to {b['high']:.2f}" if b["high"] > 1 else "1" for b in bands}
        late, default = (of(scale, method) for method in ("exact, late", "default"))
        still += sum(late[seed] == default[seed] for seed in late)
        count += len(runs)
        for run in runs:
            seed = str(run["seed"])
            changes = [a / b - 1 for a, b in zip(late[seed], default[seed], strict=True)]
            if run["tau"] > 1.02:
                assert max(changes) < 0
                cells = " | ".join(f"−{-x:.0%}".replace("%", " %") for x in changes)
                cells = f"{noise[seed]} | {cells}"
                shown.append(f"| {SHORT[scale]}, seed {seed} | ")
                assert f" | {run['tau']:.2f} | {cells} |\n" in PAGE[PAGE.index(shown[-1]) :]
            else:
                assert run["tau"] < 1.0001
                large = max(map(abs, changes)) > 0.02
                assert large == ((scale, seed) == ("fashion", "4"))
    assert sum(PAGE.count(start) for start in shown) == len(shown)
    outside = (
        (ROOT / "docs" / "reproduce_fashion.md").read_text().partition("Outside: exact, late ")
    )
    assert f"{outside[2].partition(' (')[0]} learned values lie outside the band" in TEXT
    told = f"In {number[still]} runs of {count} of `exact, late` with clipping nothing moved. In"
    assert f"{told} {number[len(shown)]} tau rose" in TEXT


def test_no_network_comes_near_its_floor():
    floors = read_csv(RESULTS / "fid_floor.csv")
    near: dict[str, float] = {}
    for scale, data, size in (
        ("cpu", "mnist", 8),
        ("cpu16", "mnist", 16),
        ("fashion", "fashion", 8),
    ):
        (floor,) = (
            r for r in floors
            if (r["dataset"], r["image_size"], r["images"]) == (data, size, "training images")
        )  # fmt: skip
        for row in read_csv(RESULTS / f"reproduce_{scale}.csv"):
            for judge in ("fid_first", "fid_second", "fid_pixels"):
                if row["n"] == 10000:
                    near[judge] = min(near.get(judge, 1e9), row[judge] / floor[judge])
    assert "5.4 times the floor by `pixels` and 19 times by the others" in TEXT
    assert near["fid_pixels"] >= 5.4 and min(near["fid_first"], near["fid_second"]) >= 19


def test_the_shipped_network_beside_its_floor():
    frozen = [row for row in read_csv(RESULTS / "frozen.csv") if row["size"] == 28]
    (floor,) = (row for row in frozen if row["network"] == "real images")
    drawn = [row for row in frozen if row["network"] != "real images"]
    drawn += [row for row in read_csv(RESULTS / "frozen_search.csv") if row["size"] == 28]
    near = {
        j: min(r[j] for r in drawn) / floor[j] for j in ("fid_first", "fid_second", "fid_pixels")
    }
    others = min(near["fid_first"], near["fid_second"])
    assert f"at 28×28 {near['fid_pixels']:.1f} and {others:.0f} times" in TEXT


def test_the_table_of_the_shipped_network_has_its_rows():
    rows = [r for r in read_csv(RESULTS / "frozen.csv") if r["size"] == 28 and r["clip"] == "True"]
    assert len(rows) == 7
    for row in rows:
        cells = [f"{row[name]:.3g}" for name in ("fid_first", "fid_second", "fid_pixels")]
        assert f"| {' | '.join(cells)} | {row['precision']:.2f} | {row['recall']:.2f} |" in PAGE


def test_a_first_step_whose_slopes_agreed_by_chance():
    rows = read_csv(RESULTS / "reproduce_cpu_slopes.csv")
    rows = [row for row in rows if (row["method"], row["seed"]) == ("exact, no clipping", 5)]
    names = ("start", "end", "tau", "epsilon")
    first = next(k for k, row in enumerate(rows) if row["spread_end"] != "")
    away = [abs(rows[first][f"grad_{n}"] / rows[first][f"spread_{n}"]) for n in names]
    assert first == 3 and "after four updates" in TEXT
    assert f"{min(away):.0f} to {max(away):.0f} standard errors from 0" in TEXT
    grown = [rows[first + 1][f"spread_{n}"] / rows[first][f"spread_{n}"] for n in names]
    low, high = round(min(grown)), round(max(grown))
    assert f"one update later the errors were {low} to {high} times as large" in TEXT


def test_what_a_run_made_again_moves_by():
    rows = read_csv(RESULTS / "reproduce_cpu_runs.csv")
    learned = {row["seed"]: row for row in rows if row["method"] == "exact, no clipping"}
    held = {"start": 0, "end": 0.98, "tau": 1, "epsilon": 0.008}
    same = [str(seed) for seed, row in learned.items() if all(row[n] == held[n] for n in held)]
    assert len(same) == 5 and "Five schedules trained anew are reruns of `end 0.98`" in TEXT
    moved = []
    for clip in (CLIP, NO_CLIP):
        methods = "exact's schedule, no clipping, anew", "end 0.98"
        anew, end = (of("cpu", method, clip) for method in methods)
        moved.append(rms({seed: anew[seed] for seed in same}, end))
    assert f"moved by {moved[0]:.1f} with clipping, {moved[1]:.1f} without" in TEXT
    again = of("cpu_again", "default")
    assert len(again) == 3
    assert f"moved its FID by {rms(again, of('cpu', 'default')):.1f} (rms over three" in TEXT


def test_a_tau_goes_a_part_of_the_way_of_learned_knots():
    frozen = [r for r in read_csv(RESULTS / "frozen.csv") if (r["size"], r["clip"]) == (28, CLIP)]
    of_schedule = {row["schedule"]: row["fid_second"] for row in frozen}
    grids = read_csv(RESULTS / "frozen_search.csv")
    (tau,) = (r for r in grids if (r["size"], r["space"], r["method"]) == (28, "tau", "grid"))
    whole = of_schedule["default"] - of_schedule["learned"]
    share = (of_schedule["default"] - tau["fid_second"]) / whole
    assert abs(share - 2 / 3) < 0.03 and "A tau of 1.5 goes two thirds of the way" in TEXT


def test_knots_begin_as_the_default():
    exact, held, linear, default = (
        of("fashion", method)
        for method in ("exact knots", "knots held", "log SNR linear", "default")
    )
    high, *low = sorted(percent_of(held, default).values(), reverse=True)
    others = [-c for of_seed in low for c in of_seed]
    told = f"its FIDs are {min(others)} to {max(others)} % lower than the default's in two seeds"
    assert f"{told} and {min(high)} to {max(high)} % higher in the third" in TEXT
    assert (
        f"moves the FID on Fashion-MNIST by {rms(held, default):.1f} (rms over three seeds" in TEXT
    )
    of_seeds = percent_of(exact, held)
    assert all(-1 <= c <= 0 for c in of_seeds["0"]) and not any(of_seeds["1"])
    assert f"all FIDs are higher, by {min(of_seeds['2'])} to {max(of_seeds['2'])} %" in TEXT
    rows = read_csv(RESULTS / "reproduce_fashion_null.csv")
    rows = [row for row in rows if row["method"] == "exact knots"]
    outside = [r["seed"] for r in rows if not r["low"] <= r["learned"] <= r["high"]]
    assert outside == [2, 2] and "`start` and `end` farther than noise explains" in TEXT
    runs = read_csv(RESULTS / "reproduce_fashion_runs.csv")
    runs = [run for run in runs if run["method"] in ("exact knots", "knots held")]
    knots = {(r["method"], r["seed"]): json.loads(r["schedule"]) for r in runs}
    still = knots["knots held", 0]
    moved_knots = {
        seed: [n for n, v in knots["exact knots", seed].items() if "knot" in n and v != still[n]]
        for seed in (0, 1, 2)
    }
    assert [len(names) for names in moved_knots.values()] == [1, 0, 12 - 4]
    (name,) = moved_knots[0]
    assert round(100 * (knots["exact knots", 0][name] / still[name] - 1)) == 1
    assert lower(linear, default) == [0, 0, 0] and set(linear) == set(exact)
    for k in range(2):
        means = (fmean(method[seed][k] for seed in linear) for method in (linear, default))
        assert 1.8 < next(means) / next(means) < 2.2


def test_a_search_by_grid_trained_anew():
    """The random search chose the default: its row anew is the default's with that seed."""
    runs = read_csv(RESULTS / "reproduce_fashion_runs.csv")
    (random,) = (run for run in runs if run["method"] == "random")
    assert (random["start"], random["end"], random["tau"]) == (0, 1, 1)
    searches = [run for run in runs if run["method"] in ("grid", "random", "bayesian")]
    assert {run["trials"] for run in searches} == {5, 6} and "take five or six trainings" in TEXT
    bilevel = fmean(run["forward_passes"] for run in runs if run["method"] == "exact knots")
    low, high = (f(run["forward_passes"] for run in searches) / bilevel for f in (min, max))
    assert f"for {low:.1f} to {high:.1f} times the forward passes of a bilevel run" in TEXT
    curves = read_csv(RESULTS / "reproduce_fashion_curves.csv")
    of_grid = [row["fid"] for row in curves if row["method"] == "grid"]
    assert f"objective is {100 * (1 - of_grid[-1] / of_grid[0]):.0f} % lower" in TEXT
    names = "grid's schedule, anew", "random's schedule, anew"
    (percent,) = percent_of(*(of("fashion", name) for name in names)).values()
    first, second, third = (-p for p in percent)
    assert f"FIDs that are {first}, {second} and {third} % lower than those of" in TEXT
