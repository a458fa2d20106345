"""What docs/comparison.md says of the files in docs/results."""

import re

from common.locate import ROOT
from common.tables import read_csv, read_text_csv
from comparison.rows import JUDGED_BY, headline
from comparison.summary import SHORT, agreement

RESULTS = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "comparison.md").read_text()
TEXT = " ".join(PAGE.split())
CLIP, NO_CLIP = "True", "False"


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


def test_clipping_beside_schedules():
    default = of("cpu", "default")
    assert lower(of("cpu", "end 0.98", NO_CLIP), default)[:2] == [9, 10]
    assert lower(of("cpu", "end 0.98", NO_CLIP), default)[2] < 5
    assert set(lower(of("cpu", "end 0.9", NO_CLIP), default)) == {7, 8}
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
    five = of("cpu", "schedule alone, no clipping", NO_CLIP, 5), of("cpu", "end 0.98", NO_CLIP, 5)
    assert agreed(*five) == "10 higher"


def test_in_other_numbers_of_steps():
    for steps in (5, 20, 50):
        for method in (TAU, FOUR):
            ours, base = (of("fashion", name, CLIP, steps) for name in (method, "default"))
            assert agreed(ours, base) == f"{len(ours)} lower" and len(ours) >= 7
    four, base = (of("cpu16", name, CLIP, 50) for name in (FOUR, "default"))
    assert lower(four, base)[2] == 1 and len(four) == 3


def test_what_is_learned_is_a_larger_tau():
    taus = {}
    for scale in ("fashion", "cpu16"):
        runs = read_csv(RESULTS / f"reproduce_{scale}_runs.csv")
        runs = [run for run in runs if run["method"] == FOUR]
        taus[scale] = f"{min(r['tau'] for r in runs):.2f} to {max(r['tau'] for r in runs):.2f}"
        assert all(run["epsilon"] < 1e-6 and run["start"] < 1e-6 for run in runs)
        assert min(run["end"] for run in runs) >= 0.97 or scale == "cpu16"
    told = f"a tau of {taus['fashion']} on Fashion-MNIST and of {taus['cpu16']} at 16×16"
    assert told in TEXT


def test_the_runs_in_which_tau_rose_have_lower_fids():
    for scale in ("cpu16", "fashion"):
        runs = read_csv(RESULTS / f"reproduce_{scale}_runs.csv")
        taus = {str(r["seed"]): r["tau"] for r in runs if r["method"] == "exact, late"}
        rose = {seed for seed, tau in taus.items() if tau > 1.02}
        assert rose == ({"1", "2"} if scale == "cpu16" else {"2", "6"})
        late, default = (of(scale, method) for method in ("exact, late", "default"))
        assert agreed({seed: late[seed] for seed in rose}, default) == "2 lower"
        for seed in rose:
            percent = [
                round(100 * (a / b - 1)) for a, b in zip(late[seed], default[seed], strict=True)
            ]
            cells = " | ".join(f"−{-x} %" for x in percent)
            assert re.search(
                rf"\| {SHORT[scale]}, seed {seed} \| [\d.]+ \| {taus[seed]:.2f} \| {cells} \|", PAGE
            )


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
    assert "at least 5.4 times the floor by `pixels`, 19 times by the others" in TEXT
    assert near["fid_pixels"] >= 5.4 and min(near["fid_first"], near["fid_second"]) >= 19


def test_the_table_of_the_shipped_network_has_its_rows():
    rows = [r for r in read_csv(RESULTS / "frozen.csv") if r["size"] == 28 and r["clip"] == "True"]
    assert len(rows) == 7
    for row in rows:
        cells = [f"{row[name]:.3g}" for name in ("fid_first", "fid_second", "fid_pixels")]
        assert f"| {' | '.join(cells)} | {row['precision']:.2f} | {row['recall']:.2f} |" in PAGE
