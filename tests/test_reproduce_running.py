"""The processes of a comparison: what stops them, what resumes them, what keeps two apart."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import until

import reproduce
from common import machine
from common.errors import Stop
from common.tables import read_text_csv
from comparison import running
from comparison.jobs import Job

ROOT = Path(__file__).resolve().parent.parent
LONG = """
import sys
import reproduce
from comparison.scales import SCALES
SCALES["quick"] = SCALES["quick"]._replace(
    shared="--dataset digits --model_base_dim 4 --batch_size 16 --timesteps 10 --backward_steps 2 "
    "--eval_samples 20 --n_samples 4 --threads 1 --save_seconds 0",
    train=f"--epochs {EPOCHS} --limit_batches 3 --fid_samples 0",
)
args = reproduce.make_parser().parse_args(sys.argv[1:])
sys.exit(reproduce.guarded(reproduce.main, args, "reproduce.py"))
"""


@pytest.fixture
def comparison(tmp_path):
    """Starts `reproduce.py` on one cell of many epochs; ends what is left of it."""
    started = []

    def start(epochs, *flags):
        places = ["--runs_dir", tmp_path / "runs", "--results_dir", tmp_path / "docs" / "results"]
        flags = [*places, "--methods", "default", "--seeds", 1, "--device", "cpu", *flags]
        code = LONG.replace("{EPOCHS}", str(epochs)).replace("train=", "judged=20, train=")
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, flags)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    start.folder = tmp_path / "runs" / "quick"
    yield start
    for process in started:
        process.kill()
        process.wait()


def processes_in(folder):
    """Those with a path below the folder in their command line."""
    lines = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in lines.splitlines() if f"{folder}/" in line]


def is_training(folder):
    return list(folder.glob("default-seed0/0*/checkpoints/step_*.pt"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_run_outlives_the_comparison_and_the_same_command_continues(comparison, number):
    first = comparison(20)
    until(lambda: is_training(comparison.folder))
    assert processes_in(comparison.folder)
    os.kill(first.pid, number)
    code = first.wait(300)
    assert code == (-9 if number == signal.SIGKILL else 128 + number), first.stdout.read()
    until(lambda: not processes_in(comparison.folder))
    assert not list(comparison.folder.glob("*/*/summary.json"))  # it was stopped, not finished
    second = comparison(20)
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output
    (run,) = comparison.folder.glob("default-seed0/0*")
    assert "resumed from" in (run / "log.txt").read_text() and (run / "summary.json").exists()


def test_three_processes_share_a_folder_and_one_is_killed(comparison, tmp_path):
    """The killed one's cell is taken up by another, none is run twice, one process judges."""
    flags = ["--seeds", 4]
    processes = [comparison(12, *flags) for _ in range(3)]

    def begun():
        return [f.parents[1] for f in comparison.folder.glob("default-seed*/0*/checkpoints/st*")]

    until(lambda: len(set(begun())) >= 2)
    taken_by = {}
    lines = subprocess.run(["ps", "-eww", "-o", "ppid,args"], capture_output=True, text=True)
    for line in lines.stdout.splitlines():
        for seed in range(4):
            if f"{comparison.folder}/default-seed{seed}" in line and "train_mnist.py" in line:
                taken_by[int(line.split()[0])] = seed
    assert len(set(taken_by.values())) == len(taken_by) >= 2  # no cell by two processes
    saved = {int(folder.parent.name.removeprefix("default-seed")) for folder in begun()}
    killed = next(p for p in processes if taken_by.get(p.pid) in saved)
    killed.kill()
    outputs = [p.communicate(timeout=600)[0] for p in processes if p is not killed]
    assert all(p.returncode == 0 for p in processes if p is not killed), outputs
    written = [output.count("wrote ") for output in outputs]
    assert sum(written) == 1, outputs
    assert sum("other processes" in out or "another process" in out for out in outputs) == 1
    for seed in range(4):
        (run,) = comparison.folder.glob(f"default-seed{seed}/0*")
        log = (run / "log.txt").read_text()
        assert log.count("finished: ") == 1 and (run / "judged.json").exists()
        assert ("resumed from" in log) == (seed == taken_by[killed.pid])
    table = read_text_csv(tmp_path / "docs" / "results" / "reproduce_quick_runs.csv")
    assert [row["seed"] for row in table] == ["0", "1", "2", "3"]
    assert {row["host"] for row in table} == {platform.node()}


def test_a_cell_alone_is_run_and_not_judged(comparison):
    process = comparison(1, "--seeds", 3, "--cell", 2)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "not judged yet; --collect judges" in output, output
    (run,) = comparison.folder.glob("*/0*")
    assert run.parent.name == "default-seed2" and (run / "summary.json").exists()
    assert not (run / "judged.json").exists()
    process = comparison(1, "--seeds", 3, "--cell", 3)
    assert process.wait(300) == 2 and "there are 3 cells" in process.stdout.read()


def test_a_run_that_fails_is_named_and_the_exit_code_says_so(comparison):
    damaged = comparison.folder / "grid-seed0" / "00000-search-seed0"
    damaged.mkdir(parents=True)
    (damaged / "args.json").write_text("{}")
    process = comparison(1, "--methods", "default", "grid")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert "grid, seed 0: FAILED" in output and "missing from the results: grid, seed 0" in output
    assert "cannot be read" in (damaged.parent / "output.txt").read_text()


class Nothing(Job):
    """Its process is a stand-in."""

    def argv(self):
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_interrupt_stops_the_runs_and_is_the_exit_code(monkeypatch, tmp_path, number):
    before, stopped = signal.getsignal(number), []

    class Process:
        def __init__(self, *_, **__):
            pass

        def poll(self):
            if not stopped:
                signal.getsignal(number)(number, None)

        def terminate(self):
            stopped.append(self)

        def wait(self):
            assert stopped == [self]

    monkeypatch.setattr(running.subprocess, "Popen", Process)
    with pytest.raises(Stop, match="the same command continues") as stop:
        running.run_all([Nothing(tmp_path)], 1, lambda cell: 1)
    assert stop.value.code == 128 + number and stopped
    assert signal.getsignal(number) == before


def test_runs_share_the_cards_of_a_machine(monkeypatch, tmp_path):
    """Each goes to the card with the fewest runs; one that ends makes its card free again."""
    seen = []

    class Process:
        def __init__(self, command, env, **_):
            seen.append(env.get("CUDA_VISIBLE_DEVICES"))

        def poll(self):
            return None

    monkeypatch.setattr(running.subprocess, "Popen", Process)
    cells = [Nothing(tmp_path / str(i)) for i in range(4)]
    runs = running.Runs(["2", "5"])
    for cell in cells[:3]:
        runs.start(cell)
    runs.processes.pop(next(p for p, c in runs.processes.items() if c is cells[1]))
    runs.start(cells[3])
    assert seen == ["2", "5", "2", "5"]


def test_a_comparison_has_its_jobs_and_its_cards(monkeypatch, tmp_path):
    given = []

    def run_all(missing, jobs, passes, gpus):
        given.extend([[(cell.method, cell.seed) for cell in missing], jobs, gpus])
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "run_all", run_all)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = f"--methods default --seeds 2 --jobs 3 --device cuda --runs_dir {tmp_path} "
    args = reproduce.make_parser().parse_args((words + f"--results_dir {tmp_path}").split())
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(args)
    assert given == [[("default", 0), ("default", 1)], 3, ["0", "1"]]


def test_a_device_that_is_named_is_every_runs_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus_to_share("auto") == ["0", "1"]
    assert machine.gpus_to_share("cuda:1") == machine.gpus_to_share("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    assert machine.gpus_to_share("cuda") == ["3", "7"]
