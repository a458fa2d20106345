"""Searches that are interrupted, that lose a row, or that end early."""

import fcntl
import os
import signal
import subprocess
import time
from functools import partial

import pytest
from harness import Script
from test_search import FLAGS, rows_of, weights_of

from common import training
from search import trials


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path, "search")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = {}
    for jobs in (1, 2):
        script = Script(tmp_path_factory.mktemp("whole"), "search")
        assert script.run(*FLAGS, "--jobs", jobs) == 0, script.said()
        found[jobs] = rows_of(script), weights_of(script)
    return found


def interrupted(trial, number):
    """Patch: the search gets a signal in the middle of a trial, the first time."""
    real = training.Learner.step
    parent = os.getpid()

    def step(self, *rest):
        if (os.environ.get("TRIAL"), self.count) == (f"{trial:03d}", 2):
            os.kill(parent, number)
            time.sleep(0.5 if number == signal.SIGTERM else 60)
        return real(self, *rest)

    real_trial = trials.Trial.__init__

    def named(self, folder, *rest, **facts):
        os.environ["TRIAL"] = folder.name
        real_trial(self, folder, *rest, **facts)

    training.Learner.step, trials.Trial.__init__ = step, named


@pytest.mark.parametrize("trial, jobs, number", [
    (0, 1, signal.SIGKILL), (2, 1, signal.SIGKILL), (4, 1, signal.SIGKILL), (2, 2, signal.SIGKILL),
    (0, 1, signal.SIGTERM), (4, 2, signal.SIGTERM),
])  # fmt: skip
def test_an_interrupted_search_goes_on_as_if_nothing_had_been(
    script, undisturbed, trial, jobs, number
):
    code = script.run(*FLAGS, "--jobs", jobs, sabotage=partial(interrupted, trial, number))
    assert code == (143 if number == signal.SIGTERM else -9), script.said()
    assert len(rows_of(script)) <= trial + 1
    with open(script.only / ".lock") as lock:  # forked workers hold it until they notice
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert script.run("--resume", "latest") == 0, script.said()
    assert (rows_of(script), weights_of(script)) == undisturbed[jobs]
    log = (script.only / "trials" / f"{trial:03d}" / "log.txt").read_text()
    assert "resumed from" in log  # the trial went on, it did not start again


def killed_together(trial):
    """Patch: SIGTERM ends a trial's process, and reaches the search a moment later."""
    real, parent = trials.Trial.__init__, os.getpid()

    def begin(self, folder, *rest, **facts):
        real(self, folder, *rest, **facts)
        if folder.name == f"{trial:03d}":
            subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -TERM {parent}"])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    trials.Trial.__init__ = begin


def test_a_signal_to_all_processes_is_an_interrupt_and_no_failure(script, undisturbed):
    assert script.run(*FLAGS, sabotage=partial(killed_together, 2)) == 143, script.said()
    assert len(rows_of(script)) == 2
    assert script.run("--resume", "latest") == 0, script.said()
    assert rows_of(script) == undisturbed[1][0]


def test_a_row_that_was_lost_is_read_from_its_trial(script, undisturbed):
    assert script.run(*FLAGS, "--n_calls", 5) == 0
    path = script.only / "search.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    (script.only / "summary.json").unlink()
    assert script.run("--resume", "latest") == 0 and "cut short" in script.said()
    assert rows_of(script) == undisturbed[1][0]


# ending early


def test_prune_ends_what_is_hopeless_at_half_time(script):
    flags = [*FLAGS, "--fid_samples", 20, "--strategy", "random", "--n_calls", 8, "--prune"]
    assert script.run(*flags) == 0, script.said()
    rows = rows_of(script)
    statuses = [r["status"] for r in rows]
    assert statuses[:3] == ["ok"] * 3 and set(statuses) == {"ok", "pruned"}
    for i, r in enumerate(rows[3:], 3):
        halves = sorted(e["half"] for e in rows[:i] if e["status"] == "ok")
        k = len(halves)
        median = (halves[k // 2] + halves[(k - 1) // 2]) / 2
        assert (r["status"] == "pruned") == (r["half"] > median)
        assert r["status"] == "ok" or ("median" in r["reason"] and r["objective"] is None)


def test_patience_and_deadline_end_a_search_with_a_summary(script, tmp_path):
    assert script.run(*FLAGS, "--n_calls", 50, "--patience", 2, "--strategy", "random") == 0
    rows = rows_of(script)
    best = min(rows, key=lambda r: r["objective"])["trial"]
    assert len(rows) == best + 3 < 50 and "--patience" in script.said()
    late = Script(tmp_path / "late", "search")
    late.folder.mkdir()
    assert late.run(*FLAGS, "--deadline", 0.001, "--n_calls", 9) == 1  # nothing was tried at all
    assert "before the first trial" in late.last_line()
