"""Bilevel runs: what they leave, against the baseline, and killed in the middle."""

import csv
import json
import os
import shlex
import signal
from pathlib import Path

import pytest
import torch
from harness import Script, TwoLayers
from test_checkpoint import same
from test_runs import AVERAGED, DieAtStep, result

import train_mnist
import train_mnist_bilevel_ZO
from common import checkpoint, training
from common.families import NAMES
from common.training import EmaRule
from common.upper_level import UpperLevel
from model import Diffusion
from scheduler import Schedule

F64 = torch.float64
TINY = """
    --recipe ours
    --cpu --threads 1 --dataset digits --model_base_dim 4 --epochs 2 --initial_epoch 1
    --batch_size 32 --timesteps 20 --limit_batches 4 --backward_steps 4 --n_samples 4 --zo_samples 6
    --fid_samples 0 --eval_samples 0 --log_freq 1 --save_seconds 0
""".split()
TRAIN = """
    --cpu --threads 1 --dataset digits --model_base_dim 4 --epochs 2 --batch_size 32 --timesteps 20
    --limit_batches 4 --backward_steps 4 --n_samples 4 --fid_samples 0 --eval_samples 0
""".split()


class KeepLevels:
    """Leaves in a file which noise levels each step of each network was given."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        real, given = training.Learner.step, []

        def step(self_, process, levels, *rest):
            given.append(list(levels))
            torch.save(given, self.path)
            return real(self_, process, levels, *rest)

        training.Learner.step = step


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    script = Script(tmp_path_factory.mktemp("whole"), "bilevel")
    keep = KeepLevels(script.folder / "levels.pt")
    assert script.run(*TINY, sabotage=keep) == 0, script.said()
    return script.only


def test_both_networks_train_on_the_schedule_as_it_is(whole):
    given = torch.load(whole.parents[1] / "levels.pt")
    rows = list(csv.DictReader((whole / "iterations.csv").open()))
    assert len(given) == 4 + 2 * 4  # theta_y alone, then both

    def levels_after(row):
        return list(Diffusion(Schedule("cosine", 20, **{n: float(row[n]) for n in NAMES})).levels())

    torch.testing.assert_close(given[0], levels_after(rows[0]))
    for levels in given[-2:]:  # the last iteration begins where the one before has ended
        torch.testing.assert_close(levels, levels_after(rows[-2]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(levels[0], given[0][0], rtol=1e-4, atol=1e-4)


def test_noise_alone_would_begin_where_the_schedule_began(whole):
    rows = list(csv.DictReader((whole / "iterations.csv").open()))
    band = json.loads((whole / "null_band.json").read_text())
    assert band["updates"][-1] == 4
    for name in NAMES:
        assert band[f"{name}_low"][0] == band[f"{name}_high"][0] == float(rows[0][name])


def test_a_run_logs_what_a_user_turns(whole):
    rows = list(csv.DictReader((whole / "iterations.csv").open()))
    assert len(rows) == 8 and rows[0]["fid"] == "" and rows[-1]["fid_n"] == "6"
    assert {"gamma", "loss_y", "loss_z", "grad_tau", "spread_tau", "start"} <= rows[0].keys()
    assert [r["tau"] for r in rows[:4]] == ["1"] * 4  # the first epoch leaves the schedule alone
    assert rows[-1]["end"] != "1" or rows[-1]["epsilon"] != "0.008"
    learned = json.loads((whole / "schedule.json").read_text())
    assert Schedule.load(whole / "schedule.json").to_dict() == learned
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["end"] == learned["end"]
    # 2 sides, 2 gradients, 6 images, 4 steps, 4 updates: nothing is drawn only to print
    assert summary["network_evaluations"]["upper"] == 2 * 2 * 6 * 4 * 4
    assert summary["network_evaluations"]["sampling"] == 2 * 4 * 4


@pytest.mark.parametrize("step", [2, 5, 8])
def test_killed_and_resumed_gives_the_same_bits(tmp_path, whole, step):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, sabotage=DieAtStep(step)) == -signal.SIGKILL
    assert script.run("--resume", "latest") == 0, script.said()
    assert same(result(script.only), result(whole))


class DieBetweenSides:
    """Killed inside a zeroth-order gradient, after its plus side."""

    def __init__(self, call):
        self.call = call

    def __call__(self):
        real, seen, wanted = UpperLevel.features, 0, self.call

        def features(self, *words):
            nonlocal seen
            seen += 1
            value = real(self, *words)
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
            return value

        UpperLevel.features = features


@pytest.mark.parametrize("flags", [[], ["--ZO_type", "one"], ["--upper_gradient", "forward"]])
def test_killed_between_the_sides_and_resumed_gives_the_same_bits(tmp_path, flags):
    results = []
    for sabotage in (None, DieBetweenSides(3)):
        script = Script(tmp_path / str(bool(sabotage)), "bilevel")
        script.folder.mkdir()
        code = script.run(*TINY, *flags, sabotage=sabotage)
        assert code == (-signal.SIGKILL if sabotage else 0)
        if sabotage:
            assert script.run("--resume", "latest") == 0, script.said()
            assert "resumed" in script.said()
        results.append(result(script.only))
    assert same(*results)


def test_with_the_schedule_held_fixed_it_is_the_baseline(tmp_path):
    """--lr_beta 0 0 0 0, the control run: theta_y takes train_mnist.py's steps, bit for bit."""
    bilevel, baseline = Script(tmp_path / "a", "bilevel"), Script(tmp_path / "b")
    for script in (bilevel, baseline):
        script.folder.mkdir()
    assert bilevel.run(*TINY, *AVERAGED, "--lr_beta", 0, 0, 0, 0) == 0, bilevel.said()
    assert baseline.run(*TRAIN, *AVERAGED) == 0, baseline.said()
    ours, theirs = result(bilevel.only), result(baseline.only)
    assert same(ours["theta_y"], theirs["theta"])
    for part in ("progress", "ema", "schedule", "png"):
        assert same(ours[part], theirs[part]), part
    trained = ours["theta_y"]["net"]
    assert not torch.equal(ours["ema"]["module.last.weight"], trained["last.weight"])


def test_theta_z_moves_and_takes_nothing_with_it(tmp_path):
    """theta_y is the same whatever theta_z does; theta_z is another network."""
    states = []
    for flags in ([], ["--lr_z", "0.1", "--inner_loop_z", "2"]):
        script = Script(tmp_path / str(len(flags)), "bilevel")
        script.folder.mkdir()
        assert script.run(*TINY, "--lr_beta", 0, 0, 0, 0, *flags) == 0, script.said()
        states.append(result(script.only))
    assert same(states[0]["theta_y"], states[1]["theta_y"])
    # 4 updates, each after one or two steps of theta_z
    assert [state["theta_z"]["count"] for state in states] == [4, 8]
    rates = [state["theta_z"]["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates == [0.001, 0.1]
    for state in states:
        assert not same(state["theta_z"]["net"], state["theta_y"]["net"])
        moments = state["theta_z"]["optimizer"]["state"]
        assert len(moments) == len(list(TwoLayers().parameters()))
        assert all(m["exp_avg"].abs().sum() > 0 for m in moments.values())
    assert not same(states[0]["theta_z"]["net"], states[1]["theta_z"]["net"])


def test_an_infinite_gamma_leaves_nothing_of_the_fid(tmp_path):
    """With gamma -> infinity neither theta_z nor the schedule feels the FID's noise."""
    found = []
    for delta in (0.01, 0.5):
        script = Script(tmp_path / str(delta), "bilevel")
        script.folder.mkdir()
        flags = ["--gamma", "1e30", "--gamma_end", "1e30", "--delta", delta]
        assert script.run(*TINY, *flags) == 0, script.said()
        found.append(result(script.only))
    assert same(found[0]["theta_z"], found[1]["theta_z"])
    torch.testing.assert_close(*(state["q"]["q"] for state in found), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("recipe", [
    "--recipe paper", "--ZO_type one", "--scheduler sigmoid",
    "--scheduler linear --initial_end 0.9", "--upper_gradient forward", "--noise independent",
    "--theta_z recopied --lr_schedule plateau", "--zo_directions 3", "--inner_loop 3",
    "--gamma 5 --gamma_end 0.5",
    "--upper_gradient forward --truncation 0.5", "--upper_gradient forward --amp", "--amp",
    "--upper_gradient exact", "--upper_gradient exact --zo_samples 40",
])  # fmt: skip
def test_every_recipe_runs_and_moves_the_schedule(tmp_path, recipe):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, *recipe.split()) == 0, script.said()
    state = result(script.only)
    rows = list(csv.DictReader((script.only / "iterations.csv").open()))
    learned = Schedule.from_dict(state["schedule"]).values()
    assert any(value != float(rows[0][name]) for name, value in learned.items())
    if "--gamma_end" in recipe:  # one value for each of the four updates
        gammas = [float(row["gamma"]) for row in rows if row["gamma"]]
        assert gammas == pytest.approx([5, 3.5, 2, 0.5])
    if "plateau" in recipe:  # which looks at the loss of each epoch
        scores = csv.DictReader((script.only / "scores.csv").open())
        best, lr_schedule = min(float(r["loss"]) for r in scores), state["theta_y"]["lr_schedule"]
        assert lr_schedule["last_epoch"] == 2 and lr_schedule["best"] == pytest.approx(best)


def test_the_learned_schedule_trains_the_baseline(tmp_path, whole):
    script = Script(tmp_path)
    words = [w for w in TRAIN if w not in ("--timesteps", "20")]
    assert script.run(*words, "--schedule_from", whole / "schedule.json") == 0, script.said()
    learned = json.loads((whole / "schedule.json").read_text())
    assert json.loads((script.only / "schedule.json").read_text()) == learned


@pytest.mark.parametrize("flags", [
    "", "--epochs 40", "--recipe paper", "--recipe paper --inner_loop 10", "--ema_memory 300",
    "--recipe ours --inner_loop 5", "--recipe paper --epochs 60 --model_ema_steps 3",
])  # fmt: skip
def test_the_command_that_trains_anew_takes_as_many_steps_and_averages_as_long(flags):
    parser = train_mnist_bilevel_ZO.make_parser()
    args = parser.parse_args(flags.split())
    train_mnist_bilevel_ZO.check(args)
    words = shlex.split(train_mnist_bilevel_ZO.retraining(args, Path("schedule.json"), "x.pt"))
    assert words[:2] == ["python", "train_mnist.py"]
    anew = train_mnist.make_parser().parse_args(words[2:])
    assert anew.epochs == args.epochs * args.inner_loop and anew.schedule_from == "schedule.json"
    assert anew.ckpt == "x.pt"
    rules = [EmaRule.from_flags(**vars(namespace)) for namespace in (args, anew)]
    assert rules[0].memory == pytest.approx(rules[1].memory, rel=1e-5)
    assert (anew.ema_memory is None) == (flags in ("", "--epochs 40", "--recipe paper"))


class PoisonFid:
    """From a call on, the FID of the upper level is not a number."""

    def __init__(self, call, images=False):
        self.call, self.images = call, images

    def __call__(self):
        from common import objective

        real, seen = objective.frechet_distance, 0

        def poisoned(features, reference, *largest):
            nonlocal seen
            seen += 1
            if seen < self.call:
                return real(features, reference, *largest)
            if self.images:  # what a network that diverged would draw
                return real(features * torch.inf, reference)
            return real(features, reference) * torch.nan

        objective.frechet_distance = poisoned


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize(("call", "phase"), [(1, "theta_z"), (3, "schedule"), (16, "schedule")])
def test_a_fid_that_is_not_finite_stops_and_names_the_phase(tmp_path, whole, call, phase, images):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, sabotage=PoisonFid(call, images)) == 1
    assert phase in script.last_line() and "Traceback" not in script.said()
    newest, _ = checkpoint.load_newest(script.only / "checkpoints")
    assert newest["progress"]["iteration"] == 4 + (call - 1) // 4
    assert script.run("--resume", "latest") == 0, script.said()
    assert same(result(script.only), result(whole))


def test_a_run_that_was_not_finite_resumes_with_a_lower_rate(tmp_path):
    """Only then: it would repeat its steps, and end at the same number."""
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, sabotage=PoisonFid(3)) == 1
    assert "repeats the steps" in script.last_line() and "--lr" in script.last_line()
    assert json.loads((script.only / "not_finite.json").read_text())["number"]
    assert script.run("--resume", "latest", "--gamma", 3) == 2
    assert script.run("--resume", "latest", "--lr", 1e-4, sabotage=DieAtStep(6)) == -signal.SIGKILL
    arguments = json.loads((script.only / "args.json").read_text())["arguments"]
    assert arguments["lr"] == 1e-4 and not (script.only / "not_finite.json").exists()
    assert script.run("--resume", "latest", "--lr", 1e-5) == 2  # it has not failed again
    assert script.run("--resume", "latest") == 0, script.said()
    (group,) = result(script.only)["theta_y"]["optimizer"]["param_groups"]
    assert group["max_lr"] == pytest.approx(1e-4)


def test_the_real_network_runs_with_figures(tmp_path):
    script = Script(tmp_path, "bilevel")
    flags = ["--limit_batches", 2, "--fid_samples", 8, "--eval_samples", 8, "--log_freq", 1]
    assert script.run(*TINY, *flags, "--upper_gradient", "forward", real=True) == 0, script.said()
    summary = json.loads((script.only / "summary.json").read_text())
    assert summary["upper_reference"] == "digits train, 1437 images"
    assert summary["reference"] == "digits test, 360 images"
    for name in ("path", "iterations", "scores", "clock", "schedule"):
        assert (script.only / "figures" / f"{name}.png").stat().st_size > 1000
