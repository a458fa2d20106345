"""Rows and tables of the comparison that need no run."""

import json
from types import SimpleNamespace

import pytest

from common.errors import Stop
from common.families import NAMES
from common.tables import write_csv
from comparison import differences, learned, repeats, report, results, summary
from comparison.kept import read_tables
from comparison.rows import JUDGED_BY


def score(method, seed, clip="True", n="10", steps="5", **values):
    names = dict.fromkeys(report.SCORES, "2")
    place = {"method": method, "seed": str(seed), "clip": clip, "n": n, "steps": steps}
    return place | names | {name: str(value) for name, value in values.items()}


def test_the_terms_of_the_gradients_stand_beside_the_average_that_moves_a_parameter():
    parts = ("direct", "implicit", "grad", "spread")
    row = {f"{part}_{name}": "1" for name in NAMES for part in parts}
    row |= {"method": "exact", "seed": "0"}
    rows = [row | {"direct_end": x, "grad_end": x} for x in ("-5", "-7", "-6")]
    table = learned.terms_table(rows)
    assert "| exact | 0 | end | 3 | -6 | 1 | -6 ± 1 |" in table
    assert "| exact | 0 | tau | 3 | 1 | 1 | 1 ± 1 |" in table
    assert "| end | 1 | -5 | 1 | – |" in learned.terms_table([rows[0] | {"spread_end": ""}])
    assert learned.terms_table([]) == learned.NONE


def test_a_learned_value_that_noise_does_not_explain_is_bold():
    row = {"method": "exact", "seed": "0", "low": "0.9", "high": "1"}
    rows = [row | {"parameter": "end", "learned": x} for x in ("0.95", "0.8")]
    for found, text in zip(rows, ("0.95", "**0.8**"), strict=True):
        line = f"| exact | 0 | – | {text} (0.9 to 1) | – | – |"
        assert line in learned.noise_table([found])
    others = [{**rows[1], "method": "held", "seed": seed} for seed in ("0", "1")]
    chance = "(by chance at most 0.1)"  # 1 is the bound of end: two values have one side each
    line = f"Outside: exact 1 of 2 {chance}; held 2 of 2 {chance}."
    assert learned.noise_table([*rows, *others]).endswith(line)
    inside = {**rows[0], "high": "0.99"}
    assert [learned.chance(r) for r in (rows[0], inside)] == [0.05, 0.1]
    assert learned.noise_table([]) == learned.NONE


def test_what_runs_made_again_differ_by():
    def rows_of(of_seeds, **more):
        places = [(seed, clip) for seed in of_seeds for clip in report.REGIMES]
        return [score("default", seed, clip, fid=of_seeds[seed], **more) for seed, clip in places]

    first, again = rows_of({0: 20, 1: 21, 2: 22}), rows_of({1: 24, 2: 18})
    run = {"method": "default", "seed": "1", "torch": "2.14", "commit": "c"}
    runs = [run | {"processor": "A"}], [run | {"processor": "B"}]
    table = repeats.repeats_table(first, again, *runs)
    assert table.count("| 21.00 | 24.00 | 3.00 |") == 2 and table.count("| default |") == 12 + 1
    assert "| default | 1 | A, torch 2.14, c | B, torch 2.14, c |" in table
    pairs = repeats.pairs_of(first, again, "True")
    rms = "| *default again: rms difference* | 2 | 3.54 | 0.00 |"  # sqrt((9 + 16)/2)
    assert rms in report.scores_table(first, pairs)
    assert "again" not in report.scores_table(first, [])
    assert "second time" in repeats.repeats_table(first, rows_of({1: 24}, steps=9), *runs)
    assert "|" not in repeats.repeats_table(first, [], *runs)
    absent = repeats.pairs_of(first, rows_of({1: ""}), "True")
    assert repeats.drift_lines([absent], ("fid", "kid"))[0][2:] == ["–", "0.000"]


def test_a_run_made_again_with_other_flags_is_not_compared(tmp_path):
    path = tmp_path / "reproduce_quick.csv"
    rows = [{"method": "default", "seed": s, "command": f"python {s}"} for s in (0, 1)]
    write_csv(path.with_name("reproduce_quick_runs.csv"), rows)
    write_csv(path.with_name("reproduce_quick_again.csv"), rows)
    rows[1] = rows[1] | {"command": "python 2"}
    write_csv(path.with_name("reproduce_quick_again_runs.csv"), rows)
    tables = read_tables(path)
    assert [[row["seed"] for row in tables[n]] for n in ("again", "again_runs")] == [["0"], ["0"]]


def test_the_readme_gets_the_table_where_it_has_a_mark(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- x -->\nold\n<!-- end -->\nbelow\n<!-- y -->\n<!-- end -->\n")
    report.fill_readme(readme, "z", [], [])
    rows = [score(method, 0, clip) for method in ("default", "grid") for clip in report.REGIMES]
    again = [score("default", 0, clip, fid=5) for clip in report.REGIMES]
    report.fill_readme(readme, "x", [*rows, score("default", 0, n="5", fid=77)], again)
    text = readme.read_text()
    assert "| default | 1 | 2.00 | 2.00 | 2.000 | 2.00 | 2.00 | 2.000 |" in text
    drift = "| *default again: rms difference* | 1 | 3.00 | 0.00 | 0.000 | 3.00 | 0.00 | 0.000 |"
    assert drift in text
    assert "old" not in text and "grid" not in text and "77" not in text
    assert text.startswith("above\n<!-- x -->\n|") and text.endswith(
        "|\n<!-- end -->\nbelow\n<!-- y -->\n<!-- end -->\n"
    )


def differing(by_seed, **default):
    """Rows of two methods whose scores by every judge are the same numbers."""
    rows = []
    for method, values in {"default": default["default"], "exact": by_seed}.items():
        for seed, value in enumerate(values):
            rows.append(score(method, seed, **dict.fromkeys(JUDGED_BY, value)))
    return differences.differences(rows).splitlines()


def test_a_difference_is_paired_and_judged():
    default = [10, 20, 30, 40]
    (line,) = differing([9, 19, 29.1, 38.9], default=default)[2:]
    assert line.startswith("| exact | default | **-1.00 ± 0.04**; 4 of 4; p < 0.001 (0.125) |")
    assert line.count("**") == 2 * len(JUDGED_BY) and line.endswith("| gain |")
    (line,) = differing([5, 30, 25, 41], default=default)[2:]
    assert "**" not in line and line.endswith("| – |")
    (line,) = differing([15, 25, 35.1, 45], default=default)[2:]
    assert line.endswith("| loss |")


def test_a_gain_needs_both_judges_that_nothing_was_tuned_to():
    first, second, pixels = JUDGED_BY
    better, worse, neither = ("", "better"), ("", "worse"), ("", "")
    assert differences.by_the_rule({first: neither, second: better, pixels: better}) == "gain"
    assert differences.by_the_rule({first: better, second: worse, pixels: worse}) == "loss"
    for pair in ((better, neither), (better, worse), (neither, neither)):
        cells = dict(zip((second, pixels), pair, strict=True))
        assert differences.by_the_rule({first: better, **cells}) == "–"
    for alone in (first, second, pixels):
        assert differences.by_the_rule({alone: better}) == "–"


def test_the_seeds_in_which_a_difference_is_lower_are_counted():
    assert differences.signs([-1.0, 2.0, -0.5]) == "2 of 3"
    assert differences.signs([0.0, -1.0, 0.0]) == "1 of 3, 2 equal"


def test_a_method_is_compared_with_its_own_controls_on_three_seeds_or_more():
    methods = ("default", "end 0.98", "exact, no clipping", "exact")
    rows = [
        score(method, seed, **dict.fromkeys(JUDGED_BY, i + seed**2))
        for i, method in enumerate(methods)
        for seed in range(2 if method == "exact" else 3)
    ]
    pairs = {
        tuple(line.split(" | ")[:2]) for line in differences.differences(rows).splitlines()[2:]
    }
    beginning = "| exact, no clipping"
    assert pairs == {("| end 0.98", "default"), (beginning, "default"), (beginning, "end 0.98")}


def test_holms_correction_by_its_definition():
    """By its definition: the k-th smallest of m is multiplied by m - k, and never falls."""
    assert differences.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert differences.holm([0.9, float("nan")]) == [1.0, 1.0] and differences.holm([]) == []


@pytest.mark.parametrize(
    "content", ["[{}]", "[]x", "{}", "[3]", '[{"steps": 5, "clip": true, "n": 9}]']
)
def test_damaged_scores_of_a_cell_are_named(tmp_path, content):
    path = tmp_path / "judged.json"
    path.write_text(content)
    with pytest.raises(Stop, match=r"judged.json: damaged .*judge the run anew"):
        results.known_scores(path)


def test_terms_are_taken_once_and_what_was_learned_stands_beside_the_end_of_the_band(tmp_path):
    terms = {f"{term}_{name}": "1" for name in NAMES for term in ("direct", "implicit")}
    logged = [terms | {"direct_end": x, "grad_end": "7"} for x in ("", "2", "2", "3", "2")]
    write_csv(tmp_path / "iterations.csv", [{"iteration": i, **x} for i, x in enumerate(logged)])
    (tmp_path / "schedule.json").write_text(json.dumps(dict.fromkeys(NAMES, 0.5)))
    band = {"end_low": [1.0, 0.9], "end_high": [1.0, 0.95]}
    (tmp_path / "null_band.json").write_text(json.dumps(band))
    cell = SimpleNamespace(kind="bilevel", folder=tmp_path, method="exact", seed=3)
    found = [(row["iteration"], row["direct_end"]) for row in results.slopes([cell])]
    assert found == [("1", "2"), ("3", "3"), ("4", "2")]
    place = {"method": "exact", "seed": 3, "parameter": "end"}
    assert results.beside_noise([cell]) == [place | {"learned": 0.5, "low": 0.9, "high": 0.95}]
    cell.kind = "train"
    assert results.slopes([cell]) == results.beside_noise([cell]) == []


def test_a_change_has_both_means_and_the_range_over_the_seeds():
    assert summary.change([(2.0, 4.0), (3.0, 4.0)]) == "4.00 → 2.50 (−50 to −25 %)"
    assert summary.change([(0.5, 0.5), (0.6, 0.5)]) == ".500 → .550 (0 to +20 %)"
    assert summary.change([(300.0, 200.0)]) == "200 → 300 (+50 %)"


def test_judges_agree_on_a_seed_if_all_see_the_same_sign():
    lower, higher, equal = (1.0, 2.0), (2.0, 1.0), (1.0, 1.0)
    by_judge = [[lower, lower, equal, higher], [lower, lower, equal, lower]]
    assert summary.agreement(by_judge) == "2 lower, 1 equal, 1 split"
    assert summary.agreement([[lower, equal], [equal, equal]]) == "1 equal, 1 split"
    assert summary.agreement([[higher]] * 3) == "1 higher"


def test_a_line_of_the_summary_pairs_seeds_and_says_the_verdict():
    def rows_of(method, values):
        fids = [dict.fromkeys(JUDGED_BY, value) for value in values]
        return [score(method, seed, recall=0.5, **fid) for seed, fid in enumerate(fids)]

    rows = [*rows_of("default", [8, 9.1, 10, 50]), *rows_of("tau 2", [4, 5, 6])]
    line, other = summary.Compared("tau 2"), summary.Compared("min-SNR")
    two = [row for row in rows if row["seed"] != "2"]
    regimes = summary.regimes_of({"cpu": rows, "cpu16": [], "fashion": two})
    cells = summary.line_of(line, "cpu", regimes["cpu", "True"])
    assert cells[:4] == ["8×8", "`tau 2`", "`default`", "3"]
    assert cells[4:7] == ["9.03 → 5.00 (−50 to −40 %)"] * 3
    assert cells[7:] == [".50 → .50", "3 lower", "gain"]
    assert summary.line_of(line, "fashion", regimes["fashion", "True"])[-2:] == [
        "2 lower", "not tested",
    ]  # fmt: skip
    table = summary.table_of([line, other], regimes).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| 8×8", "| Fashion-MNIST"]
    unclipped = summary.table_of([line._replace(clip="False")], regimes)
    assert "8×8" not in unclipped
