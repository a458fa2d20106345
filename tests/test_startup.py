"""A command starts quickly, and faults of the machine are one line: limits, locales, Ctrl-C."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace

import pytest
from conftest import ROOT
from test_package import MODULES, SCRIPTS, TRACKED

from common import errors


@pytest.mark.parametrize("code", [
    errno.ENOSPC, errno.EFBIG, errno.ENOENT, errno.EIO, errno.EMFILE, errno.EDQUOT,
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR,
    errno.ENAMETOOLONG,
])  # fmt: skip
def test_an_error_of_the_system_is_one_line_that_names_the_file(code, capsys):
    def main(_):
        raise OSError(code, os.strerror(code), "runs/00000\nx/log.txt")

    # a name that is too long is wrong input
    assert errors.guarded(main, None, "prog") == (2 if code == errno.ENAMETOOLONG else 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "runs/00000 x/log.txt" in said and os.strerror(code) in said


def test_only_a_command_with_the_flag_advises_resume(capsys):
    def main(_):
        raise OSError(errno.ENOSPC, "no space", "x")

    def diverge(_):
        raise errors.NotFinite("the loss is nan")

    no_run = [{"freeze_network": True}, {"sample_only": True}, {"dry_run": True}]
    cases = [(Namespace(resume=None, lr=1, **flags), False) for flags in no_run]
    for args, advised in [(Namespace(resume=None), True), (Namespace(), False), *cases]:
        for error in (main, diverge):
            assert errors.guarded(error, args, "prog") == 1
            assert ("--resume" in capsys.readouterr().err) is advised
    assert errors.guarded(diverge, Namespace(resume=None, lr=1), "prog") == 1
    assert "a lower --lr is given" in capsys.readouterr().err
    assert errors.guarded(diverge, Namespace(resume=None, lr=1, lr_z=2), "prog") == 1
    assert "a lower --lr or --lr_z is given" in capsys.readouterr().err


@pytest.mark.parametrize("error", [
    RuntimeError("can't start new thread"), RuntimeError("std::bad_alloc"),
    ImportError("libtorch.so: failed to map segment from shared object: Cannot allocate memory"),
    ImportError("libtorch_cuda.so: failed to map segment from shared object"),
])  # fmt: skip
def test_too_little_memory_is_one_line(error, capsys):
    assert errors.explained("prog", error) == 1
    assert capsys.readouterr().err.startswith("prog: out of memory (")
    flags = {"batch_size": 8, "n_samples": 4, "zo_directions": 3, "zo_samples": None}
    for sample_only, told in (
        (False, "--batch_size or --zo_directions needs less"), (True, "--n_samples needs less")
    ):  # fmt: skip
        errors.explained("prog", error, Namespace(sample_only=sample_only, **flags))
        assert capsys.readouterr().err.rstrip().endswith(f"; a smaller {told}")


NOEXEC = ImportError("x.so: failed to map segment from shared object: Operation not permitted")


def test_a_fault_of_the_program_keeps_its_traceback():
    for error in (
        RuntimeError("sizes differ"),
        ImportError("no such name"),
        NOEXEC,
        ValueError("x"),
    ):
        assert errors.explained("prog", error) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "\\xff", "[" * 10**5, '{"b": 1}'])
def test_a_damaged_json_file_is_named(content, tmp_path):
    """Also where it lacks what is read from it, as a summary of another version does."""
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(errors.Stop, match=r"summary\.json: damaged"):
        errors.read_json(tmp_path / "summary.json")["a"]


STARTED = """
import sys, time
sys.path.insert(0, {root!r})
from common import errors
errors.starting("prog")
{body}
"""


def started(body: str, **options) -> subprocess.Popen:
    code = STARTED.format(root=str(ROOT), body=body)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-S", "-c", code], **streams, **options)


def test_an_interrupt_while_torch_is_imported_is_one_line():
    # whoever runs the tests may ignore interrupts, as a shell does for what it starts with &
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = started("print('ready', flush=True)\ntime.sleep(30)", preexec_fn=heard)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, b"prog: interrupted\n")


AMID_A_WRITE = """
import io, os, signal
class Interrupting(io.RawIOBase):
    def writable(self):
        return True
    def write(self, content):
        os.kill(os.getpid(), signal.SIGINT)
        return len(content)
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Interrupting()))
signal.signal(signal.SIGINT, errors._Starting("prog").on_signal)
print("ready", flush=True)
"""


def test_an_interrupt_amid_a_write_is_one_line():
    process = started(AMID_A_WRITE)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, b"prog: interrupted\n")


def test_an_interrupt_that_a_shell_ignores_stays_ignored():
    ignored = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    process = started("print('ready', flush=True)\ntime.sleep(1)", preexec_fn=ignored)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == b"" and process.returncode == 0


def test_an_import_without_memory_is_one_line_and_a_bug_is_not():
    _, said = started("raise MemoryError").communicate(timeout=20)
    assert said.startswith(b"prog: out of memory") and said.count(b"\n") == 1
    process = started("raise LookupError('a bug')")
    assert b"Traceback" in process.communicate(timeout=20)[1] and process.returncode == 1


def test_any_text_is_printed_in_any_locale():
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = started("print('1 \\u00b1 2 \\udcff')", env={**env, "PYTHONIOENCODING": ""})
    out, said = process.communicate(timeout=20)
    assert process.returncode == 0 and out == b"1 \\xb1 2 \\udcff\n", said


def test_a_command_whose_output_is_closed_works():
    """Files that it opens do not become its output, either."""
    body = "import os\nprint(1)\nprint(2, file=sys.stderr)\nos.fstat(1), os.fstat(2)"
    body += "\nsys.stderr.isatty()\nsys.exit(7)"
    process = started(body, preexec_fn=lambda: (os.close(1), os.close(2)))
    assert process.wait(20) == 7


def test_guarded_takes_the_interrupt_over(monkeypatch, capsys):
    """The run's own handler saves; between the two it is a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        errors.starting("prog")
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler

        def main(_):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

        assert errors.guarded(main, None, "prog") == 130
        assert capsys.readouterr().err == "prog: interrupted\n"
    finally:
        signal.signal(signal.SIGINT, before)


# modules that are started as commands; one has no flags, and starts a script
COMMANDS = sorted(
    name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    for name in set(TRACKED) - {"comparison/child.py"}
    if name.endswith(".py")
    and not name.startswith("tests/")
    and '\nif __name__ == "__main__":' in (ROOT / name).read_text()
)
ASK = """
import contextlib, importlib, io, json, runpy, sys
answers = {}
for name in sys.argv[1:]:
    module, _, function = name.partition(":")
    for flag in ("-h", "--no_such_flag"):
        sys.argv, out, err, code = ["x", flag], io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if function:
                    getattr(importlib.import_module(module), function)()
                else:
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as stopped:
                code = stopped.code
        slow = {"torch", "numpy", "sklearn", "matplotlib"} & set(sys.modules)
        assert not slow, f"{name} {flag} imports {slow}"
        answers.setdefault(name, []).append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


def test_every_command_answers_help_and_errors_without_torch():
    """In one process, so that it is fast: what one imports is there for the others too."""
    command = [sys.executable, "-c", ASK, *COMMANDS, *SCRIPTS.values()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(COMMANDS) >= 37 and set(MODULES.values()) <= set(COMMANDS)
    for name in COMMANDS:
        program = f"python -m {name}" if "." in name else f"{name}.py"
        (code, page, _), (wrong, nothing, line) = answers[name]
        assert code == 0 and page.startswith(f"usage: {program} [-h]"), name
        assert wrong == 2 and nothing == "" and f"{program}: error: " in line, name
    for name, module in MODULES.items():  # the function that is installed does the same
        assert answers[SCRIPTS[name]] == answers[module], name


@pytest.mark.parametrize(
    "script", ["train_mnist", "train_mnist_bayesian", "train_mnist_bilevel_ZO"]
)
def test_a_script_prints_its_help(script):
    command = [sys.executable, f"{script}.py", "-h"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: {script}.py [-h]")
