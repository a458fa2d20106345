"""A schedule of knots, as a user meets it: learned, trained with, searched, resumed."""

import json
import signal

from harness import Script
from test_bilevel import TINY, TRAIN
from test_checkpoint import same
from test_runs import DieAtStep, result

KNOTS = ["--scheduler", "knots", "--knots", "5", "--upper_gradient", "exact"]


def schedule_of(script):
    return json.loads((script.only / "schedule.json").read_text())


def script_in(folder, kind):
    folder.mkdir()
    return Script(folder, kind)


def test_knots_are_learned_and_train_the_baseline(tmp_path):
    bilevel = script_in(tmp_path / "bilevel", "bilevel")
    assert bilevel.run(*TINY, *KNOTS) == 0, bilevel.said()
    learned = schedule_of(bilevel)
    assert len(learned) == 2 + 2 + 5 and learned["knot_5"] != 1
    header = (bilevel.only / "iterations.csv").read_text().splitlines()[0].split(",")
    assert {"knot_5", "grad_knot_5", "spread_knot_5"} <= set(header)
    killed = script_in(tmp_path / "killed", "bilevel")
    assert killed.run(*TINY, *KNOTS, sabotage=DieAtStep(6)) == -signal.SIGKILL
    assert killed.run("--resume", "latest") == 0, killed.said()
    assert same(result(killed.only), result(bilevel.only))

    words = [w for w in TRAIN if w not in ("--timesteps", "20")]
    words += ["--schedule_from", bilevel.only / "schedule.json"]
    train = script_in(tmp_path / "train", "train")
    assert train.run(*words, sabotage=DieAtStep(5)) == -signal.SIGKILL
    assert train.run("--resume", "latest") == 0, train.said()
    assert schedule_of(train) == learned
    newest = max(train.only.glob("checkpoints/*.pt"))
    draw = script_in(tmp_path / "draw", "train")
    flags = ["--backward_steps", "4", "--n_samples", "5", "--cpu", "--scheduler_type", "knots"]
    assert draw.run("--sample_only", "--ckpt", newest, *flags) == 0, draw.said()


def test_knots_are_searched(tmp_path):
    search = script_in(tmp_path / "search", "search")
    flags = ["--eval_samples", 4, "--scheduler_type", "knots", "--knots", 3, "--n_calls", 2]
    words = [w for w in TRAIN]
    at = words.index("--eval_samples")
    del words[at : at + 2]
    assert search.run(*words, *flags, "--strategy", "random") == 0, search.said()
    assert {"start", "end", "knot_1", "knot_2", "knot_3"} <= schedule_of(search).keys()
