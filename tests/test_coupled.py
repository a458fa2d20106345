"""A run with a coupled theta_z, as a user runs it."""

import csv
import json
import signal

import pytest
from harness import Script
from test_bilevel import TINY, PoisonFid
from test_checkpoint import same
from test_runs import DieAtStep, result

EXACT = """
    --recipe exact --update_every 2 --settle_steps 2 --exact_every 2 --difference_batches 2
    --limit_batches 12 --initial_start 0.1 --initial_end 0.9 --initial_tau 1.5
""".split()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    script = Script(tmp_path_factory.mktemp("whole"), "bilevel")
    assert script.run(*TINY, *EXACT) == 0, script.said()
    return script


def test_a_run_shows_both_terms_and_what_noise_would_do(whole):
    rows = list(csv.DictReader((whole.only / "iterations.csv").open()))
    assert rows[0]["implicit_tau"] == "" and float(rows[-1]["implicit_tau"]) != 0
    assert float(rows[-1]["direct_tau"]) != 0 and float(rows[-1]["gamma"]) > 1e3
    assert "noise alone" in whole.said()
    # two steps share an evaluation, and an update comes every two steps: one for each, a step old
    assert rows[-1]["direct_n"] == "1" and rows[-1]["direct_spread_tau"] == ""
    assert rows[-1]["direct_age"] == "2" and float(rows[-1]["implicit_spread_tau"]) > 0
    summary = json.loads((whole.only / "summary.json").read_text())
    # 12 coupled steps, 6 exact gradients of 6 images in 4 steps, each worth 4 samplings
    assert summary["network_evaluations"]["upper"] == 6 * 4 * 6 * 4
    # 5 updates, at steps 4 to 12, each on 2 batches of both networks; 2 batches a gradient
    assert summary["network_evaluations"]["training"] == (24 + 12 + 5 * 2 * 2 + 6 * 2) * 32


@pytest.mark.parametrize("step", [14, 21])
def test_killed_and_resumed_gives_the_same_bits(tmp_path, whole, step):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, *EXACT, sabotage=DieAtStep(step)) == -signal.SIGKILL
    assert script.run("--resume", "latest") == 0, script.said()
    assert "resumed" in script.said() and same(result(script.only), result(whole.only))


@pytest.mark.parametrize("images", [False, True])
def test_an_fid_that_is_not_finite_stops_a_coupled_run(tmp_path, whole, images):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, *EXACT, sabotage=PoisonFid(2, images)) == 1
    assert "the FID" in script.last_line() and "Traceback" not in script.said()
    assert script.run("--resume", "latest") == 0, script.said()
    assert same(result(script.only), result(whole.only))


def test_with_an_infinite_gamma_there_is_no_implicit_term(tmp_path):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, *EXACT, "--gamma", "1e300") == 0, script.said()
    assert "rounding" in script.said()
    state = result(script.only)
    assert same(state["theta_z"]["net"], state["theta_y"]["net"])
    assert (state["penalty"]["terms"][1][0] == 0).all()


def test_the_first_steps_of_theta_z_are_no_sign_of_rounding(tmp_path):
    script = Script(tmp_path, "bilevel")
    flags = ["--gamma", "1e300", "--settle_steps", "1000"]
    assert script.run(*TINY, *EXACT, *flags) == 0, script.said()
    assert "rounding" not in script.said()


def test_theta_y_takes_the_steps_that_it_takes_alone(tmp_path):
    """Coupling costs theta_y nothing: with q held still, to the last bit."""
    states = []
    for flags in (EXACT, ["--limit_batches", "12", *EXACT[-6:]]):
        script = Script(tmp_path / str(len(flags)), "bilevel")
        script.folder.mkdir()
        assert script.run(*TINY, *flags, "--lr_beta", 0, 0, 0, 0) == 0, script.said()
        states.append(result(script.only))
    assert same(states[0]["theta_y"], states[1]["theta_y"])
    assert not same(states[0]["theta_z"], states[1]["theta_z"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--delta 0.1", "delta"), ("--lr_z 0.1", "lr_z"), ("--gamma_end 3", "gamma_end"),
        ("--upper_gradient zo", "upper_gradient exact"), ("--theta_z kept", "a number for --gamma"),
    ],
)  # fmt: skip
def test_flags_that_nothing_would_read_are_refused(tmp_path, flags, named):
    script = Script(tmp_path, "bilevel")
    assert script.run(*TINY, *EXACT[:2], *flags.split()) == 2
    assert named in script.last_line()
