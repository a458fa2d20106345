"""The comparison, end to end at a tiny scale, and what its page says."""

import csv
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import reproduce
from common import cli, errors
from common.data import Source
from common.run import forward_passes
from common.tables import read_text_csv, write_csv
from comparison import report
from comparison.cells import (
    SCRIPTS,
    Budget,
    Places,
    make_cell,
    make_cells,
    memory_of,
    script_of,
)
from comparison.jobs import slug
from comparison.kept import Kept, read_tables, results_path
from comparison.scales import BILEVEL, METHODS, SCALES, Scale, merge

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("reproduce_*.md"))

TINY = Scale(
    "a rehearsal",
    seeds=2,
    shared="""--dataset digits --model_base_dim 4 --batch_size 16 --timesteps 10
        --backward_steps 2 --eval_samples 20 --threads 1""",
    train="--epochs 1 --fid_samples 0 --limit_batches 2 --n_samples 4",
    bilevel="""--epochs 2 --initial_epoch 1 --zo_samples 4 --fid_samples 20 --log_freq 1
        --limit_batches 2 --n_samples 4""",
    coupled="--settle_steps 1 --update_every 1 --average_steps 1 --difference_batches 1",
    frozen="--frozen_updates 2 --zo_samples 16",
    judged=20,
    chains=(2, 5),
    chain_images=10,
)
ROWS = ("default", "schedule alone", "exact", "exact's schedule, anew", "random")


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
    for name, method in METHODS.items():
        cell = make_cell(scale, Places(), name, 2, Budget(trials=7, epochs=9, ema_memory=12))
        parsed = cell.parsed()
        if method.kind == "search":
            assert parsed.n_calls == 7 and parsed.n_initial == 2
        of_search = method.schedule_from.startswith(("random", "grid", "bayesian"))
        assert parsed.seed == (1002 if of_search else 2)
        if method.kind in ("train", "bilevel"):
            assert memory_of(cell) == 12
        for_unclipped = "no clipping" in name and not method.schedule_from
        assert parsed.no_clip == for_unclipped
        if method.kind == "bilevel" and parsed.theta_z == "coupled":  # no two share a gradient
            assert parsed.exact_every <= parsed.update_every, name
        check_command(cell.command)


def check_command(command):
    """It parses in a shell, names files that exist and flags that its script has, each once."""
    python, script, *tokens = shlex.split(command)
    flags = [token for token in tokens if token.startswith("--")]
    assert python == "python" and len(set(flags)) == len(flags), command
    for flag in {"--schedule_from", "--ckpt"} & set(flags):
        i = tokens.index(flag)
        if not (ROOT / tokens[i + 1]).exists():  # a run of the comparison leaves it, or its row
            assert tokens[i + 1].startswith(("runs/reproduce/", "assets/schedules/")), command
            tokens[i : i + 2] = [flag, str(ROOT / "assets/mnist.pt")] if flag == "--ckpt" else []
    kind = {f"{name}.py": kind for kind, name in SCRIPTS.items()}[script]
    module = script_of(kind)
    cli.parse(module.make_parser(), kind, module.check, tokens)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_command_of_a_page_can_be_pasted_into_a_shell(page):
    commands = re.findall(r"\| `(python train_mnist.*?)` \|", page.read_text())
    assert len(commands) == len(read_text_csv(ROOT / "docs" / "results" / f"{page.stem}_runs.csv"))
    for command in commands:
        check_command(command)
        schedules = re.findall(r"--schedule_from (\S+)", command)
        assert all((ROOT / schedule).exists() for schedule in schedules)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_is_what_its_files_make(page):
    path = ROOT / "docs" / "results" / f"{page.stem}.csv"
    scale = page.stem.removeprefix("reproduce_")
    made = report.page_of(scale, SCALES[scale].meaning, read_tables(path), path)
    assert made == page.read_text()


def test_a_run_made_again_on_one_machine_is_the_same_to_the_bit(tiny, tmp_path, monkeypatch):
    """And the rows that were there stay as they are."""
    for flags in ((), ("--again",)):
        reproduce.main(tiny("--methods", "default", *flags))
    results_dir = tmp_path / "docs" / "results"
    first, again = (read_text_csv(results_dir / f"reproduce_quick{x}.csv") for x in ("", "_again"))
    assert first == again and len(first) == 6
    lines = (tmp_path / "docs" / "reproduce_quick.md").read_text().splitlines()
    start = lines.index("| method | seed | sampler | by | first | again | difference |") + 2
    differences = [line.split(" | ")[6].rstrip(" |") for line in lines[start : start + 6]]
    assert {float(x) for x in differences} == {0.0}
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 2


def test_only_cells_that_have_rows_and_begin_with_no_other_are_made_again(tiny):
    args = tiny("--again")
    with pytest.raises(errors.Stop, match="no cell that can be made again has rows"):
        reproduce.main(args)
    cells = reproduce.cells_of(args, reproduce.places_of(args), torch.zeros(50, 1, 8, 8))
    runs = [{"method": name, "seed": "0"} for name in ("schedule alone", "default", "grid")]
    assert [c.method for c in reproduce.held_alone(cells, {"runs": runs})] == ["default"]


def test_a_run_made_afresh_replaces_its_rows_in_every_table(tmp_path):
    """Also in a table in which it has none now; other cells keep theirs."""
    path = tmp_path / "reproduce_quick.csv"
    cells = [
        SimpleNamespace(
            method=name,
            seed=0,
            command=f"train {name}",
            done=False,
            source=None,
            network=None,
            made_by=f"train {name}".__eq__,
        )
        for name in ("default", "exact")
    ]
    rows = [{"method": c.method, "seed": "0", "command": c.command, "n": "1"} for c in cells]
    for name in ("", "runs", "slopes"):
        write_csv(results_path(path, name), rows)
    kept = Kept(path, cells, cells, fresh=True)
    assert not kept.holds(cells[0])
    cells[0].done = True
    kept.replace(cells[:1])
    new = {**rows[0], "n": "2"}
    assert kept.merged("runs", [new]) == [new, rows[1]] and kept.merged("slopes", []) == rows[1:]
    kept.tables["runs"][1]["jobs"] = "1"  # a column that an older version wrote
    assert kept.merged("runs", [new]) == [new, rows[1]]


def test_a_table_that_no_run_fills_any_more_goes(tmp_path, monkeypatch):
    path = tmp_path / "reproduce_quick.csv"
    cell = SimpleNamespace(
        method="default",
        seed=0,
        command="train",
        done=True,
        ready=True,
        source=None,
        network=None,
        made_by="train".__eq__,
    )
    row = {"method": "default", "seed": "0", "command": "train"}
    for name in ("", "runs", "slopes"):
        write_csv(results_path(path, name), [row])
    monkeypatch.setattr(reproduce.results, "rows_of", lambda *_: ([row], [row]))
    for name in ("curves", "slopes", "beside_noise"):
        monkeypatch.setattr(reproduce.results, name, lambda _: [])
    monkeypatch.setattr(reproduce, "draw_samples", lambda *_: None)
    args = reproduce.make_parser().parse_args([])
    reproduce.write_results(args, path, [cell], Kept(path, [cell], [cell]))
    assert read_text_csv(path) == [row] and not results_path(path, "slopes").exists()


def test_rows_of_more_seeds_than_the_scale_has_are_kept(tmp_path):
    path, images = tmp_path / "reproduce_quick.csv", torch.zeros(50, 1, 8, 8)
    cells = make_cells("quick", Places(), ["default"], [0, 7], images)
    rows = [{"method": c.method, "seed": str(c.seed), "command": c.command} for c in cells]
    for name in ("", "runs"):
        write_csv(results_path(path, name), rows)
    kept = Kept(path, reproduce.every_cell("quick", Places(), path, images), cells[:1])
    assert not kept.changed and kept.merged("runs", []) == rows


def test_a_report_takes_no_flag_of_a_run(tmp_path):
    for flags in ("--dry_run", "--cell 0", "--collect", "--fresh", "--again"):
        words = ["--report", "--results_dir", str(tmp_path), *flags.split()]
        with pytest.raises(errors.Stop, match=flags.split()[0]) as stop:
            reproduce.main(reproduce.make_parser().parse_args(words))
        assert stop.value.code == 2


def test_the_help_breaks_no_name_at_its_hyphen():
    assert "min-SNR" in reproduce.make_parser().format_help()


def test_a_later_flag_replaces_an_earlier_one():
    assert merge("--a 1 2 --b", "--a 3 --c 4") == ["--a", "3", "--b", "--c", "4"]


def test_threads_are_those_asked_for():
    """And make no other comparison: the command beside a row stays that of the scale."""
    cell = make_cell("quick", Places(), "default", 0)
    other = make_cell("quick", Places(threads=3), "default", 0)
    assert (cell.parsed().threads, other.parsed().threads) == (1, 3)
    assert cell.command == other.command


@pytest.mark.parametrize("scale", list(SCALES))
def test_budgets_are_equal(scale):
    """In forward passes to within an epoch, or a trial where a search has no number of its own."""
    images = torch.zeros(60000, 1, 28, 28, dtype=torch.uint8)
    cells = {cell.method: cell for cell in make_cells(scale, Places(), METHODS, [0], images)}
    passes = {name: forward_passes(cell.cost(images)) for name, cell in cells.items()}
    default = cells["default"].parsed()
    an_epoch = passes["default"] / default.epochs
    bilevel = cells[BILEVEL].parsed()  # whose log costs passes that train nothing
    paid = passes[BILEVEL] - bilevel.epochs * bilevel.fid_samples * bilevel.backward_steps
    assert abs(passes["default, exact's budget"] - paid) <= an_epoch
    if SCALES[scale].trials is None:
        # at least two trials, whatever they cost
        assert passes["random"] <= max(paid + passes["default"], 2 * passes["default"])
    trained = [cell for cell in cells.values() if cell.kind in ("train", "bilevel")]
    assert len({memory_of(cell) for cell in trained}) == 1


def check_costs(folder: Path, runs: list[dict], args) -> None:
    """A row's forward passes are those of its run and of the one that it begins with."""
    images, spent = Source("digits", "data").images("train"), {}
    for row in runs:
        name = row["method"]
        run = next((folder / f"{slug(name)}-seed0").glob("0*"))
        summary = json.loads((run / "summary.json").read_text())
        if name in ("default", "exact", "schedule alone"):  # the planned cost is the cost
            cell = make_cell("quick", reproduce.places_of(args), name, 0)
            planned = cell.cost(images)
            assert planned == {k: summary["network_evaluations"].get(k, 0) for k in planned}
        spent[name] = forward_passes(summary["network_evaluations"])
        earlier = {"exact's schedule, anew": "exact", "schedule alone": "default"}.get(name)
        assert int(row["forward_passes"]) == spent[name] + spent.get(earlier, 0)


def check_elsewhere(tiny, runs_dir: Path, path: Path, capsys) -> None:
    """On another machine, where no run is, none is made again."""
    rows, elsewhere = path.read_text(), ("--runs_dir", str(runs_dir))
    reproduce.main(tiny(*elsewhere))
    assert path.read_text() == rows and not list(runs_dir.rglob("args.json"))
    for here in (elsewhere, ()):  # and where the run is at hand
        capsys.readouterr()
        reproduce.main(tiny(*here, "--cell", "0"))
        assert f"nothing to run: {path} has the rows; --fresh" in capsys.readouterr().out
    for fresh, planned in (((), "0 runs"), (("--fresh",), "5 runs")):
        capsys.readouterr()
        reproduce.main(tiny(*elsewhere, "--dry_run", *fresh))
        assert f"\n{planned}, " in "\n" + capsys.readouterr().out


def test_one_command_makes_the_table(tiny, tmp_path, capsys, monkeypatch):
    reproduce.main(tiny())
    path = tmp_path / "docs" / "results" / "reproduce_quick.csv"
    runs_path = path.with_name("reproduce_quick_runs.csv")
    rows, runs = (list(csv.DictReader(p.open())) for p in (path, runs_path))
    assert [row["method"] for row in runs] == list(ROWS)
    regimes = [("2", "20"), ("2", "10"), ("5", "10")]  # the scale's own steps first
    for method in ROWS:
        judged = [(r["steps"], r["n"], r["clip"]) for r in rows if r["method"] == method]
        assert judged == [(steps, n, clip) for steps, n in regimes for clip in report.REGIMES]
    folder = tmp_path / "runs" / "quick"
    check_costs(folder, runs, tiny())
    by_method = {row["method"]: row for row in runs}
    learned, anew = by_method["exact"], by_method["exact's schedule, anew"]
    assert all(learned[name] == anew[name] for name in ("start", "end", "tau", "epsilon"))
    assert "--schedule_from" in anew["command"]
    alone = [r for r in rows if r["method"] == "schedule alone"]
    assert all(r["fid"] != d["fid"] for r, d in zip(alone, rows, strict=False))  # its own sampler

    page = (tmp_path / "docs" / "reproduce_quick.md").read_text()
    assert all(row["command"] in page for row in runs)
    assert all(f"{float(row['fid']):.2f}" in page for row in rows if row["n"] == "20")
    figures = sorted(p.name for p in (tmp_path / "docs" / "figures").iterdir())
    names = ("curves", "samples", "schedules", "slopes", "steps")
    assert figures == [f"reproduce_quick_{name}.png" for name in names]

    slopes = read_text_csv(path.with_name("reproduce_quick_slopes.csv"))
    logged = read_text_csv(next((folder / "exact-seed0").glob("0*")) / "iterations.csv")
    assert slopes and {row["method"] for row in slopes} == {"exact"}
    assert slopes[-1]["direct_tau"] == logged[-1]["direct_tau"] != slopes[-1]["implicit_tau"]

    path.unlink()
    reproduce.main(tiny("--collect", "--seeds", "2"))  # the second seed has not been run
    assert list(csv.DictReader(path.open())) == rows
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("summary.json")}
    reproduce.main(tiny())  # nothing is missing: nothing is run
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("summary.json")}
    check_elsewhere(tiny, tmp_path / "elsewhere", path, capsys)
    samples = tmp_path / "docs" / "figures" / "reproduce_quick_samples.png"
    before = samples.read_bytes()
    reproduce.main(tiny("--methods", "default"))  # what is not asked for stays
    assert list(csv.DictReader(path.open())) == rows and samples.read_bytes() == before
    assert f"{samples} stays as it is" in capsys.readouterr().out
    longer = TINY._replace(train="--epochs 2 --fid_samples 0")
    monkeypatch.setitem(SCALES, "quick", longer)
    with pytest.raises(errors.Stop, match=r"ran with --epochs 1, now it is 2"):
        reproduce.main(tiny())
    reproduce.main(tiny("--dry_run"))  # which looks at no flag of a finished run
    assert "\n0 runs, " in "\n" + capsys.readouterr().out


def test_a_report_without_results_is_one_line(tiny):
    with pytest.raises(errors.Stop, match="no results yet"):
        reproduce.main(tiny("--report"))
