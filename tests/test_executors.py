"""Trials elsewhere and without batches: the ledger alone says what was asked and told."""

import json
import os
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import Script, kill_self
from test_flags import parse, refused

from common.errors import Stop
from search import executors
from search.asynchronous import search_asynchronously
from search.executors import Elsewhere
from search.ledger import Ledger
from search.options import option as parse_option
from search.points import Points

RANGES = {"start": (0.0, 0.4), "tau": (1.0, 4.0)}
FLAGS = """--dataset digits --model_base_dim 4 --timesteps 20 --backward_steps 2 --epochs 2 --cpu
    --threads 1 --limit_batches 3 --n_samples 4 --fid_samples 0 --eval_samples 20 --log_freq 1
    --n_calls 3 --strategy random --save_seconds 0 --jobs 2 --asynchronous""".split()
SPENT = {
    "reason": None, "n": 20, "half": None, "seconds": 1.0, "at": 1.0, "seed": 0,
    "network_evaluations": {}, "peak_memory": {},
}  # fmt: skip


class Killed(Exception):
    pass


def a_search(folder, strategy, survives=99, jobs=3, n_calls=10, n_initial=4):
    """A search whose trials end in an order of chance, killed after so many rows.

    Returns each ask as (point, how many were told before it), and the ledger's lines.
    """
    ledger = Ledger(folder / "search.jsonl", lambda _: None)
    points = Points(strategy, n_calls, n_initial, 5, RANGES, [{"start": 0.0, "tau": 1.0}])
    asks, told, real_ask, real_tell = [], [0], points.ask, points.tell

    def ask(k):
        found = real_ask(k)
        asks.extend((point, told[0]) for point in found)
        return found

    def tell(those, values):
        told[0] += len(those)
        real_tell(those, values)

    points.ask, points.tell = ask, tell

    def workers(tasks):
        done = set(ledger.rows)
        while waiting := sorted(tasks.keys() - done):
            assert len(waiting) <= jobs
            number = random.Random(len(done)).choice(waiting)
            done.add(number)
            point = tasks[number]
            status = "failed" if number == 2 else "ok"
            value = (point["tau"] - 2) ** 2 + point["start"] if number != 2 else None
            yield number, {"status": status, "objective": value}

    def record(number, point, result):
        if len(ledger.rows) == survives:
            raise Killed
        ledger.add({"trial": number, "parameters": point, **SPENT, **result})

    task_of = lambda number, point, rows: point  # noqa: E731
    done, reason = search_asynchronously(
        points, ledger, workers, jobs, n_calls, task_of, record, lambda rows: ""
    )
    assert (done, reason) == (n_calls, "")
    return asks, [json.loads(line) for line in ledger.path.read_text().splitlines()]


@pytest.mark.parametrize("strategy", ["bayesian", "random", "optuna"])
def test_a_killed_search_replays_its_ledger_to_the_same_points(tmp_path, strategy):
    if strategy == "optuna":
        pytest.importorskip("optuna")
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir(), part.mkdir()
    asks, rows = a_search(whole, strategy)
    assert [told for _, told in asks] == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]  # no batch waits
    assert [row["trial"] for row in rows] != sorted(row["trial"] for row in rows)
    for survives in (0, 4, 8):
        with pytest.raises(Killed):
            a_search(part, strategy, survives)
    again, their_rows = a_search(part, strategy)
    assert again == asks and their_rows == rows


def test_a_point_keeps_away_from_those_under_way(tmp_path):
    """The Gaussian process knows what is being tried: all points differ, and by some distance."""
    asks, _ = a_search(tmp_path, "bayesian", n_calls=12, jobs=4)
    points = [(p["start"] / 0.4, (p["tau"] - 1) / 3) for p, _ in asks]
    assert len(set(points)) == len(points)
    for k in range(4, 12):  # three of these are under way when the fourth is asked
        (x, y), under_way = points[k], points[k - 3 : k]
        assert min(max(abs(x - a), abs(y - b)) for a, b in under_way) > 1e-3


class FakeEngine:
    """Jobs that end at the second look, with what the test says."""

    def __init__(self, *outcomes):
        self.outcomes, self.looks, self.cancelled, self.closed = outcomes, {}, [], False

    def submit(self, home, number):
        self.looks[number] = 0
        return number

    def done(self, job):
        self.looks[job] += 1
        return self.looks[job] > 1

    def outcome(self, job):
        return self.outcomes[job]

    def cancel(self, job):
        self.cancelled.append(job)

    def close(self):
        self.closed = True


def run_like(signal=None):
    return SimpleNamespace(signal=signal, folder=Path("runs/00000"))


def test_what_an_engine_returns_becomes_a_result(monkeypatch):
    monkeypatch.setattr(executors, "POLL", 0)
    monkeypatch.setattr(executors, "killed", lambda task: {"status": "failed", "task": task})
    engine = FakeEngine({"status": "ok"}, None, {"status": "interrupted"})
    with Elsewhere(engine, run_like()) as workers:
        found = dict(workers({i: (i,) for i in range(3)}))
    assert [found[i]["status"] for i in range(3)] == ["ok", "failed", "failed"]
    assert found[1]["task"] == (1,) and engine.closed and engine.cancelled == []


def test_an_error_or_an_interrupt_ends_the_search_and_its_jobs(monkeypatch):
    monkeypatch.setattr(executors, "POLL", 0)
    engine = FakeEngine(OSError(28, "No space left on device"), {"status": "ok"})
    with pytest.raises(OSError, match="No space"), Elsewhere(engine, run_like()) as workers:
        list(workers({0: (0,)}))
    engine = FakeEngine({"status": "ok"}, {"status": "ok"})
    with pytest.raises(Stop, match="--resume") as stop, Elsewhere(engine, run_like(15)) as workers:
        list(workers({0: (0,), 1: (1,)}))
    assert stop.value.code == 143 and engine.cancelled == [0, 1] and engine.closed


def test_the_options_of_an_executor(capsys, tmp_path):
    words = "cluster=local mem_gb=2.5 gpus_per_node=1 slurm_use_srun=False".split()
    args = parse("search", "--executor", "submitit", "--executor_options", *words)
    assert args.executor_options == [
        ["cluster", "local"], ["mem_gb", 2.5], ["gpus_per_node", 1], ["slurm_use_srun", False]
    ]  # fmt: skip
    assert "NAME=VALUE" in refused(capsys, "--executor_options", "x", script="search")
    assert "submitit or ray" in refused(capsys, "--executor_options", "x=1", script="search")
    twice = ["--executor", "ray", "--executor_options", "num_cpus=1", "num_cpus=2"]
    assert "num_cpus is given twice" in refused(capsys, *twice, script="search")


@pytest.mark.parametrize("name, argv", [
    ("submitit", ["--executor", "submitit"]), ("ray", ["--executor", "ray"]),
    ("optuna", ["--strategy", "optuna"]),
])  # fmt: skip
def test_a_missing_package_is_one_line(tmp_path, name, argv):
    script = Script(tmp_path, "search")
    assert script.run(*FLAGS, *argv, sabotage=partial(hidden, name)) == 2
    assert f"requires {name}: pip install {name}" in script.last_line()


def hidden(name):
    import sys

    sys.modules[name] = None


# the engines themselves


WRONG = {
    "submitit": {
        "cluster=moon": "named moon",
        "cluster=slurm": "srun",
        "timeout_min=2.5": "timeout_min",
        "colour=red": "colour",
        "slurm_colour=red": "slurm_colour",
        "slurm_folder=x": "slurm_folder",
        "nodes=2": "one node",
    },
    "ray": {
        "memory=1": "memory",
        "num_cpus=many": "num_cpus",
        "num_gpus=-1": "num_gpus",
        "max_retries=1.5": "max_retries",
    },
}


@pytest.mark.parametrize(
    "engine, option, word", [(e, o, w) for e in WRONG for o, w in WRONG[e].items()]
)
def test_a_wrong_option_of_an_engine_is_one_line(monkeypatch, tmp_path, engine, option, word):
    pytest.importorskip(engine)
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun
    if engine == "ray":
        monkeypatch.setattr("ray.init", lambda **_: pytest.fail("a cluster is started"))
    options = {} if engine == "ray" else {"cluster": "local"}
    with pytest.raises(Stop, match=f"^--executor_options.*{word}") as stop:
        executors.ENGINES[engine](tmp_path, 1, options | dict([parse_option(option)]))
    assert stop.value.code == 2 and "\n" not in str(stop.value)


def test_a_trial_too_large_for_a_ray_cluster_does_not_wait_in_silence(monkeypatch, capsys):
    pytest.importorskip("ray")
    closed = []
    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.shutdown", lambda: closed.append(True))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(Stop, match="needs 1 GPU, of 0 on this machine") as stop:
        executors.Ray(Path(), 2, {"num_gpus": 1})
    assert stop.value.code == 2 and closed
    executors.Ray(Path(), 2, {"num_cpus": 2, "address": "auto"})
    assert capsys.readouterr().out == ""
    executors.Ray(Path(), 2, {"num_cpus": 4, "num_gpus": 1, "address": "auto"})
    assert [line.split()[5:9] for line in capsys.readouterr().out.splitlines()] == [
        ["4", "CPU,", "of", "2"], ["1", "GPU,", "of", "0"]
    ]  # fmt: skip


def a_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_what_slurm_is_asked_for(monkeypatch, tmp_path):
    """Options of the constructor, lists and truth values, as far as the file that sbatch gets."""
    pytest.importorskip("submitit")
    a_program(tmp_path / "srun", "exit 1")
    a_program(tmp_path / "sbatch", f"cp $1 {tmp_path}/job.sh; echo Submitted batch job 7")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = (
        "cluster=slurm", "slurm_max_num_timeout=5", "slurm_python=other_python",
        "slurm_partition=gpu", "timeout_min=600", "slurm_setup=module load cuda",
        "slurm_use_srun=False", "slurm_exclusive=True",
    )  # fmt: skip
    engine = executors.Submitit(tmp_path / "jobs", 1, dict(map(parse_option, words)))
    job = engine.submit("home", "folder", "args", None)
    assert not any(path.is_symlink() for path in (tmp_path / "jobs").rglob("*"))  # or no resume
    lines = (tmp_path / "job.sh").read_text().splitlines()
    assert {"#SBATCH --partition=gpu", "#SBATCH --time=600", "#SBATCH --exclusive"} <= {*lines}
    assert "module load cuda" in lines and not any(line.startswith("srun") for line in lines)
    assert any(line.startswith("other_python ") for line in lines)
    assert job.submission()._timeout_countdown == 5

    a_program(tmp_path / "sbatch", "echo sbatch: error: invalid partition >&2; exit 1")
    with pytest.raises(Stop, match="invalid partition") as stop:
        engine.submit("home", "folder", "args", None)
    assert stop.value.code == 1


def elsewhere(job):
    """Patch: the engine's processes run a function of jobs_elsewhere."""
    import jobs_elsewhere

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    executors.JOB = getattr(jobs_elsewhere, job)


def killed_at_the_first_row(job):
    elsewhere(job)
    real = Ledger.add

    def add(self, row):
        real(self, row)
        kill_self()

    Ledger.add = add


def rows_of(script):
    lines = (script.only / "search.jsonl").read_text().splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["trial"])
    return [(row["status"], row["objective"], row["parameters"]) for row in rows]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    script = Script(tmp_path_factory.mktemp("local"), "search")
    assert script.run(*FLAGS) == 0, script.said()
    return rows_of(script)


def only_the_third_failed(script, local):
    rows = rows_of(script)
    assert rows[:2] == local[:2] and rows[2] == ("failed", None, local[2][2])
    log = (script.only / "trials" / "001" / "log.txt").read_text()
    assert "resumed from step_" in log


def test_submitit_kills_preemptions_and_a_search_that_dies(tmp_path, local):
    pytest.importorskip("submitit")
    script = Script(tmp_path, "search")
    options = ["--executor_options", "cluster=local"]
    flags = [*FLAGS, "--executor", "submitit", *options]
    assert script.run(*flags, sabotage=partial(killed_at_the_first_row, "preempted")) == -9
    again = script.run("--resume", "latest", *options, sabotage=partial(elsewhere, "preempted"))
    assert again == 0, script.said()
    only_the_third_failed(script, local)


def test_submitit_gives_up_a_trial_that_times_out_too_often(tmp_path, local):
    pytest.importorskip("submitit")
    script = Script(tmp_path, "search")
    # with so short a limit a preemption counts as a time-out
    options = "cluster=local timeout_min=1 local_max_num_timeout=0".split()
    flags = [*FLAGS, "--executor", "submitit", "--executor_options", *options]
    assert script.run(*flags, sabotage=partial(elsewhere, "preempted")) == 0, script.said()
    rows = map(json.loads, (script.only / "search.jsonl").read_text().splitlines())
    reasons = {row["trial"]: row["reason"] or "" for row in rows}
    assert not reasons[0] and "timed-out too many times" in reasons[1]


def test_ray_retries_what_is_lost_and_waits_for_no_slow_trial(tmp_path, local):
    pytest.importorskip("ray")
    script = Script(tmp_path, "search")
    code = script.run(*FLAGS, "--executor", "ray", sabotage=partial(elsewhere, "lost"), timeout=600)
    assert code == 0, script.said()
    only_the_third_failed(script, local)
