"""What the scripts hand to their parts, seen in runs that end before the first step."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness import TwoLayers
from test_checkpoint import same

import train_mnist
import train_mnist_bayesian
import train_mnist_bilevel_ZO
from common import cli, networks
from common.families import among
from common.run import Run
from common.step_rule import SteadySteps

SCRIPTS = {"train": train_mnist, "bilevel": train_mnist_bilevel_ZO}
TINY = """--cpu --threads 1 --dataset digits --model_base_dim 4 --epochs 2 --batch_size 32
    --timesteps 20 --limit_batches 12 --backward_steps 4 --fid_samples 0 --eval_samples 0"""
MOVING = "--initial_epoch 1 --zo_samples 6"
EXACT = f"{MOVING} --recipe exact --settle_steps 2 --update_every 2 --exact_every 2"


class Begun(Exception):
    """Carries the parts of a run."""


@pytest.fixture
def parts_of(monkeypatch, tmp_path):
    """Starts a script; returns what it has made before it takes up the newest checkpoint."""

    def take_up(_, parts, facts):
        raise Begun(parts)

    def start(kind, flags):
        script, places = SCRIPTS[kind], f"--runs_dir {tmp_path}/runs --cache_dir {tmp_path}/cache"
        argv = f"{TINY} {places} {flags}".split()
        args = cli.parse(script.make_parser(), kind, script.check, argv)
        with pytest.raises(Begun) as begun:
            script.main(args)
        return begun.value.args[0]

    monkeypatch.setattr(networks, "network_class", lambda _: TwoLayers)
    monkeypatch.setattr(Run, "take_up", take_up)
    return start


@pytest.mark.parametrize("kind, flags, names", [
    ("train", "", ["theta"]), ("bilevel", f"{MOVING} --recipe ours", ["theta_y", "theta_z"]),
    ("bilevel", EXACT, ["theta_y", "theta_z"]),
])  # fmt: skip
def test_the_seed_decides_the_first_weights_batch_and_noise(parts_of, kind, flags, names):
    firsts = []
    for seed in (0, 1):
        parts = parts_of(kind, f"{flags} --seed {seed}")
        for learner in map(parts.get, names):
            x0, random = learner.drawn(0)
            noise = torch.randn(x0.shape, generator=random)
            firsts.append((learner.net.last.weight, x0, noise))
    for one, other in zip(firsts[: len(names)], firsts[len(names) :], strict=True):
        assert not any(map(torch.equal, one, other))


@pytest.mark.parametrize("flags, rates", [
    ("--recipe ours --lr 0.02", [0.02, 0.001]), ("--recipe ours --lr_z 0.1", [0.001, 0.1]),
    (f"{EXACT} --lr 0.02", [0.02, 0.02]),
])  # fmt: skip
def test_theta_z_has_its_own_rate_unless_it_is_coupled(parts_of, flags, rates):
    parts = parts_of("bilevel", f"{MOVING} {flags}")
    peaks = [parts[name].optimizer.defaults["lr"] for name in ("theta_y", "theta_z")]
    assert peaks == rates


@pytest.mark.parametrize("recipe, decay", [("paper", 0.01), ("ours", 0.0)])
def test_only_the_published_method_has_weight_decay_on_the_schedule(parts_of, recipe, decay):
    parts = parts_of("bilevel", f"{MOVING} --recipe {recipe}")
    groups = parts["q"].optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [decay] * 4
    assert parts["q"].updates == parts["penalty"].updates == 12


def test_the_steady_rule_is_set_for_the_updates_that_a_coupled_run_makes(parts_of):
    parts = parts_of("bilevel", EXACT)
    assert isinstance(parts["q"], SteadySteps)
    assert parts["q"].updates == 5  # after steps 4, 6, 8, 10 and 12


@pytest.mark.parametrize("gamma", ["1", "1e30"])
def test_an_infinite_gamma_is_plain_training_of_theta_z(parts_of, gamma):
    """From theta_y's weights at the first update, with draws of its own."""
    flags = f"{MOVING} --recipe ours --gamma {gamma} --gamma_end {gamma}"
    parts = parts_of("bilevel", flags)
    penalty, process = parts["penalty"], parts["upper"].sampler.process
    levels = process.levels_of(process.schedule.log_alpha_bar().detach())
    for _ in range(3):
        parts["theta_y"].step(process, levels)
    alone = deepcopy(parts["theta_z"])
    alone.net.load_state_dict(parts["theta_y"].net.state_dict())
    for update in range(3):
        penalty.slope(process, penalty.batches(None, update), 0, update)
        alone.step(process, levels)
    assert same(parts["theta_z"].state_dict(), alone.state_dict()) == (gamma == "1e30")


def search_of(flags):
    script, digits = train_mnist_bayesian, "--cpu --dataset digits --timesteps 20"
    argv = f"{digits} --backward_steps 2 {flags}".split()
    return cli.parse(script.make_parser(), "search", script.check, argv)


@pytest.mark.parametrize("flags, threads", [
    ("", 0), ("--jobs 2", 4), ("--jobs 5", 1), ("--jobs 12", 1), ("--jobs 2 --threads 3", 3),
    ("--jobs 2 --executor submitit", 0),
])  # fmt: skip
def test_a_trial_has_its_share_of_the_threads(monkeypatch, flags, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert train_mnist_bayesian.trial_arguments(search_of(flags), {}).threads == threads


def test_a_trial_has_the_values_of_its_point_and_those_of_the_flags():
    args = search_of("--seed 3 --search_seed 5 --lr 0.02 --fix end tau --end 0.9 --tau 2")
    trial = train_mnist_bayesian.trial_arguments(args, {"start": 0.1, "epsilon": 0.01})
    assert among(vars(trial)) == {"start": 0.1, "end": 0.9, "tau": 2.0, "epsilon": 0.01}
    assert (trial.seed, trial.lr, trial.reference) == (3, 0.02, "train")


def test_the_seed_of_the_search_is_not_that_of_the_trials(monkeypatch, tmp_path):
    """It decides the points, and the Gaussian process of the figures."""
    flags = "--seed 3 --search_seed 5 --fix end --end 0.9 --n_calls 7"
    args, given = search_of(f"{flags} --cache_dir {tmp_path}"), {}

    def stopped(name):
        def stop(*values):
            given[name] = values
            raise KeyboardInterrupt

        return stop

    script, run = train_mnist_bayesian, SimpleNamespace(log=print, folder=Path())
    monkeypatch.setattr(script, "Points", stopped("points"))
    monkeypatch.setattr(script.results, "save_best", stopped("best"))
    monkeypatch.setattr(script.results, "judge_on_held_out_noise", lambda *_: {"best": {}})
    trial = {"trial": 0, "status": "ok", "parameters": {"tau": 2.0}, "objective": 9.0, "n": 20}
    ledger = SimpleNamespace(rows={0: trial | {"seconds": 1.0, "reason": None}})
    ledger.best = lambda: ledger.rows[0]
    with pytest.raises(KeyboardInterrupt):
        script.make_trials(args, run, ledger)
    assert given["points"][:4] == ("bayesian", 7, args.n_initial, 5)
    with pytest.raises(KeyboardInterrupt):
        script.conclude(args, run, torch.device("cpu"), ledger, 0.0)
    _, first, best, space, seed, _ = given["best"]
    assert seed == 5 and "end" not in space
    assert best.values() == first.values() | {"tau": 2.0} and first.values()["end"] == 0.9
