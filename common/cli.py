"""Command-line parsing shared by all scripts; no torch, so that errors and -h are instant."""

import argparse
import json
import math
import re
from pathlib import Path

from common import locate
from common.errors import NOT_FINITE

# a resumed run takes its arguments from its folder; only these may be given with --resume
MAY_CHANGE_RATES = {"lr", "lr_z"}  # where the run has ended with a number that is not finite
MAY_CHANGE = {
    "resume",
    "runs_dir",
    "device",
    "cpu",
    "threads",
    "save_seconds",
    "log_freq",
    "eval_chunk",
    "executor",
    "executor_options",
    "dry_run",
}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that shows a default unless it is None, False or ''."""

    def _get_help_string(self, action):
        empty = action.default is None or action.default is False or action.default == ""
        return action.help if empty else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser with defaults in the help, no abbreviations and one-line errors."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: Help(prog, width=100),
        )

    def defaults(self, **given) -> argparse.Namespace:
        """The arguments of a command line that sets what is given and nothing else."""
        names = (action.dest for action in self._actions if action.dest != "help")
        return argparse.Namespace(**{name: self.get_default(name) for name in names} | given)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (-h explains the flags)\n")


def adder(parser, title=None):
    """A function that adds a flag by name, default and help text, to a new group if titled."""
    group = parser.add_argument_group(title) if title else parser

    def add(name, default, text, **options):
        group.add_argument(f"--{name}", default=default, help=text, **options)

    return add


def number(kind, low=-math.inf, high=math.inf, above=False):
    """An argparse type: a finite int or float in [low, high]; (low, high] if `above`."""
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
    """An argparse type: the name of a torch device."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, mps, cuda or cuda:N")
    return text


count = number(int, 1)
count_or_none = number(int, 0)
positive = number(float, 0, above=True)
parameter = number(float)


def parse(parser: Parser, kind: str, check=lambda args: None, argv=None) -> argparse.Namespace:
    """Parse and check the arguments; a resumed run takes them from its folder."""
    unset = object()
    dests = [action.dest for action in parser._actions if action.dest != "help"]
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(dests, unset)))
    given = {name: value for name, value in vars(args).items() if value is not unset}
    for action in parser._actions:
        if given.get(action.dest) == [] and action.nargs != "*":  # "--flag=--" in Python 3.11
            parser.error(f"argument --{action.dest}: '--' is not a value")
    for name, value in given.items():  # an unset shell variable, more often than a wish
        if value == "":
            parser.error(f"argument --{name}: the value is empty")
    defaults = {name: parser.get_default(name) for name in dests}
    try:
        if given.get("resume"):
            runs_dir = given.get("runs_dir", defaults["runs_dir"])
            folder = find_run(runs_dir, kind, given["resume"])
            stored = read_arguments(folder, kind)
            may = MAY_CHANGE | (MAY_CHANGE_RATES if (folder / NOT_FINITE).exists() else set())
            other = [n for n in given if n not in may and given[n] != stored.get(n)]
            if other:
                raise ValueError(
                    f"--{other[0]} differs from the value in {folder}/args.json; start a new run "
                    "to change it"
                )
            if {"device", "cpu"} & set(given):  # one choice in two flags: the new one replaces both
                stored = {n: v for n, v in stored.items() if n not in ("device", "cpu")}
            given = {**stored, **{n: given[n] for n in given if n in may}}
            given["resume"] = str(folder)
        args = argparse.Namespace(**{**defaults, **given})
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def to_argv(parser: Parser, args, skip=()) -> list[str]:
    """Command-line arguments that reproduce `args`: every flag that is not at its default."""
    argv = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in skip or value in (None, action.default):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        argv += [action.option_strings[-1], *map(str, values)]
    return argv


def find_run(runs_dir: str, kind: str, name: str) -> Path:
    """The run that --resume names; for 'latest' the newest of its kind, unfinished ones first."""
    try:
        return locate.find_run(name, runs_dir, kind, unfinished_first=True)
    except ValueError as error:
        raise ValueError(f"--resume {name}: {error}") from None


def read_arguments(folder: Path, kind: str) -> dict:
    """The arguments with which a run was started."""
    try:
        content = json.loads((folder / "args.json").read_text())
        arguments, stored_kind = dict(content["arguments"]), content["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder}/args.json: cannot be read") from None
    if stored_kind != kind:
        raise ValueError(
            f"{folder} is a {stored_kind} run; resume it with the script that started it"
        )
    return arguments
