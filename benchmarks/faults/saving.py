"""The system calls of a save: at each the process is killed, or the call fails."""

import contextlib
import errno
import io
import os
from pathlib import Path

from harness import CONTEXT, kill_self
from system_calls import MOMENTS, moments
from test_checkpoint import STATE, same

from benchmarks.faults.row import Row
from common import checkpoint
from common.errors import guarded

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)


def saved_twice(folder: Path) -> None:
    for step in (1, 2):
        checkpoint.save_numbered(folder, step, {**STATE, "step": step})


def check_newest(folder: Path) -> None:
    """The newest checkpoint is one of the two that a third save may leave, and whole."""
    state, _ = checkpoint.load_newest(folder, warn=lambda text: None)
    assert same(state, {**STATE, "step": state["step"]}) and state["step"] in (2, 3)


def save_and_die(folder: Path, number: int) -> None:
    with moments(number, kill_self):
        checkpoint.save_numbered(folder, 3, {**STATE, "step": 3})


def killed_save(i: int, folder: Path) -> None:
    """SIGKILL before or after a call, or between parts of the content; the run resumes."""
    saved_twice(folder)
    process = CONTEXT.Process(target=save_and_die, args=(folder, i + 1))
    process.start()
    process.join(60)
    assert process.exitcode == -9, process.exitcode
    check_newest(folder)


def failing_call(i: int, folder: Path) -> None:
    """The call fails, or did its work and then fails: one line, and a whole checkpoint."""
    number, code = i % MOMENTS + 1, CODES[i // MOMENTS % len(CODES)]
    saved_twice(folder)

    def fail():
        raise OSError(code, os.strerror(code), "somewhere")

    def save(_):
        with moments(number, fail):
            checkpoint.save_numbered(folder, 3, {**STATE, "step": 3})

    with contextlib.redirect_stderr(io.StringIO()) as errors:
        exit_code = guarded(save, None, "prog")
    assert exit_code == 1 and errors.getvalue().count("\n") == 1, errors.getvalue()
    check_newest(folder)
    checkpoint.save_numbered(folder, 4, {**STATE, "step": 4})  # the fault is gone
    assert [path.name for path in sorted(folder.iterdir())][-1] == "step_00000004.pt"
    assert len(list(folder.iterdir())) == 2


ROWS = [
    Row("SIGKILL at every system call of a save", "the run resumes", killed_save, MOMENTS, 4),
    Row("each system call of a save fails", "one line; the old checkpoint is whole",
        failing_call, MOMENTS * len(CODES), MOMENTS),
]  # fmt: skip
