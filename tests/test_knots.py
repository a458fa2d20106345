"""A schedule of knots, as a user meets it: learned, trained with, searched, resumed."""

import json
import signal

from harness import Script
from test_bilevel import TINY, TRAIN
from test_checkpoint import same
from test_flags import parse
from test_runs import DieAtStep, result

from common.families import NAMES, among, knots_table
from search.space import space_of

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
    assert len(learned) == 2 + 2 + 5 and learned["knot_5"] != knots_table(5)["knot_5"].default
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


def test_a_resumed_run_begins_with_the_knots_of_its_file(tmp_path):
    bilevel = script_in(tmp_path / "bilevel", "bilevel")
    words = [*TINY, *KNOTS, "--lr_beta", "0", "0", "0", "0"]
    assert bilevel.run(*words, sabotage=DieAtStep(1)) == -signal.SIGKILL
    stored = bilevel.only / "args.json"
    content = json.loads(stored.read_text())
    assert content["arguments"]["initial_knot_1"] == knots_table(5)["knot_1"].default
    content["arguments"] |= {f"initial_knot_{k}": 1.0 for k in range(1, 6)}
    stored.write_text(json.dumps(content))
    for path in (bilevel.only / "checkpoints").iterdir():  # as if it had not come so far
        path.unlink()
    assert bilevel.run("--resume", "latest") == 0, bilevel.said()
    assert {schedule_of(bilevel)[f"knot_{k}"] for k in range(1, 6)} == {1.0}


def test_a_search_around_knots_that_were_given(tmp_path):
    """Trial 0 may lie outside the ranges of the default: they hold it."""
    path = tmp_path / "schedule.json"
    rises = {"knot_1": 0.02, "knot_2": 9.0, "knot_3": 1.0}
    path.write_text(json.dumps({"family": "knots", "timesteps": 20, **rises}))
    args = parse("search", "--schedule_from", path, "--backward_steps", 5)
    space = space_of("knots", among(vars(args)), dict.fromkeys(NAMES))
    table = knots_table(3)
    assert space == {
        "knot_1": (0.02, table["knot_1"].search[1]),
        "knot_2": (table["knot_2"].search[0], 9.0),
        "knot_3": table["knot_3"].search,
    }


def test_knots_are_searched(tmp_path):
    search = script_in(tmp_path / "search", "search")
    flags = ["--eval_samples", 4, "--scheduler_type", "knots", "--knots", 3, "--n_calls", 2]
    words = [w for w in TRAIN]
    at = words.index("--eval_samples")
    del words[at : at + 2]
    assert search.run(*words, *flags, "--strategy", "random") == 0, search.said()
    assert {"start", "end", "knot_1", "knot_2", "knot_3"} <= schedule_of(search).keys()
