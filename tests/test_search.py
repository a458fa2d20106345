"""Whole searches: what they leave, and what they survive."""

import json
import multiprocessing
import os
import time
from functools import partial
from types import SimpleNamespace

import pytest
from harness import Script, kill_self

import train_mnist
from common import checkpoint, cli, training
from common.errors import Stop
from search import trials
from search.points import Points

RANGES = {"start": (0.0, 0.4), "end": (0.8, 1.0), "tau": (1.0, 4.0), "epsilon": (0.005, 0.04)}
DEFAULT = {"start": 0.0, "end": 1.0, "tau": 1.0, "epsilon": 0.008}
FLAGS = """--dataset digits --model_base_dim 4 --timesteps 20 --backward_steps 2 --epochs 2 --cpu
    --threads 1 --limit_batches 3 --n_samples 4 --fid_samples 0 --eval_samples 20 --log_freq 1
    --n_calls 5 --n_initial 4 --save_seconds 0""".split()


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path, "search")


def rows_of(script):
    """The ledger by trial, without what depends on the clock."""
    path = script.only / "search.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = sorted(map(json.loads, lines), key=lambda row: row["trial"])
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "at", "peak_memory")} for row in rows
    ]


def weights_of(script):
    """The last checkpoint of each trial, without what depends on the clock."""
    from common import checkpoint

    folders = sorted((script.only / "trials").iterdir())
    states = [checkpoint.load_newest(folder / "checkpoints")[0] for folder in folders]
    return [
        {name: tensor.tolist() for name, tensor in state["theta"]["net"].items()}
        for state in states
    ]


# whole searches


def test_a_search_leaves_a_ledger_and_the_best_schedule(script):
    assert script.run(*FLAGS) == 0, script.said()
    rows, folder = rows_of(script), script.only
    assert "the FID by mnist of 20 images in 2 DDIM steps against training" in script.said()
    assert f"trial 4 of 0 to 4; its log is {folder}/trials/004/log.txt" in script.said()
    assert "warning: --n_initial" not in script.said()
    assert [r["trial"] for r in rows] == list(range(5))
    assert rows[0]["parameters"] == DEFAULT and {r["status"] for r in rows} == {"ok"}
    best = min(rows, key=lambda r: r["objective"])
    schedule = json.loads((folder / "schedule.json").read_text())
    assert {name: schedule[name] for name in RANGES} == best["parameters"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["objective"] == best["objective"] and summary["best"] == best["trial"]
    assert summary["upper_reference"] == "digits train, 1437 images" != summary["reference"]
    assert summary["n"] == 20 and summary["fid"] != best["objective"]  # from other noise
    default = summary["default"]  # trial 0, on the same held-out noise
    assert default["n"] == 20 and default["fid"] not in (summary["fid"], rows[0]["objective"])
    line = f"best (trial {best['trial']}) FID {summary['fid']:.5g}, default (trial 0) FID"
    assert f"{line} {default['fid']:.5g}" in script.said()
    spent = [r["network_evaluations"] for r in rows]
    assert summary["network_evaluations"]["training"] == sum(e["training"] for e in spent)
    assert summary["network_evaluations"]["sampling"] == sum(e["sampling"] for e in spent) + 80
    assert "--schedule_from" in script.said() and "best first" in script.said()
    assert script.run("--resume", "latest") == 0 and "nothing to resume" in script.last_line()


def test_a_trial_is_the_training_of_train_mnist(script, tmp_path):
    assert script.run(*FLAGS, "--n_calls", 2, "--seed", 3) == 0, script.said()
    assert "warning: --n_initial 4 leaves the Gaussian process no point" in script.said()
    trial = script.only / "trials" / "001"
    plain = Script(tmp_path / "plain")
    plain.folder.mkdir()
    flags = FLAGS[: FLAGS.index("--n_calls")]
    for name, value in rows_of(script)[1]["parameters"].items():
        flags = [*flags, f"--{name}", repr(value)]
    # a trial is measured against training images: the report's are not what chose it
    assert plain.run(*flags, "--seed", 3, "--reference", "train") == 0, plain.said()
    for name in ("scores.csv", "losses.csv", "schedule.json", "samples/epoch_002.png"):
        assert (plain.only / name).read_bytes() == (trial / name).read_bytes()
    fids = [json.loads((f / "summary.json").read_text())["fid"] for f in (plain.only, trial)]
    assert fids[0] == fids[1] == rows_of(script)[1]["objective"]


def test_the_printed_command_trains_with_the_best_schedule(script, tmp_path):
    assert script.run(*FLAGS, "--n_calls", 3) == 0, script.said()
    (line,) = [x for x in script.said().splitlines() if "to train with it" in x]
    words = line.split("train_mnist.py ")[1].split()
    del words[words.index("--runs_dir") :]
    again = Script(tmp_path / "again")
    again.folder.mkdir()
    assert "--reference" not in words
    words += ["--cpu", "--threads", 1, "--reference", "train"]
    assert again.run(*words) == 0, again.said()
    summary = json.loads((script.only / "summary.json").read_text())
    assert json.loads((again.only / "summary.json").read_text())["fid"] == summary["objective"]


@pytest.mark.parametrize("strategy", ["random", "grid"])
def test_the_baselines_search_the_same_space(script, strategy):
    held = ["--fix", "start", "end", "--start", 0.05, "--end", 0.9]
    assert script.run(*FLAGS, "--strategy", strategy, *held) == 0, script.said()
    points = [r["parameters"] for r in rows_of(script)]
    assert points[0] == {name: DEFAULT[name] for name in ("tau", "epsilon")}
    assert len(points) == 5  # the default, and 2 x 2 or 4 at random
    for point in points:
        assert all(low <= point[n] <= high for n, (low, high) in RANGES.items() if n in point)
    best = json.loads((script.only / "schedule.json").read_text())
    assert (best["start"], best["end"]) == (0.05, 0.9)
    assert {name: best[name] for name in points[0]} in points


# what goes wrong


def spoiled(which, how):
    """Patch train_mnist.train: the trials in `which` do not come to their end."""
    real = train_mnist.train

    def train(args, trial, images, on_epoch):
        if int(trial.folder.name) in which:
            how()
        return real(args, trial, images, on_epoch)

    train_mnist.train = train


def diverge():
    raise Stop("the loss is nan at epoch 1, step 1")


@pytest.mark.parametrize("how, why, which", [
    (diverge, "the loss is nan", {0, 1, 3}),
    (kill_self, "its process was killed", {0}),
    (kill_self, "its process was killed", {4}),
    (kill_self, "its process was killed", {0, 1, 3}),
])  # fmt: skip
def test_a_failed_trial_is_recorded_and_the_search_goes_on(script, how, why, which):
    assert script.run(*FLAGS, sabotage=partial(spoiled, which, how)) == 0, script.said()
    rows = rows_of(script)
    assert {r["trial"] for r in rows if r["status"] == "failed"} == which and len(rows) == 5
    assert all(why in r["reason"] and "\n" not in r["reason"] for r in rows if r["trial"] in which)
    assert json.loads((script.only / "summary.json").read_text())["failed"] == len(which)


def stumble():
    raise RuntimeError("out of\nmemory")


def test_an_error_of_several_lines_is_one_line_of_the_ledger(script):
    assert script.run(*FLAGS, sabotage=partial(spoiled, {1}, stumble)) == 0
    assert rows_of(script)[1]["reason"] == "RuntimeError: out of"


def cuda_error():
    raise RuntimeError("CUDA error: device-side assert triggered")


def cudnn_error():
    raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


@pytest.mark.parametrize("error", [cuda_error, cudnn_error])
def test_an_error_that_stays_with_a_cuda_process_ends_it(script, error):
    """Every later trial of the process would fail: the search gets another process."""
    flags = [*FLAGS, "--strategy", "random", "--n_calls", 3]
    assert script.run(*flags, sabotage=partial(spoiled, {1}, error)) == 0, script.said()
    rows = rows_of(script)
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert "its process was killed" in rows[1]["reason"]
    assert "this process ends" in (script.only / "trials" / "001" / "log.txt").read_text()


def slow_beside_one_that_dies():
    time.sleep(0.5)  # the sibling is in the middle of its training by now
    kill_self()


def slowly():
    real = training.Learner.step

    def step(self, *rest):
        time.sleep(2)  # longer than the pool takes to notice
        return real(self, *rest)

    training.Learner.step = step


def slow_siblings():
    spoiled({1}, slow_beside_one_that_dies)
    slowly()


def test_a_sibling_in_a_long_step_lets_go_of_its_trial(script):
    flags = [*FLAGS, "--jobs", 2, "--n_calls", 3, "--epochs", 1, "--limit_batches", 1]
    assert script.run(*flags, "--strategy", "random", sabotage=slow_siblings) == 0, script.said()
    assert [r["status"] for r in rows_of(script)] == ["ok", "failed", "ok"]


def test_two_at_once_lose_only_the_one_that_dies(script):
    flags = [*FLAGS, "--jobs", 2]
    assert script.run(*flags, sabotage=partial(spoiled, {2}, kill_self)) == 0, script.said()
    assert [r["status"] for r in rows_of(script)] == ["ok", "ok", "failed", "ok", "ok"]


def test_all_failed_is_one_line(script):
    assert script.run(*FLAGS, sabotage=partial(spoiled, set(range(5)), diverge)) == 1
    assert "all 5 trials failed" in script.last_line() and "nan" in script.last_line()
    assert script.run("--resume", "latest") == 1 and "all 5" in script.last_line()


def full_disk():
    raise OSError(28, "No space left on device", "somewhere")


def test_a_full_disk_ends_the_search_and_is_no_failure(script):
    assert script.run(*FLAGS, sabotage=partial(spoiled, {2}, full_disk)) == 1
    assert "No space left" in script.last_line() and len(rows_of(script)) == 2
    assert script.run("--resume", "latest") == 0
    assert {r["status"] for r in rows_of(script)} == {"ok"}


def without_test_images():
    """Patch: the test images are damaged."""

    def from_flags(*_, **flags):
        raise Stop("t10k-images-idx3-ubyte: damaged")

    trials.Judges.from_flags = from_flags


def test_damaged_data_end_the_search_and_are_no_failure(script):
    assert script.run(*FLAGS, sabotage=without_test_images) == 1
    assert "t10k-images-idx3-ubyte: damaged" in script.last_line() and rows_of(script) == []
    assert script.run("--resume", "latest") == 0
    assert {r["status"] for r in rows_of(script)} == {"ok"}


def dead_between_trials():
    """Patch: the pool's process is killed while the search chooses the next point."""
    real = Points.tell

    def tell(self, *values):
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        real(self, *values)

    Points.tell = tell


def test_a_worker_that_dies_between_trials_is_replaced(script):
    flags = [*FLAGS, "--n_calls", 3, "--strategy", "random"]
    assert script.run(*flags, sabotage=dead_between_trials) == 0, script.said()
    assert [r["status"] for r in rows_of(script)] == ["ok"] * 3


def dead_before_it_begins():
    """Patch: the pool's process is killed with its first trial, which it has not begun."""
    real, left = trials.Workers._submit, [1]

    def submit(self, tasks):
        futures = real(self, tasks)
        for child in multiprocessing.active_children() if left else ():
            child.kill()
        left.clear()
        return futures

    trials.Workers._submit = submit


def test_a_trial_that_is_lost_before_it_begins_is_tried_again(script):
    """As where the pool has not yet seen that its worker is dead."""
    flags = [*FLAGS, "--n_calls", 2, "--strategy", "random"]
    assert script.run(*flags, sabotage=dead_before_it_begins) == 0, script.said()
    assert [r["status"] for r in rows_of(script)] == ["ok"] * 2


def test_a_trial_is_pruned_before_its_epoch_is_saved(tmp_path, monkeypatch):
    """Or one that is interrupted there would be resumed after it, and not be pruned any more."""
    seen = []

    def prune(trial, epoch, _):
        state, _ = checkpoint.load_newest(trial.folder / "checkpoints")
        seen.append((epoch, state["progress"]["epoch"]))

    monkeypatch.setattr(trials.Trial, "prune", prune)
    words = " ".join(FLAGS).replace("--n_calls 5 --n_initial 4", "").split()
    args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, words)
    assert trials.run_trial(tmp_path / "0", args, None)["status"] == "ok"
    assert seen == [(1, 0), (2, 1)]


def card_of_a_trial(*_):
    time.sleep(0.2)
    return {"status": "ok", "card": os.environ.get("CUDA_VISIBLE_DEVICES"), "process": os.getpid()}


@pytest.mark.parametrize("gpus, cards", [(["2", "5"], {"2", "5"}), (["2"], {"2"}), ([], {""})])
def test_a_process_has_one_card_for_all_its_trials(monkeypatch, tmp_path, gpus, cards):
    """Or its memory would hold what it cached on each, and two could meet on one of two cards."""
    monkeypatch.setattr(trials, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(trials, "run_trial", card_of_a_trial)
    tasks = {i: (tmp_path / str(i), None, None) for i in range(8)}
    with trials.Workers(2, SimpleNamespace(folder=tmp_path, signal=None), gpus) as workers:
        rows = [row for _, row in workers(tasks)]
    assert len(rows) == 8 and {row["card"] for row in rows} == cards
    pairs = {(row["process"], row["card"]) for row in rows}
    assert len(pairs) == len({row["process"] for row in rows}) == 2
