"""Sealed files: whole or refused, whatever happens to them."""

import errno
import os
import pickle
import random
import shutil

import pytest
import torch
from harness import CONTEXT, kill_self, mutated
from system_calls import MOMENTS, moments

from common import checkpoint
from common.errors import Stop

STATE = {"step": 3, "weights": torch.arange(100.0), "lr": 1e-3, "files": {"scores.csv": 12}}


def same(a, b):
    """Equal to the last bit, whatever the nesting."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_state_survives(tmp_path):
    checkpoint.save(tmp_path / "a.pt", STATE)
    assert same(checkpoint.load(tmp_path / "a.pt"), STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_2000_mutations_are_refused(tmp_path):
    path, rng = tmp_path / "a.pt", random.Random(0)
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for i in range(2000):
        path.write_bytes(mutated(whole, i % 5, rng))
        with pytest.raises(Stop, match=r"a\.pt"):
            checkpoint.load(path)


class Payload:
    def __init__(self, call, *words):
        self.call, self.words = call, words

    def __reduce__(self):
        return self.call, self.words


# what a payload would call, with words that leave a trace if it does
CALLS = [
    (os.system, "touch ran"),
    (os.mkdir, "ran"),
    (open, "ran", "w"),
    (os.remove, "victim"),
    (os.rename, "victim", "ran"),
    (eval, "open('ran', 'w')"),
    (exec, "open('ran', 'w')"),
    (shutil.copy, "victim", "ran"),
    (os.symlink, "victim", "ran"),
    (os.truncate, "victim", 0),
]


@pytest.mark.parametrize("container", ["pickle", "torch", "sealed"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
def test_no_code_in_a_file_is_run(tmp_path, monkeypatch, container, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_text("here")
    state = {"step": 1, "weights": Payload(*call)}
    if container == "pickle":
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(state))
    elif container == "torch":
        torch.save(state, tmp_path / "evil.pt")
    else:
        checkpoint.save(tmp_path / "evil.pt", state)
    with pytest.raises(Stop, match=r"evil\.pt"):
        checkpoint.load(tmp_path / "evil.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pt", "victim"]
    assert (tmp_path / "victim").read_text() == "here"


def test_the_last_two_are_kept_and_a_bad_one_falls_back(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save_numbered(tmp_path, step, {**STATE, "step": step})
    newest = tmp_path / "step_00000003.pt"
    assert len(list(tmp_path.iterdir())) == 2
    newest.write_bytes(newest.read_bytes()[:-1])
    said = []
    state, path = checkpoint.load_newest(tmp_path, warn=said.append)
    assert state["step"] == 2 and path.name == "step_00000002.pt"
    assert len(said) == 1 and "step_00000003.pt" in said[0]
    checkpoint.save_numbered(tmp_path, 2, {**STATE, "step": 2})  # of the run that went on from 2
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000002.pt"]
    checkpoint.save_numbered(tmp_path, 3, {**STATE, "step": 3})
    newest.write_bytes(b"")
    path.write_bytes(b"")
    with pytest.raises(Stop, match="step_00000002"):
        checkpoint.load_newest(tmp_path, warn=said.append)
    assert checkpoint.load_newest(tmp_path / "figures") is None


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(path, STATE)
    for call in ("fsync", "replace"):

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, call, full)
            with pytest.raises(OSError, match="No space"):
                checkpoint.save(path, {**STATE, "step": 4})
        assert same(checkpoint.load(path), STATE)
        assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_save_is_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    """The file before its rename, and the folder after it: either may be lost with the power."""
    seen, fsync, replace = [], os.fsync, os.replace
    is_folder = lambda fd: os.path.isdir(f"/proc/self/fd/{fd}")  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(is_folder(fd)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *both: (seen.append("renamed"), replace(*both)))
    checkpoint.save(tmp_path / "a.pt", STATE)
    assert seen == [False, "renamed", True]


def test_what_a_killed_save_left_is_taken_away(tmp_path):
    torn = tmp_path / "step_00000001.pt.tmp"
    torn.write_bytes(b"half")
    checkpoint.save_numbered(tmp_path, 2, STATE)
    assert not torn.exists()


def _killed_save(folder, moment):
    with moments(moment, kill_self):
        checkpoint.save_numbered(folder, 3, {**STATE, "step": 3})


def test_killed_at_every_moment_of_a_save(tmp_path):
    for moment in range(1, MOMENTS + 2):
        folder = tmp_path / str(moment)
        folder.mkdir()
        for step in (1, 2):
            checkpoint.save_numbered(folder, step, {**STATE, "step": step})
        process = CONTEXT.Process(target=_killed_save, args=(folder, moment))
        process.start()
        process.join(60)
        assert process.exitcode == (-9 if moment <= MOMENTS else 0)  # none was left out
        state, _ = checkpoint.load_newest(folder, warn=pytest.fail)
        assert state["step"] in (2, 3)
