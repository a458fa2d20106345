"""Two processes of torchrun draw what one draws: as many images, the same, in the same order."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from harness import Script

import reproduce
import train_mnist_bayesian
from common import processes
from common.errors import Stop

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FLAGS = """--dataset digits --model_base_dim 4 --timesteps 20 --backward_steps 2 --epochs 2 --cpu
    --threads 1 --limit_batches 1 --n_samples 4 --fid_samples 20 --eval_samples 0 --eval_chunk 9
    --initial_epoch 1 --zo_samples 16 --batch_size 8""".split()


def torchrun(*argv):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, *map(str, argv)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip


@pytest.fixture
def one(monkeypatch, tmp_path):
    import two_processes

    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "cache")])
    return two_processes.computed()


def test_two_processes_draw_what_one_draws(one, tmp_path):
    done = torchrun("tests/two_processes.py", tmp_path / "cache", tmp_path / "two.pt")
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    assert two["size"] == 2 and len(two["images"]) == 70
    assert two["images"].equal(one["images"]) and two["scores"] == one["scores"]
    assert two["scores"]["n"] == 70
    for name in ("zo theta", "exact theta", "exact q", "both"):
        assert two[name].abs().sum() > 0 and two[name].equal(one[name]), name
    # half a batch each: convolutions of another batch size differ in their last digits
    torch.testing.assert_close(two["zo q"], one["zo q"], rtol=1e-3, atol=1e-3)


def test_a_bilevel_run_of_two_processes_is_the_run_of_one(tmp_path):
    """One folder, written by the first process: the same bits, and no trace of the second."""
    single = Script(tmp_path / "one", "bilevel")
    single.folder.mkdir()
    assert single.run(*FLAGS, real=True, timeout=400) == 0, single.said()
    done = torchrun("train_mnist_bilevel_ZO.py", *FLAGS, "--runs_dir", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "two").iterdir()
    for name in ("scores.csv", "iterations.csv", "schedule.json"):
        assert (folder / name).read_bytes() == (single.only / name).read_bytes(), name
    assert done.stdout.count("finished: ") == 1


def test_the_first_process_alone_takes_an_interrupt(tmp_path):
    """It saves and says how to go on; the others, which have no run to keep, end with it."""
    flags = [*FLAGS, "--epochs", "500", "--save_seconds", "1000", "--runs_dir", tmp_path]
    command = [*TORCHRUN, "train_mnist_bilevel_ZO.py", *map(str, flags)]
    started = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/scores.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    try:
        os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C; torchrun tells its processes
        said, _ = started.communicate(timeout=120)
    finally:
        started.terminate()  # with its processes, if it is still there
        started.wait(60)
    (folder,) = tmp_path.iterdir()
    assert said.count("interrupted") == 1 and f"interrupted; --resume {folder} continues" in said
    assert len(list((folder / "checkpoints").glob("*.pt"))) == 1, said


@pytest.mark.parametrize("command", [
    ["train_mnist.py", "--sample_only", "--ckpt", "assets/mnist.pt"], ["finetune_reward.py"],
])  # fmt: skip
def test_what_has_nothing_to_share_refuses_torchrun(command):
    done = subprocess.run(
        [sys.executable, *command, "--cpu"], cwd=ROOT, env={**os.environ, "WORLD_SIZE": "2"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "run it without torchrun" in done.stderr


def test_a_frozen_run_of_two_processes_makes_one_folder(tmp_path):
    """Its gradients are those of test_two_processes_draw_what_one_draws."""
    trained = Script(tmp_path / "trained")
    trained.folder.mkdir()
    flags = """--cpu --threads 1 --dataset digits --model_base_dim 4 --timesteps 20 --epochs 1
        --limit_batches 1 --n_samples 4 --fid_samples 0 --eval_samples 0 --backward_steps 2"""
    assert trained.run(*flags.split(), real=True) == 0, trained.said()
    flags = """--freeze_network --cpu --threads 1 --backward_steps 2 --zo_samples 16 --batch_size 8
        --frozen_updates 1 --eval_samples 0"""
    found = ["--ckpt", trained.only, "--runs_dir", tmp_path / "runs"]
    done = torchrun("train_mnist_bilevel_ZO.py", *flags.split(), *found)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert done.stdout.count(f"{folder}/schedule.json") == 2


def test_without_torchrun_there_is_one_process():
    assert (processes.size(), processes.rank()) == (1, 0)
    assert list(processes.in_turn(range(3), lambda i: i * i, "cpu")) == [0, 1, 4]
    with processes.one_writes({"runs_dir": "x"}) as arguments:
        assert arguments == {"runs_dir": "x"}


@pytest.mark.parametrize("script", [train_mnist_bayesian, reproduce])
def test_what_has_processes_of_its_own_refuses_torchrun(monkeypatch, script):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Stop, match="without torchrun"):
        script.main(None)
