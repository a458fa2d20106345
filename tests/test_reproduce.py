"""The comparison, end to end at a tiny scale, and what its page says."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import reproduce
from common import cli, errors
from common.data import Source
from common.run import forward_passes
from common.tables import read_text_csv
from comparison import report
from comparison.cells import SCRIPTS, Budget, Places, make_cell, make_cells, script_of
from comparison.scales import ABLATION, METHODS, SCALES, Scale, merge

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("reproduce_*.md"))

TINY = Scale(
    "a rehearsal",
    seeds=2,
    shared="""--dataset digits --model_base_dim 4 --batch_size 16 --timesteps 10 --limit_batches 2
        --backward_steps 2 --eval_samples 20 --n_samples 4 --threads 1""",
    train="--epochs 1 --fid_samples 0",
    bilevel="--epochs 2 --initial_epoch 1 --zo_samples 4 --fid_samples 20",
)
ROWS = ("default", "bilevel zo", "random", "zo's schedule, anew")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(SCALES, "quick", TINY)
    for name in set(METHODS) - set(ROWS):
        monkeypatch.delitem(METHODS, name)
    words = ["--seeds", "1", "--runs_dir", str(tmp_path / "runs"), "--device", "cpu"]
    words += ["--results_dir", str(tmp_path / "docs" / "results")]
    return lambda *more: reproduce.make_parser().parse_args([*words, *more])


@pytest.mark.parametrize("scale", list(SCALES))
def test_every_cell_of_every_scale_is_a_command_its_script_takes(scale):
    for name, method in {**METHODS, **ABLATION}.items():
        cell = make_cell(scale, Places(), name, 2, Budget(trials=7, epochs=9))
        parsed = cell.parsed()
        assert parsed.seed == 2
        if method.kind == "search":
            assert parsed.n_calls == 7 and parsed.n_initial == 2
        if name == "recipe paper":
            taken = (parsed.noise, parsed.theta_z, parsed.zo_samples)
            assert taken == ("independent", "recopied", 36)
        check_command(cell.command)


def check_command(command):
    """It parses in a shell, names files that exist and flags that its script has, each once."""
    python, script, *tokens = shlex.split(command)
    flags = [token for token in tokens if token.startswith("--")]
    assert python == "python" and len(set(flags)) == len(flags), command
    if "--schedule_from" in flags:
        i = tokens.index("--schedule_from")
        if not (ROOT / tokens[i + 1]).exists():  # only a run of the comparison leaves it
            assert tokens[i + 1].startswith("runs/reproduce/"), command
            del tokens[i : i + 2]
    kind = {f"{name}.py": kind for kind, name in SCRIPTS.items()}[script]
    module = script_of(kind)
    cli.parse(module.make_parser(), kind, module.check, tokens)


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("reproduce_*.md")), ids=lambda p: p.stem
)
def test_every_command_of_a_page_can_be_pasted_into_a_shell(page):
    commands = re.findall(r"\| `(python train_mnist.*?)` \|", page.read_text())
    assert len(commands) == len(read_text_csv(ROOT / "docs" / "results" / f"{page.stem}.csv"))
    for command in commands:
        check_command(command)


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("reproduce_*.md")), ids=lambda p: p.stem
)
def test_a_page_holds_the_tables_of_its_file(page):
    rows = read_text_csv(ROOT / "docs" / "results" / f"{page.stem}.csv")
    text = page.read_text()
    for table in (report.scores(rows), report.differences(rows), report.commands(rows)):
        assert table in text


def test_a_later_flag_replaces_an_earlier_one():
    assert merge("--a 1 2 --b", "--a 3 --c 4") == ["--a", "3", "--b", "--c", "4"]


def test_threads_are_those_asked_for():
    assert make_cell("quick", Places(), "default", 0).parsed().threads == 1
    cell = make_cell("quick", Places(threads=3), "default", 0)
    assert cell.parsed().threads == 3 and cell.command.count("--threads") == 1


@pytest.mark.parametrize("scale", list(SCALES))
def test_budgets_are_equal(scale):
    """In forward passes to within an epoch, or a trial; in gradient steps to within an epoch."""
    images = torch.zeros(60000, 1, 28, 28, dtype=torch.uint8)
    cells = {cell.method: cell for cell in make_cells(scale, Places(), METHODS, [0], images)}
    cost = {name: cell.cost(images) for name, cell in cells.items()}
    passes = {name: forward_passes(counts) for name, counts in cost.items()}
    zo, default = cells["bilevel zo"].parsed(), cells["default"].parsed()
    an_epoch = passes["default"] / default.epochs
    assert abs(passes["default, zo's budget"] - passes["bilevel zo"]) <= an_epoch
    if scale != "paper":  # which has the published number of trials
        assert abs(passes["random"] - passes["bilevel zo"]) <= passes["default"]
    updates = zo.epochs - zo.initial_epoch  # of each copy, in epochs
    epochs = zo.epochs * zo.inner_loop + updates * zo.inner_loop_z
    assert cells["default, zo's steps"].parsed().epochs == epochs


def test_the_readme_gets_the_table_where_it_has_a_mark(tmp_path):
    readme, columns = tmp_path / "README.md", dict.fromkeys(report.COLUMNS, "2")
    readme.write_text("above\n<!-- x -->\nold\n<!-- end -->\nbelow\n<!-- y -->\n<!-- end -->\n")
    report.fill_readme(readme, "z", [])
    default = {"method": "default", "seed": "0", "trials": "", **columns}
    report.fill_readme(readme, "x", [default, default | {"method": "grid"}])
    text = readme.read_text()
    assert "| default | 0 | – | 2.0 |" in text and "old" not in text and "grid" not in text
    assert text.startswith("above\n<!-- x -->\n|") and text.endswith(
        "|\n<!-- end -->\nbelow\n<!-- y -->\n<!-- end -->\n"
    )


def test_the_text_of_a_page_is_kept(tmp_path):
    rows = read_text_csv(ROOT / "docs" / "results" / "reproduce_demo.csv")
    csv_path = tmp_path / "results" / "reproduce_demo.csv"
    page = report.write_page("demo", "small", rows, csv_path)
    before = page.read_text()
    page.write_text(before.replace("# The comparison", "# By hand: the comparison") + "\nMore.\n")
    report.write_page("demo", "small", rows[:-1], csv_path)
    text = page.read_text()
    assert text.startswith("# By hand") and text.endswith("\nMore.\n")
    assert report.commands(rows[:-1]) in text and report.commands(rows) not in text


def test_one_command_makes_the_table(tiny, tmp_path, capsys, monkeypatch):
    images = Source("digits", "data").images("train")
    reproduce.main(tiny())
    path = tmp_path / "docs" / "results" / "reproduce_quick.csv"
    rows = list(csv.DictReader(path.open()))
    assert [row["method"] for row in rows] == list(ROWS)
    runs = tmp_path / "runs" / "quick"
    for row in rows:
        folder = next((runs / f"{re.sub('[^a-z]+', '-', row['method'])}-seed0").glob("0*"))
        summary = json.loads((folder / "summary.json").read_text())
        if row["method"] in ("default", "bilevel zo"):  # the planned cost is the cost
            cell = make_cell("quick", reproduce.places_of(tiny()), row["method"], 0)
            assert cell.cost(images) == summary["network_evaluations"]
        spent = forward_passes(summary["network_evaluations"])
        if row["method"] == "zo's schedule, anew":  # with what its schedule cost
            spent += int(rows[1]["forward_passes"])
        assert int(row["forward_passes"]) == spent
        # judged on other noise than the run's own last number
        own = summary.get("objective", summary["fid"])
        assert float(row["fid"]) != pytest.approx(own, rel=1e-9) and row["n"] == "20"
    by_method = {row["method"]: row for row in rows}
    learned, anew = by_method["bilevel zo"], by_method["zo's schedule, anew"]
    assert all(learned[name] == anew[name] for name in ("start", "end", "tau", "epsilon"))
    assert learned["tau"] != by_method["default"]["tau"]
    budget = [int(by_method[m]["forward_passes"]) for m in ("random", "bilevel zo", "default")]
    assert abs(budget[0] - budget[1]) < 1.5 * budget[2]  # within a trial and its reporting

    page = (tmp_path / "docs" / "reproduce_quick.md").read_text()
    for row in rows:
        assert f"{float(row['fid']):.1f}" in page and row["command"] in page
    figures = sorted(p.name for p in (tmp_path / "docs" / "figures").iterdir())
    assert figures == [f"reproduce_quick_{n}.png" for n in ("curves", "samples", "schedules")]

    path.unlink()
    reproduce.main(tiny("--collect", "--seeds", "2"))  # the second seed has not been run
    assert list(csv.DictReader(path.open())) == rows
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("summary.json")}
    reproduce.main(tiny())  # nothing is missing: nothing is run
    assert before == {p: p.stat().st_mtime_ns for p in runs.rglob("summary.json")}
    longer = TINY._replace(train="--epochs 2 --fid_samples 0")
    monkeypatch.setitem(SCALES, "quick", longer)
    with pytest.raises(errors.Stop, match=r"ran with --epochs 1, now it is 2"):
        reproduce.main(tiny())
    reproduce.main(tiny("--dry_run"))
    assert "4 runs" in capsys.readouterr().out


def rows(fids):
    return [
        {"method": method, "seed": str(i), "fid": str(fid)}
        for method, values in fids.items()
        for i, fid in enumerate(values)
    ]


def test_a_difference_is_paired_and_judged():
    found = {"default": [10, 20, 30], "bayesian": [11, 21, 31], "bilevel zo": [9, 19, 28.9]}
    assert "-1.0 ± 0.0 | yes" in line_of("bilevel zo", found)
    assert "-2.0 ± 0.0 | yes" in line_of("bilevel zo", found)
    found["bilevel zo"] = [5, 30, 30]
    assert "+1.7 ± 4.4 | not shown" in line_of("bilevel zo", found)
    found["bilevel zo"] = [15, 25, 35.1]
    assert "| worse" in line_of("bilevel zo", found)


def line_of(method, fids):
    lines = report.differences(rows(fids)).splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {method}")]
    return line


def test_a_report_without_results_is_one_line(tiny):
    with pytest.raises(errors.Stop, match="no results yet"):
        reproduce.main(tiny("--report"))
