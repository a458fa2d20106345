"""The command of the learning-rate study: runs, resuming, its report, wrong flags."""

import csv
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from harness import is_read
from test_checkpoint import same

import train_mnist
from common import checkpoint, cli, errors, loop, run
from common.tables import fill, read_csv
from studies.lr_schedules import __main__ as lr_schedules
from studies.lr_schedules import judging, page, points, report, study, together
from studies.lr_schedules.numbers import Numbers
from studies.lr_schedules.options import LR_SCHEDULES

PAGE = ROOT / "docs" / "lr_schedules.md"
TINY = """--cpu --threads 1 --steps 12 --batch_size 8 --points 60 --eval_points 20 --log_freq 5
    --save_seconds 1000 --sets line""".split()


def parse(*words):
    parser = lr_schedules.make_parser()
    words = [str(word) for word in words]
    return cli.parse(parser, "lr_schedules", lr_schedules.check, words)


def study_run(folder, *words):
    """The script's main in this process; the run's folder."""
    args = parse(*TINY, "--runs_dir", folder, *words)
    code = errors.guarded(lr_schedules.main, args, "lr_schedules")
    (made,) = Path(folder).glob("[0-9]*")
    return code, made


def kept(folder):
    """What must not depend on interrupts."""
    state, _ = checkpoint.load_newest(folder / "checkpoints")
    for group in state["groups"].values():
        group.pop("clock")
    rows = {p.name: p.read_text() for p in sorted(folder.glob("*.csv")) if p.name != "timing.csv"}
    return {k: state[k] for k in ("progress", "groups")} | {"csv": rows}


@pytest.fixture
def five_steps(monkeypatch):
    """What sampling visits of the 100 steps, and few points for the figures."""
    monkeypatch.setattr(judging, "TIMESTEPS", 5)
    monkeypatch.setattr(judging, "KEPT_POINTS", 4)


def rows_in(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_study_runs_and_resumes_to_the_same_bits(
    tiny, five_steps, tmp_path, monkeypatch, capsys
):
    """Interrupted in training, in the evaluation, and in the second seed."""
    words = ["--seeds", 2]
    code, whole = study_run(tmp_path / "whole", *words)
    output = capsys.readouterr().out
    assert code == 0 and all(f"Table {i}" in output for i in range(1, 6))
    rows = rows_in(whole / "results.csv")
    assert len(rows) == len({(r["seed"], r["set"], r["lr_schedule"]) for r in rows}) == 2 * 5
    assert [int(r["step"]) for r in rows_in(whole / "losses.csv")] == [5, 10, 12] * 2

    polls, real = {"left": 0}, run.Run.poll

    def poll(self):
        polls["left"] -= 1
        if polls["left"] == 0:
            self.signal = signal.SIGINT
        real(self)

    monkeypatch.setattr(run.Run, "poll", poll)
    folder = tmp_path / "interrupted"
    for polls["left"] in (5, 10, 9):
        assert study_run(folder, *words)[0] == 130
        words = ["--resume", "latest"]
    (made,) = folder.glob("[0-9]*")  # in its second seed: the first one can be reported
    files = report.rows_of(made)
    assert all({row["seed"] for row in files[f"lr_{n}"]} == {0} for n in ("results", "losses"))
    assert len(files["lr_results"]) == len(files["lr_timing"]) == 5
    polls["left"] = 0
    code, resumed = study_run(folder, *words)
    assert code == 0 and same(kept(resumed), kept(whole))
    assert study_run(folder, *words)[0] == 0 and "nothing to resume" in capsys.readouterr().out


def test_the_report_fills_the_tables_of_the_page_and_draws_its_figures(
    tiny, five_steps, tmp_path, monkeypatch
):
    _, first = study_run(tmp_path / "first", "--seeds", 2, "--sets", *points.SETS)
    _, sweep = study_run(tmp_path / "sweep", "--sweep", "--sets", "line", "--steps", 3)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "lr_schedules.md").write_text(PAGE.read_text())
    monkeypatch.setattr(report, "DOCS", docs)
    report.publish([first, sweep])
    text = (docs / "lr_schedules.md").read_text()
    rows = rows_in(first / "results.csv")
    losses = [float(r["loss"]) for r in rows if r["set"] == "line" and r["lr_schedule"] == "cosine"]
    assert f"{np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f} (0.807)" in text
    assert "| seeds | 0, 1 |" in text and " nan" not in text
    figures = re.findall(r"\((figures/\S+)\)", text)
    assert len(figures) == 4
    assert all((docs / name).stat().st_size > 1000 for name in figures)
    report.publish([])
    assert (docs / "lr_schedules.md").read_text() == text


def test_another_seed_joins_the_others_once(tiny, five_steps, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    for seed, words in ((0, ["--seeds", 2]), (2, ["--seed", 2]), (2, ["--seed", 2])):
        _, folder = study_run(tmp_path / f"{seed} {len(list(tmp_path.iterdir()))}", *words)
        report.store(report.rows_of(folder))
    results = tmp_path / "docs" / "results"
    known = read_csv(results / "lr_results.csv")
    assert sorted({row["seed"] for row in known}) == [0, 1, 2] and len(known) == 3 * 5
    for seed, kept_points in ((2, False), (0, True)):  # the points are those of the first seed
        rows = [row for row in known if row["seed"] == seed]
        report.store({"lr_results": rows, "lr_points": [{"x": seed}]})
        assert (read_csv(results / "lr_points.csv") == [{"x": 0}]) == kept_points


def test_a_sweep_of_another_set_joins_the_others_and_replaces_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    for name, kl in (("moons", 1), ("dino", 2), ("moons", 3)):
        report.store({"lr_sweep": [{"set": name, "kl": kl}]})
    rows = read_csv(tmp_path / "docs" / "results" / "lr_sweep.csv")
    assert rows == [{"set": "dino", "kl": 2}, {"set": "moons", "kl": 3}]


def test_runs_are_compared_with_the_constant_rate_of_their_seed():
    kls = {"constant": (1.0, 2.0), "cosine": (1.5, 2.25), "step": (0.9, 2.5)}
    rows = [
        {"seed": seed, "set": "line", "lr_schedule": name, "steps": 5, "kl": of_seeds[seed]}
        for name, of_seeds in kls.items()
        for seed in (1, 0)
    ]
    rows.append(rows[0] | {"seed": 2, "kl": 9.0})  # of the constant rate alone: in no pair
    table = page.of_the_differences(Numbers(rows, []))
    assert "| CosineAnnealingLR | +0.375 ± 0.125 (2 of 2) |" in table
    assert "| StepLR | +0.200 ± 0.300 (1 of 2) |" in table


def test_the_page_holds_the_tables_of_the_results():
    """What --report would write: the page's numbers are those of docs/results."""
    text = PAGE.read_text()
    assert fill(text, report.tables_of_results()) == text
    assert "<!-- end of table -->\n<!-- end of table -->" not in text


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(
    tiny, tmp_path, monkeypatch, capsys
):
    real = together.batch

    def poisoned(data, size, seed, step):
        x0s, t, eps = real(data, size, seed, step)
        return x0s, t, eps * float("nan") if step == 7 else eps

    monkeypatch.setattr(study, "batch", poisoned)
    code, folder = study_run(tmp_path / "runs", "--save_seconds", 0)
    assert code == 1 and "step 8" in capsys.readouterr().err
    state, _ = checkpoint.load_newest(folder / "checkpoints")
    assert state["progress"]["step"] == 7
    assert all(group["stack"]["weights"].isfinite().all() for group in state["groups"].values())


def test_without_dino_the_other_sets_run_and_a_line_says_how_to_get_it(
    tiny, tmp_path, monkeypatch, capsys
):
    def missing():
        raise ImportError("no data-morph-ai")

    monkeypatch.setattr(points, "dino_points", missing)
    code, folder = study_run(tmp_path / "some", "--sets", "dino", "line", "--steps", 2)
    said = capsys.readouterr().out
    assert code == 0 and said.count("pip install data-morph-ai") == 1
    sets = {row["set"] for row in csv.DictReader((folder / "results.csv").open())}
    assert sets == {"line"}
    args = parse(*TINY, "--sets", "dino", "--runs_dir", tmp_path / "none")
    assert errors.guarded(lr_schedules.main, args, "lr_schedules") == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("words", [
    "--sets square", "--steps 0", "--lr 0", "--lr nan", "--step_decay 0", "--step_decay 2",
    "--exponential_end -1", "--plateau_decay 1", "--plateau_patience -1", "--seeds 0",
    "--points 5", "--sweep --digits", "--resume latest --runs_dir none", "--cpu --device cuda",
    "--report --resume .", "--digits --resume .", "--no_such_flag",
])  # fmt: skip
def test_wrong_flags_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*words.split())
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == "" and said.err.count("\n") == 1


def test_every_flag_is_read_and_explained():
    files = [*(ROOT / "studies" / "lr_schedules").glob("*.py"), *(ROOT / "common").glob("*.py")]
    source = "\n".join(path.read_text() for path in files)
    for action in lr_schedules.make_parser()._actions:
        assert action.help
        if action.dest != "help":
            assert is_read(action.dest, source), f"nothing reads --{action.dest}"


def test_reports_take_finished_runs_only(tmp_path, capsys):
    (tmp_path / "args.json").write_text(json.dumps({"kind": "lr_schedules", "arguments": {}}))
    with pytest.raises(errors.Stop, match="not a finished run"):
        report.publish([tmp_path])
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(errors.Stop, match=r"args.json: damaged .no .sweep."):
        report.publish([tmp_path])


def test_a_run_whose_column_has_its_earlier_name_is_read(tmp_path):
    arguments = {"kind": "lr_schedules", "arguments": {"sweep": True}}
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "results.csv").write_text("seed,set,schedule\n0,dino,cosine\n")
    assert report.rows_of(tmp_path)["lr_sweep"][0]["lr_schedule"] == "cosine"


def test_the_digits_go_through_the_training_script(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(loop, "run_script", lambda *given: seen.append(given))
    args = parse("--digits", "--cpu", "--seed", 3, "--runs_dir", tmp_path)
    lr_schedules.main(args)
    assert [given[1].lr_schedule for given in seen] == LR_SCHEDULES
    assert all(g[2] is train_mnist.train and g[1].seed == 3 and g[1].device == "cpu" for g in seen)


def test_a_report_may_name_no_run():
    assert parse("--report").report == [] and parse().report is None
