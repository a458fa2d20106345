"""The study of noise schedules: its plan, its closed forms, its page, resuming."""

import math
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from common.errors import Stop
from common.tables import fill, read_text_csv
from comparison.cells import Places
from model import Diffusion, log_snr
from scheduler import Schedule
from studies.noise_schedules import __main__ as study
from studies.noise_schedules import (
    by_chance,
    closed_form,
    plan,
    report,
    results,
    tables,
    tasks,
)
from studies.noise_schedules.claims import groups_of
from studies.noise_schedules.plan import DATASETS, FUNCTIONS, MATCHED, RECIPES, SCALES, SIZES

RESULTS = ROOT / "docs" / "results" / "noise_schedules.csv"
TINY = """--model_base_dim 4 --timesteps 10 --batch_size 16 --epochs 1 --limit_batches 2
    --ema_memory 2 --model_ema_steps 1 --backward_steps 2 --fid_samples 0
    --eval_samples 20 --n_samples 4"""


def all_tasks(seeds=plan.SEEDS):
    places = Places(device="cpu", threads=1)
    return tasks.tasks_of(places, DATASETS, SIZES, RECIPES, range(seeds))


def middle_of(recipe):
    """A recipe's log SNR at T/2."""
    return by_chance.facts(recipe)["log_snr_middle"]


def test_every_task_is_a_command_and_has_a_folder_of_its_own():
    every = all_tasks()
    assert len(every) == len(DATASETS) * len(SIZES) * plan.SEEDS * len(RECIPES)
    for names in ({t.root for t in every}, {t.command for t in every}, {t.key for t in every}):
        assert len(names) == len(every)
    enlarged = tasks.tasks_of(Places("cpu", threads=1), DATASETS, [64], RECIPES, [0])
    for task in [*all_tasks(seeds=1), *enlarged]:
        args = task.parsed()
        assert (args.dataset, args.image_size, args.seed) == (task.dataset, task.size, task.seed)
        assert task.command.startswith("python train_mnist.py --dataset")


def test_recipes_differ_in_their_schedule_alone():
    of_a_schedule = {
        "scheduler_type", "start", "end", "tau", "epsilon", "input_scale", "no_normalise",
        "runs_dir",
    }  # fmt: skip
    of_a_place = [task for task in all_tasks(seeds=1) if (task.dataset, task.size) == ("mnist", 16)]
    base, *others = [vars(task.parsed()) for task in of_a_place]
    for other in others:
        differing = {name for name in base if base[name] != other[name]}
        assert differing - {"runs_dir"} and differing <= of_a_schedule


def test_small_images_of_the_first_seed_come_first():
    order = [(task.seed, DATASETS.index(task.dataset), task.size) for task in all_tasks()]
    assert order == sorted(order)


def test_a_scale_and_its_function_have_the_same_log_snr_in_the_middle():
    for scale, function in MATCHED.items():
        assert middle_of(scale) == pytest.approx(middle_of(function), abs=0.01)


def test_the_curves_are_those_of_the_formulas():
    u = torch.arange(1, 200, dtype=torch.float64) / 200  # without the end, where beta is cut off
    linear = ((1 - u) / u).log() + 2 * math.log(0.5)
    curve = closed_form.curve_of("linear, b 0.5")
    assert torch.allclose(curve.log_snr[:-1], linear, atol=1e-9)
    f = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** (2 * 2.31)
    ab = f / math.cos(0.008 / 1.008 * math.pi / 2) ** (2 * 2.31)
    curve = closed_form.curve_of("cosine, tau 2.31")
    assert torch.allclose(curve.alpha_bar[:-5], ab[:-4], atol=1e-9)


def test_a_scale_shifts_log_snr_by_twice_its_logarithm(monkeypatch):
    assert closed_form.shift_error() < closed_form.EXACT
    assert closed_form.input_error() < closed_form.EXACT
    assert tables.closed_forms() == "stands"
    right = closed_form.process_of
    monkeypatch.setattr(closed_form, "process_of", lambda recipe, b: right(recipe, b * (1 + 1e-6)))
    assert closed_form.shift_error() > closed_form.EXACT
    assert closed_form.input_error() > closed_form.EXACT
    assert tables.closed_forms() == "does not"


@pytest.mark.parametrize("normalise", [True, False])
def test_a_network_cannot_tell_a_normalised_scale_from_the_shifted_schedule(normalise):
    """Its inputs and its targets are those of the schedule whose log SNR is 2 log b larger."""
    b, schedule = 0.3, Schedule("sigmoid", 50)
    x0 = torch.rand(50, 1, 4, 4, dtype=torch.float64) * 2 - 1
    eps, t = torch.randn_like(x0), torch.arange(1, 51)
    level = log_snr(schedule.log_alpha_bar().detach()) + 2 * math.log(b)
    shifted = torch.nn.functional.logsigmoid(level)
    seen = []

    def net(x, _):
        seen.append(x)
        return x

    scaled = Diffusion(schedule, b, normalise, dtype=torch.float64)
    plain = Diffusion(schedule, dtype=torch.float64)
    losses = [scaled.loss(net, x0, t, eps), plain.loss(net, x0, t, eps, plain.levels_of(shifted))]
    assert torch.allclose(*seen, rtol=0, atol=1e-9) == normalise
    assert math.isclose(*(loss.item() for loss in losses), rel_tol=1e-9) == normalise


def test_the_page_holds_the_tables_of_its_rows(tmp_path):
    rows, text = read_text_csv(RESULTS), report.PAGE.read_text()
    shown = {"noise figures": report.pictures(groups_of(rows), RESULTS)}
    assert fill(text, tables.tables_of(rows) | shown) == text
    changed = [{**row, "fid_second": "123.4"} for row in rows]
    assert fill(text, tables.tables_of(changed)) != text


def test_the_rows_are_those_of_the_plan():
    """No row of other flags than the plan's, and none of a dirty checkout."""
    commands = {task.key: task.command for task in all_tasks(seeds=10)}
    for row in read_text_csv(RESULTS):
        key = tuple(row[name] for name in ("dataset", "size", "seed", "recipe"))
        assert row["command"] == commands[key]
        assert float(row["log_snr_middle"]) == pytest.approx(middle_of(row["recipe"]), abs=1e-4)
        # in that checkout, only this study's rows, page and figures had changed
        assert row["commit"] and (row["commit"] == "3c87928b53cb+" or "+" not in row["commit"])
        assert len(row["processor"]) > 2 and row["torch"]


@pytest.fixture
def tiny(monkeypatch, tmp_path, mnist_dir):
    """The study's main on one recipe of a tiny size, with what its tasks started."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tasks, "SHARED", TINY)
    (tmp_path / "docs").mkdir()
    shutil.copy(report.PAGE, tmp_path / "docs")
    words = ["--datasets", "mnist", "--sizes", "8", "--seeds", "1", "--recipes", "linear"]
    words += ["--data_dir", mnist_dir, "--runs_dir", str(tmp_path / "runs")]
    words += ["--results_dir", str(tmp_path / "docs" / "results")]
    return lambda *more: study.main(study.make_parser().parse_args([*words, *more]))


def test_the_same_command_resumes_and_rows_are_enough(tiny, tmp_path, monkeypatch, capsys):
    with pytest.raises(Stop, match="no rows yet"):
        tiny("--report")
    with monkeypatch.context() as patch:  # rows come as a run ends, not with the last one
        patch.setattr(study, "take_done", lambda *_: None)
        tiny()
    path = tmp_path / "docs" / "results" / "noise_schedules.csv"
    rows = read_text_csv(path)
    assert [row["sampled_by"] for row in rows] == ["own", "cosine"]
    assert rows[0]["fid_second"] != rows[1]["fid_second"] and rows[0]["steps"] == "2"
    assert "1 of 54" in (tmp_path / "docs" / "noise_schedules.md").read_text()

    def refuse(*_):
        raise AssertionError("started a run")

    monkeypatch.setattr("comparison.running.Runs.start", refuse)
    monkeypatch.setattr(report, "write", lambda path: None)  # figures take seconds
    path.unlink()
    tiny()  # the run is there, so its rows are written again
    assert read_text_csv(path) == rows
    path.unlink()
    with monkeypatch.context() as patch, pytest.raises(Stop, match=r"ran with --lr 0\.001, now"):
        patch.setattr(tasks, "SHARED", TINY + " --lr 0.5")
        tiny()  # a finished run of other flags is not the plan's
    tiny()
    shutil.rmtree(tmp_path / "runs")
    tiny()  # the rows are there, so the run is not made again
    assert read_text_csv(path) == rows
    capsys.readouterr()
    tiny("--dry_run")
    assert "0 runs" in capsys.readouterr().out
    monkeypatch.setattr(tasks, "SHARED", TINY + " --lr 0.5")
    with pytest.raises(AssertionError, match="started a run"):
        tiny()  # rows of other flags are not the plan's


def test_crossed_images_are_drawn_by_cosine_and_the_network_is_told_the_nearest_time(
    monkeypatch, tmp_path
):
    def judged(*_, **changes):
        seen.update(changes)
        return dict.fromkeys(results.SCORES, 1)

    seen = {}
    monkeypatch.setattr(results, "judge_checkpoint", judged)
    monkeypatch.setattr(results.Judges, "from_flags", lambda *_, **__: None)
    monkeypatch.setattr(results.checkpoint, "newest", lambda folder: folder)
    arguments = vars(all_tasks(seeds=1)[0].parsed())
    task = SimpleNamespace(folder=tmp_path, places=Places("cpu", threads=1))
    results.scores_of(task, "cosine", arguments)
    assert seen == {"sampling_schedule": "cosine", "told": "nearest"}


def test_an_interrupted_run_is_resumed(tmp_path):
    (task,) = tasks.tasks_of(
        Places("cpu", "data", str(tmp_path), 1), ["mnist"], [8], ["linear"], [0]
    )
    assert "--scheduler_type" in task.argv() and "--resume" not in task.argv()
    folder = task.root / "00000-train-seed0"
    folder.mkdir(parents=True)
    (folder / "args.json").write_text("{}")
    assert task.argv()[1:3] == ["--resume", "latest"] and "--scheduler_type" not in task.argv()


def test_the_plan_is_printed_with_its_hours(tiny, capsys):
    tiny("--dry_run", "--recipes", "cosine", "linear")
    lines = capsys.readouterr().out.splitlines()
    assert sum("min  python train_mnist.py" in line for line in lines) == 2
    assert "judged by first, second, pixels" in lines[2] and lines[3].startswith("2 runs, ")


def test_functions_and_scales_share_the_plain_cosine_alone():
    assert set(FUNCTIONS) & set(SCALES) == {plan.BASE}


def test_rows_that_are_added_at_once_are_all_kept(tmp_path, monkeypatch):
    path = tmp_path / "noise_schedules.csv"
    chosen = all_tasks(seeds=1)[:8]
    line = dict.fromkeys(("sampled_by", "command"), "own")
    rows = {
        task.key: dict(zip(("dataset", "size", "seed", "recipe"), task.key, strict=True)) | line
        for task in chosen
    }
    monkeypatch.setattr(results, "rows_of", lambda task: [rows[task.key]])
    threads = [threading.Thread(target=results.Results(path).take, args=(t,)) for t in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [tuple(row.values())[:4] for row in read_text_csv(path)] == [t.key for t in chosen]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
