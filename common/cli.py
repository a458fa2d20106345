"""What the scripts' command lines share, without importing torch: a wrong flag answers at once."""

import argparse
import json
import math
import re
from pathlib import Path

# resuming takes its arguments from the run; only these may be given beside --resume
MAY_CHANGE = {
    "resume",
    "runs_dir",
    "device",
    "cpu",
    "threads",
    "save_seconds",
    "log_freq",
    "dry_run",
}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one: not None, False or ''."""

    def _get_help_string(self, action):
        empty = action.default is None or action.default is False or action.default == ""
        return action.help if empty else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help, no abbreviations and errors of one line."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: Help(prog, width=100),
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (-h explains the flags)\n")


def number(kind, low=-math.inf, high=math.inf, above=False):
    """An argparse type: a finite int or float in [low, high], or in (low, high] with `above`."""
    name = "whole number" if kind is int else "number"
    bound = f" {'above' if above else 'of at least'} {low:g}" if low > -math.inf else ""
    bound += f" and at most {high:g}" if high < math.inf else ""

    def parse(text):
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            value, finite = math.nan, False
        if not (finite and low <= value <= high and not (above and value == low)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {name}{bound}")
        return value

    return parse


def device(text):
    """An argparse type: the name of a device that torch may have."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, mps, cuda or cuda:N")
    return text


count = number(int, 1)
count_or_none = number(int, 0)
positive = number(float, 0, above=True)
parameter = number(float)


def parse(parser: Parser, kind: str, check=lambda args: None, argv=None) -> argparse.Namespace:
    """Parse and check the arguments. A run that resumes takes its own arguments back."""
    unset = object()
    dests = [action.dest for action in parser._actions if action.dest != "help"]
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(dests, unset)))
    given = {name: value for name, value in vars(args).items() if value is not unset}
    for action in parser._actions:
        if given.get(action.dest) == [] and action.nargs != "*":  # "--flag=--" in Python 3.11
            parser.error(f"argument --{action.dest}: '--' is not a value")
    defaults = {name: parser.get_default(name) for name in dests}
    try:
        if given.get("resume"):
            runs_dir = given.get("runs_dir", defaults["runs_dir"])
            folder = find_run(runs_dir, kind, given["resume"])
            stored = read_arguments(folder, kind)
            other = [n for n in given if n not in MAY_CHANGE and given[n] != stored.get(n)]
            if other:
                raise ValueError(
                    f"--{other[0]} differs from the run's own; start a new run to change it"
                )
            given = {**stored, **{n: given[n] for n in given if n in MAY_CHANGE}}
            given["resume"] = str(folder)
        args = argparse.Namespace(**{**defaults, **given})
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def words(parser: Parser, args, skip=()) -> list[str]:
    """The flags that say `args` to a parser: those that are not at their defaults."""
    said = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in skip or value in (None, action.default):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        said += [action.option_strings[-1], *map(str, values)]
    return said


def find_run(runs_dir: str, kind: str, where: str) -> Path:
    """The folder of a run: the one that `where` names, or the latest of its kind to go on with."""
    if where != "latest":
        folder = by_number(where)
        if (folder / "args.json").is_file():
            return folder
        raise ValueError(f"--resume {where}: not a run's folder (it has no args.json)")
    folders = sorted(Path(runs_dir).glob(f"[0-9]*-{kind}-*/args.json"))
    if not folders:
        raise ValueError(f"--resume latest: no {kind} run in {runs_dir}")
    unfinished = [f for f in folders if not f.with_name("summary.json").exists()]
    return (unfinished or folders)[-1].parent


def by_number(where: str) -> Path:
    """The folder runs/00003-train-seed0 for runs/00003, where there is one of that number."""
    folder = Path(where)
    found = [] if folder.is_dir() else sorted(folder.parent.glob(f"{folder.name}-*"))
    return found[0] if len(found) == 1 else folder


def read_arguments(folder: Path, kind: str) -> dict:
    """The arguments a run was started with."""
    try:
        content = json.loads((folder / "args.json").read_text())
        arguments, its_kind = dict(content["arguments"]), content["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder}/args.json: cannot be read") from None
    if its_kind != kind:
        raise ValueError(f"{folder} is a {its_kind} run: its own script resumes it")
    return arguments
