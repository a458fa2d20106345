"""Wrong command lines, and random ones: exit 2 and one line, or exit 0; never a folder."""

import contextlib
import functools
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch
from test_flags import (
    VALUES,
    WRONG_BILEVEL,
    WRONG_COMBINATIONS,
    WRONG_SEARCH,
    files_of_the_combinations,
)

import finetune_reward
import reproduce
import train_mnist
import train_mnist_bayesian
import train_mnist_bilevel_ZO
from benchmarks.faults.row import Row
from benchmarks.record import ROOT
from common import cli, errors, estimate
from common.families import FAMILIES
from studies.lr_schedules import __main__ as study
from studies.lr_schedules.options import KIND

SCRIPTS = {
    "train": train_mnist,
    "search": train_mnist_bayesian,
    "bilevel": train_mnist_bilevel_ZO,
    KIND: study,
    "reproduce": reproduce,
    "reward": finetune_reward,
}
WRONG_LINES = [
    *(("train_mnist.py", [f"--{name}={value}"]) for name, value in VALUES),
    *(("train_mnist.py", line.split()) for line in WRONG_COMBINATIONS),
    *(("train_mnist_bilevel_ZO.py", line.split()) for line in WRONG_BILEVEL),
    *(("train_mnist_bayesian.py", line.split()) for line in WRONG_SEARCH),
]
random.Random(0).shuffle(WRONG_LINES)  # so that a quick run sees some of each kind
HOSTILE = [
    "", " ", "x", "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1e308", "-1e308", "1e-320",
    "1e400", "9" * 20, "9" * 400, "0x10", "1,5", "1_0", "٣", "--", "-", "\x7f", "\udcff",
    "a\nb", "**", "../..", "/", "/dev/null", "/dev/zero", "~", "a" * 300, "a" * 5000, "latest",
    "true", "None", "cpu", "cuda:99", "cuda:-1", "file.json", "folder", "ok.json", "{}", "%s",
]  # fmt: skip


def plausible(action, rng: random.Random) -> str:
    """A value that a flag may well take."""
    if action.choices:
        return str(rng.choice(list(action.choices)))
    numbers = ["0", "1", "2", "3", "4", "8", "10", "64", "1000", "0.5", "0.01", "1e-3", "1.5"]
    value = action.default
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return str(value)
    return rng.choice(numbers)


def random_line(rng: random.Random) -> tuple[str, list[str]]:
    """A script and its arguments: flags of its own, with values likely and unlikely."""
    kind = rng.choice([*list(SCRIPTS) * 2, "train", "search", "bilevel"])
    actions = [a for a in parser_of(kind)._actions if a.dest not in ("help", "report", "collect")]
    argv = []
    for action in rng.sample(actions, rng.randrange(min(7, len(actions)))):
        name = action.option_strings[-1]
        if rng.random() < 0.03:
            name = name[:-1] if rng.random() < 0.5 else f"{name}s"
        count = action.nargs if isinstance(action.nargs, int) else 1
        if action.nargs in ("+", "*") or rng.random() < 0.03:
            count = rng.randrange(4)
        hostile = rng.random() < 0.25
        values = [rng.choice(HOSTILE) if hostile else plausible(action, rng) for _ in range(count)]
        argv += [f"{name}={values[0]}"] if len(values) == 1 and hostile else [name, *values]
    rng.random() < 0.02 and argv.append(rng.choice(HOSTILE))
    return kind, argv


@functools.cache
def parser_of(kind: str) -> cli.Parser:
    return SCRIPTS[kind].make_parser()


def run_line(kind: str, argv: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command line, in this process."""
    module, parser = SCRIPTS[kind], SCRIPTS[kind].make_parser()
    parser.prog = "prog"
    stderr = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
        mock.patch.object(estimate, "measure", lambda *_: estimate.Rates(1.0, 1.0)),  # minutes
        mock.patch.object(torch, "set_num_threads"),  # of this process, and of any number
    ):
        try:
            if kind == "reproduce":
                args = parser.parse_args(argv)
            else:
                args = cli.parse(parser, kind, module.check, argv)
        except SystemExit as stopped:
            return stopped.code or 0, stderr.getvalue()
        return errors.guarded(module.main, args, "prog"), stderr.getvalue()


def check_line(rng: random.Random, folder: Path) -> None:
    """One random command line, in an empty folder beside a few files."""
    (folder / "folder").mkdir()
    (folder / "file.json").write_text("{}")
    content = {"family": rng.choice(list(FAMILIES)), "timesteps": 100}
    (folder / "ok.json").write_text(json.dumps(content))
    before = sorted(folder.rglob("*"))
    kind, argv = random_line(rng)
    if kind != KIND:  # which has no plan to print: its lines are parsed only
        argv.append("--dry_run")
    cwd = os.getcwd()
    try:
        os.chdir(folder)
        if kind == KIND:
            code, output = parsed(argv)
        else:
            code, output = run_line(kind, argv)
    finally:
        os.chdir(cwd)
    line = f"{kind} {argv!r:.300}: {code} {output[-300:]!r}"
    assert code in (0, 2), line
    assert code == 0 or (output.count("\n") == 1 and "Traceback" not in output), line
    assert sorted(folder.rglob("*")) == before, f"left something: {line}"


def parsed(argv: list[str]) -> tuple[int, str]:
    """As far as the arguments of the study."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            cli.parse(study.make_parser(), KIND, study.check, argv)
        except SystemExit as stopped:
            return stopped.code or 0, stderr.getvalue()
    return 0, ""


def random_command(i: int, folder: Path) -> None:
    """Flags of every script, likely and hostile values."""
    check_line(random.Random(i), folder)


def wrong_line(i: int, folder: Path) -> None:
    """A value or a combination that is wrong: one line and exit 2, before torch is imported."""
    script, argv = WRONG_LINES[i]
    files_of_the_combinations(folder)
    before = sorted(folder.rglob("*"))
    code = (
        f"import runpy, sys\nsys.path[0] = {str(ROOT)!r}\nsys.argv = {[script, *argv]!r}\n"
        f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit as stopped: sys.exit(99 if 'torch' in sys.modules else stopped.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    line = f"{script} {argv}: {done.returncode} {done.stderr[-300:]!r}"
    assert done.returncode == 2 and done.stderr.count("\n") == 1, line
    assert sorted(folder.rglob("*")) == before, f"left something: {line}"


ROWS = [
    Row("wrong values and combinations of flags", "exit 2 and one line, before torch is imported",
        wrong_line, len(WRONG_LINES), 10),
    Row("random command lines", "exit 0 under `--dry_run`, or exit 2 and one line; no folder",
        random_command, 1000, 60),
]  # fmt: skip
