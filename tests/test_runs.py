"""Whole runs: reproducible, resumable to the last bit, and clear when something is wrong."""

import csv
import json
import os
import random
import signal
import subprocess

import pytest
import torch
from harness import Script, TwoLayers, killed_twice
from test_checkpoint import same

import train_mnist
from common import checkpoint, cli, networks, provenance, run, sampling
from common.compare.records import read_record
from common.compare.samples import sampler_of
from common.locate import ROOT

# a run of ten steps
TINY = """
    --cpu --threads 1 --dataset digits --model_base_dim 4 --epochs 2 --batch_size 32 --timesteps 20
    --limit_batches 5 --backward_steps 4 --n_samples 4 --fid_samples 0 --eval_samples 0 --log_freq 2
    --save_seconds 0
""".split()
# by default the average of so short a run is a copy of its network
AVERAGED = ["--ema_memory", 4, "--model_ema_steps", 2]


def result(folder):
    """Everything of a run that must not depend on how often it was killed."""
    state, _ = checkpoint.load_newest(folder / "checkpoints")
    files = {p.name: p.read_bytes() for p in folder.glob("*.csv") if p.name != "timing.csv"}
    samples = {p.name: p.read_bytes() for p in (folder / "samples").glob("*.png")}
    written = {p.name: json.loads(p.read_text()) for p in folder.glob("*.json")}
    del written["args.json"]
    for name in ("seconds", "peak_memory"):
        del written["summary.json"][name]
    clock = ("elapsed", "args", "files")
    state = {k: v for k, v in state.items() if k not in clock}
    return state | {"csv": files, "png": samples, "json": written}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    script = Script(tmp_path_factory.mktemp("whole"))
    assert script.run(*TINY) == 0, script.said()
    return script.only


@pytest.fixture(scope="module")
def whole(undisturbed):
    return result(undisturbed)


def test_a_run_leaves_its_folder_in_order(tmp_path):
    script = Script(tmp_path)
    evaluated = [
        *TINY,
        "--fid_samples",
        "8",
        "--eval_samples",
        "12",
        "--cache_dir",
        tmp_path / "cache",
    ]
    assert script.run(*evaluated, real=True) == 0, script.said()
    folder = script.only
    assert folder.name == "00000-train-seed0"
    arguments = json.loads((folder / "args.json").read_text())
    assert arguments["arguments"]["epochs"] == 2 and arguments["data"] and arguments["versions"]
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "2"] and rows[0]["fid_n"] == "8"
    assert all(float(r["fid"]) > 0 and float(r["loss"]) > 0 for r in rows)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n"] == 12 and summary["extractor"] and summary["reference"]
    assert summary["network_evaluations"] == {
        "training": 2 * 5 * 32, "sampling": 2 * (4 + 8) * 4 + 12 * 4
    }  # fmt: skip
    for name in ("loss.png", "scores.png", "schedule.png", "denoising.gif"):
        assert (folder / "figures" / name).stat().st_size > 1000
    said = script.said()
    assert "\r" not in said and "Traceback" not in said
    assert script.run("--resume", "latest") == 0 and "nothing to resume" in script.last_line()


def test_the_same_seed_gives_the_same_bits(tmp_path, whole):
    script = Script(tmp_path)
    assert script.run(*TINY, "--save_seconds", "60") == 0
    assert same(result(script.only), whole)
    other = Script(tmp_path / "other")
    other.folder.mkdir()
    assert other.run(*TINY, "--seed", "1") == 0
    assert not same(result(other.only)["theta"]["net"], whole["theta"]["net"])


def test_killed_at_random_moments_and_resumed_gives_the_same_bits(tmp_path, undisturbed, whole):
    rng, kills = random.Random(0), 0
    for trial in range(3):
        script = Script(tmp_path / str(trial))
        script.folder.mkdir()
        folder, met = killed_twice(script, TINY, rng, undisturbed)
        assert same(result(folder), whole)
        kills += met
    assert kills > 0


class DieAtStep:
    """Kills the process right after a step, in the middle of an epoch or at its end."""

    def __init__(self, step):
        self.step = step

    def __call__(self):
        def poll(self_):
            real(self_)
            if self_.state and self_.state()["step"] == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        real, run.Run.poll = run.Run.poll, poll


@pytest.mark.parametrize("step", [1, 3, 5, 10])
def test_killed_after_a_step_and_resumed_gives_the_same_bits(tmp_path, whole, step):
    script = Script(tmp_path)
    assert script.run(*TINY, sabotage=DieAtStep(step)) == -signal.SIGKILL
    assert script.run("--resume", "latest") == 0, script.said()
    assert same(result(script.only), whole)


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "step", "exponential", "plateau"])
def test_every_lr_schedule_resumes_to_the_same_bits(tmp_path, lr_schedule):
    results = []
    for sabotage in (None, DieAtStep(6)):
        script = Script(tmp_path / str(bool(sabotage)))
        script.folder.mkdir()
        flags = ["--lr_schedule", lr_schedule, *AVERAGED]
        code = script.run(*TINY, *flags, sabotage=sabotage)
        if sabotage:
            assert code == -signal.SIGKILL
            assert script.run("--resume", "latest") == 0, script.said()
        results.append(result(script.only))
    assert same(*results)
    theta, average = results[0]["theta"], results[0]["ema"]
    assert not torch.equal(average["module.last.weight"], theta["net"]["last.weight"])
    if lr_schedule == "plateau":  # which looks at the loss of each epoch
        assert theta["lr_schedule"]["last_epoch"] == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_the_run(tmp_path, number, code):
    script = Script(tmp_path)
    process = script.start_until("loss", *TINY, "--epochs", "2000", "--save_seconds", "1000")
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == code
    assert "--resume" in script.last_line() and "Traceback" not in script.said()
    assert checkpoint.load_newest(script.only / "checkpoints")[0]["step"] > 0


def test_a_second_signal_ends_a_run_at_once(tmp_path):
    arguments = {"resume": None, "runs_dir": str(tmp_path), "save_seconds": 1, "seed": 0, "lr": 1.0}
    opened = run.Run.open("train", arguments, torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt), opened:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


class PoisonAtStep:
    """From a step on, the loss (or only its gradient) is not a number."""

    def __init__(self, step, gradient):
        self.step, self.gradient = step, gradient

    def __call__(self):
        from model import Diffusion

        real, step, gradient, seen = Diffusion.loss, self.step, self.gradient, 0

        def loss(*words, **named):
            nonlocal seen
            seen += 1
            value = real(*words, **named)
            if seen < step:
                return value
            return value + (value - value.detach()) * 1e30 * 1e30 if gradient else value * torch.nan

        Diffusion.loss = loss


@pytest.mark.parametrize("step", [1, 4, 10])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_number_that_is_not_finite_stops_the_run(tmp_path, whole, step, gradient):
    script = Script(tmp_path)
    assert script.run(*TINY, sabotage=PoisonAtStep(step, gradient)) == 1
    assert ("gradient" if gradient else "the loss is nan") in script.last_line()
    assert f"step {step}" in script.last_line() and "Traceback" not in script.said()
    newest = checkpoint.load_newest(script.only / "checkpoints")
    assert (newest[0]["step"] if newest else 0) == step - 1
    assert script.run("--resume", "latest") == 0, script.said()
    assert same(result(script.only), whole)


class FullDisk:
    """The disk is full when a checkpoint of this step is written."""

    def __init__(self, step):
        self.step = step

    def __call__(self):
        real, step = checkpoint.save, self.step

        def save(path, state):
            if state["step"] == step:
                checkpoint.os.fsync = lambda fd: exec(
                    "raise OSError(28, 'No space left on device')"
                )
            real(path, state)

        checkpoint.save = save


@pytest.mark.parametrize("step", [2, 7])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, whole, step):
    script = Script(tmp_path)
    assert script.run(*TINY, sabotage=FullDisk(step)) == 1
    assert "No space left" in script.last_line() and "Traceback" not in script.said()
    assert checkpoint.load_newest(script.only / "checkpoints")[0]["step"] == step - 1
    assert script.run("--resume", "latest") == 0, script.said()
    assert same(result(script.only), whole)


def test_two_processes_in_one_folder(tmp_path):
    script = Script(tmp_path)
    first = script.start_until("loss", *TINY, "--epochs", "2000")
    second = Script(tmp_path)
    second.output = tmp_path / "second.txt"
    assert second.run("--resume", "latest") == 2
    assert "another process" in second.last_line()
    assert first.is_alive()
    first.kill()


def test_a_damaged_checkpoint_falls_back_and_a_foreign_one_is_refused(tmp_path, whole):
    script = Script(tmp_path)
    assert script.run(*TINY, sabotage=DieAtStep(7)) == -signal.SIGKILL
    newest = sorted((script.only / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert script.run("--resume", "latest") == 0, script.said()
    assert "warning" in script.said() and newest.name in script.said()
    assert same(result(script.only), whole)
    torch.save({"net": {}}, tmp_path / "foreign.pt")
    assert script.run(*TINY, "--ckpt", tmp_path / "foreign.pt") == 1
    assert "foreign.pt: not a checkpoint" in script.last_line()
    assert script.only  # and no folder is left, for --resume latest to find


def test_weights_carry_over_and_can_be_sampled(tmp_path, monkeypatch):
    script = Script(tmp_path)
    assert script.run(*TINY) == 0
    newest = sorted((script.only / "checkpoints").iterdir())[-1]
    draw = ["--sample_only", "--ckpt", newest, "--backward_steps", "4", "--n_samples", "5", "--cpu"]
    assert script.run(*draw, "--threads", "1") == 0, script.said()
    assert list((tmp_path / "runs").glob("00001-sample-seed0/samples/*.png"))
    about = json.loads((tmp_path / "runs" / "00001-sample-seed0" / "args.json").read_text())
    known = json.loads((tmp_path / "runs" / "00000-train-seed0" / "args.json").read_text())
    for name in ("timesteps", "model_base_dim", "dataset", "tau"):  # the checkpoint's own
        assert about["arguments"][name] == known["arguments"][name]
    assert script.run(*draw, "--tau", "3") == 2 and "was trained with 1.0" in script.last_line()
    assert script.run(*draw, "--scheduler_type", "sigmoid") == 2
    assert script.last_line().endswith(
        f"--scheduler_type sigmoid: {newest} was trained with cosine"
    )
    assert script.run(*TINY, "--ckpt", newest) == 0, script.said()
    for more in ([], ["--dry_run"]):
        assert script.run(*TINY, "--ckpt", newest, "--model_base_dim", "8", *more) == 2
        assert script.last_line().endswith("was trained with --model_base_dim 4")
    assert script.run(*draw, "--image_size", "8", "--sampling_schedule", "linear") == 0
    monkeypatch.setattr(networks, "network_class", lambda _: TwoLayers)
    drawn = read_record(max((tmp_path / "runs").glob("*-sample-*")))
    assert sampler_of(drawn, "cpu")[1].process.sampling_schedule.family == "linear"
    assert script.run(*draw, "--image_size", "16") == 2
    for timesteps, steps in ((20, 20), (1000, 100)):  # all of T, or the default
        state = checkpoint.load(newest)
        state["schedule"]["timesteps"] = timesteps
        words = ["--sample_only", "--ckpt", str(newest)]
        args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, words)
        train_mnist.take_its_own(args, state)
        assert args.backward_steps == steps


def interrupted_while_drawing():
    real = sampling.Sampler.film

    def film(*rest, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*rest, **options)

    sampling.Sampler.film = film


def test_an_interrupt_ends_the_drawing_of_samples(tmp_path):
    script = Script(tmp_path)
    words = [
        "--sample_only",
        "--ckpt",
        ROOT / "assets" / "mnist.pt",
        "--backward_steps",
        2,
        "--n_samples",
        4,
    ]
    code = script.run(*words, "--cpu", sabotage=interrupted_while_drawing, real=True)
    assert code == 130 and script.last_line() == "train_mnist.py: interrupted", script.said()
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("flags", [
    "--scheduler_type sigmoid", "--scheduler_type linear --end .9", "--scheduler_type ddpm",
    "--input_scale 0.5", "--input_scale 0.5 --no_normalise", "--sampling_schedule linear",
    "--tau_type quadratic", "--sampler ddpm", "--eta 1", "--eps_scale 1.1", "--no_clip", "--amp",
])  # fmt: skip
def test_the_flags_change_what_they_say(tmp_path, whole, flags):
    script = Script(tmp_path)
    assert script.run(*TINY, *flags.split()) == 0, script.said()
    got = result(script.only)
    sampling_only = any(f in flags for f in ("sampl", "tau_type", "eta", "eps_scale", "clip"))
    assert same(got["theta"]["net"], whole["theta"]["net"]) == sampling_only
    assert got["png"] != whole["png"]


def test_results_and_pages_are_no_change_of_the_code(monkeypatch, tmp_path):
    """The runs of a study write these while others of it begin."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    files = ["common/provenance.py", "docs/results/x.csv", "docs/page.md", "docs/code.py"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / files[0]))
    dirty = []
    for name in ("docs/results/x.csv", "docs/page.md", "docs/code.py"):
        (tmp_path / name).write_text("after")
        dirty.append(provenance.commit().endswith("+"))
    assert dirty == [False, False, True] and len(provenance.commit()) == 13
