"""Command-line parsing shared by all scripts; no torch, so that errors and -h are instant."""

import argparse
import math
import re
import shlex
import textwrap
from pathlib import Path

from common import errors, locate
from common.families import from_content

# flags that name a file or a run; args.json has what was found there
OF_FILES = {"ckpt", "schedule_from", "sampling_schedule"}
# a resumed run takes its arguments from its folder; only these may be given with --resume
MAY_CHANGE_RATES = {"lr", "lr_z"}  # where the run has ended with a number that is not finite
MAY_CHANGE = {
    "resume",
    "runs_dir",
    "data_dir",  # the data are known by their fingerprint
    "cache_dir",
    "inception_weights",
    "device",
    "cpu",
    "threads",
    "save_seconds",
    "log_freq",
    "eval_chunk",
    "executor",
    "executor_options",
    "tensorboard",
    "dry_run",
}
# a run's folder, which may be a stranger's, does not say where to write
NOT_STORED = ("cache_dir", "runs_dir")
# what these name is imported, or runs commands: it is not for a run's folder to say alone
NAMES_CODE = ("lower_reward", "upper_reward", "pipeline", "executor_options")
KNOT = re.compile(r"(initial_)?knot_\d+")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that shows a default, as one types it, unless it is None, False or ''."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default == "":
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _split_lines(self, text, width):  # min-SNR and a file's name stay whole
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """ArgumentParser with defaults in the help, no abbreviations and one-line errors."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: Help(prog, width=100),
        )
        # argparse's own takes -1e-3 for a flag
        self._negative_number_matcher = re.compile(r"-(\d+\.?|\d*\.\d+)([eE][-+]?\d+)?$")

    def defaults(self, **given) -> argparse.Namespace:
        """The arguments of a command line that sets what is given and nothing else."""
        names = (action.dest for action in self._actions if action.dest != "help")
        return argparse.Namespace(**{name: self.get_default(name) for name in names} | given)

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """Also the start of a command, if it is the command line that is parsed."""
        if args is None:
            errors.starting(self.prog)
        parsed = super().parse_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            values = value if isinstance(value, list) else [value]
            # an unset shell variable, more often than a wish; a namespace holds no defaults
            if "" in values and (namespace is not None or value != action.default):
                name = action.option_strings[-1] if action.option_strings else action.dest
                self.error(f"argument {name}: the value is empty")
        return parsed

    def _meant(self, message: str) -> str | None:
        """What a flag or a value that does not exist probably stands for, if anything is near."""
        import difflib  # not at every start

        if message.startswith("unrecognized arguments: --"):
            word = message.split()[2].partition("=")[0]
            known = list(self._option_string_actions)
            longer = [flag for flag in known if flag.endswith(f"_{word[2:]}")]  # as --initial_tau
            near = difflib.get_close_matches(word, known, 1, cutoff=0.85) or longer
            near = near or difflib.get_close_matches(word, known, 1)
        elif wrong := re.match(r"argument (--\w+): invalid choice: '(.*)' \(choose", message):
            choices = self._option_string_actions[wrong[1]].choices or ()
            near = difflib.get_close_matches(wrong[2], map(str, choices), 1)
        else:
            near = []
        return near[0] if near else None

    def error(self, message):
        message = " ".join(message.split())  # a file's name may hold a line break
        if near := self._meant(message):
            message += f"; did you mean {near}?"
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
    bound = f" {'above' if above else 'of at least'} {low:,g}" if low > -math.inf else ""
    bound += f" and at most {high:,.9g}" if high < math.inf else ""

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
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,2})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, mps, cuda or cuda:N")
    return text


def named_device(text):
    """An argparse type: a torch device that is not left to the machine."""
    if device(text) == "auto":
        raise argparse.ArgumentTypeError("name one device: cpu, mps, cuda or cuda:N")
    return text


MANY = 10**9  # a larger count is a slip, and no memory or loop is made for it
count = number(int, 1, MANY)
count_or_none = number(int, 0, MANY)
images = number(int, 0, 10**8)  # drawn; 0: none
MOST_THREADS = 256  # OpenMP ends the process where the system refuses one
threads = number(int, 0, MOST_THREADS)  # 0: torch's default
threads_given = number(int, 1, MOST_THREADS)
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
    defaults = {name: parser.get_default(name) for name in dests}
    try:
        if given.get("resume"):
            runs_dir = given.get("runs_dir", defaults["runs_dir"])
            folder = find_run(runs_dir, kind, given["resume"])
            stored = read_arguments(folder, kind, parser)
            may = MAY_CHANGE | (
                MAY_CHANGE_RATES if (folder / errors.NOT_FINITE).exists() else set()
            )
            other = [n for n in given if n not in may and given[n] != stored.get(n)]
            if other and other[0] in OF_FILES:
                raise ValueError(f"--{other[0]} is left out with --resume: the run keeps its own")
            if other:
                raise ValueError(
                    f"--{other[0]} differs from the value in {folder}/args.json; start a new run "
                    "to change it"
                )
            if given.get("executor", stored.get("executor")) != stored.get("executor"):
                # the options were the other one's
                stored.pop("executor_options", None)
            check_code(folder, stored, given)
            if {"device", "cpu"} & set(given):  # one choice in two flags: the new one replaces both
                stored = {n: v for n, v in stored.items() if n not in ("device", "cpu")}
            given = {**stored, **{n: given[n] for n in given if n in may}}
            given["resume"] = str(folder)
        args = argparse.Namespace(**{**defaults, **given})
        check(args)
    except OSError as error:  # such as a name that is too long
        parser.error(f"{error.filename}: {error.strerror}")
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


def command(script: str, parser: Parser, values: dict, skip=()) -> str:
    """The command that runs a script with those of the values that it has flags for."""
    known = {name: values[name] for name in vars(parser.defaults()) if name in values}
    return shlex.join(["python", script, *to_argv(parser, parser.defaults(**known), skip)])


def find_run(runs_dir: str, kind: str, name: str) -> Path:
    """The run that --resume names; for 'latest' the newest of its kind, unfinished ones first."""
    try:
        return locate.find_run(name, runs_dir, kind, unfinished_first=True)
    except ValueError as error:
        raise ValueError(f"--resume {name}: {error}") from None


def read_arguments(folder: Path, kind: str, parser: Parser) -> dict:
    """The arguments with which a run was started, each as its flag would take it."""
    path = folder / "args.json"
    try:
        content = errors.parse_json(path.read_bytes())
        arguments, stored_kind = dict(content["arguments"]), content["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: cannot be read") from None
    if stored_kind != kind:
        raise ValueError(
            f"{folder} is a {stored_kind} run; resume it with the script that started it"
        )
    known: dict = {
        n: v for n, v in arguments.items() if isinstance(v, int | float) and KNOT.fullmatch(n)
    }
    for action in parser._actions:
        if action.dest in arguments and action.dest not in NOT_STORED:
            value = arguments[action.dest]
            if not fits(action, value):
                raise ValueError(f"{path}: {action.dest} {value!r:.60} is not a value of its flag")
            known[action.dest] = value
    if "data_dir" in known:
        known["data_dir"] = _from(content.get("directory"), known["data_dir"])
    return known


def check_code(folder: Path, stored: dict, given: dict) -> None:
    """Code that a run's folder names is run only if the command line names it too."""
    for name in NAMES_CODE:
        if stored.get(name) is not None and name not in given:
            parts = stored[name] if isinstance(stored[name], list) else [stored[name]]
            text = shlex.join(_as_text(part) for part in parts)
            raise ValueError(
                f"{folder}/args.json names code to run; if you trust it, add --{name} {text:.200}"
            )


def _from(directory, data_dir: str) -> str:
    """Data that were named relative to the folder in which the run was started."""
    if Path(data_dir).is_dir() or not isinstance(directory, str):
        return data_dir
    path = Path(directory) / data_dir
    return str(path) if path.is_dir() else data_dir


def fits(action: argparse.Action, value) -> bool:
    """Whether a flag could have had a value that a file claims."""
    if value is None or (action.nargs == "+" and value == []):
        return action.default is None
    if value == action.default:
        return type(value) is type(action.default)
    if action.nargs == 0:
        return isinstance(value, bool)
    if action.nargs is not None:
        some = isinstance(value, list) and (len(value) == action.nargs or type(action.nargs) is str)
        return some and all(_fits_one(action, part) for part in value)
    if action.dest == "sampling_schedule" and isinstance(value, dict):  # a file's content
        from_content(value)
        return True
    return _fits_one(action, value)


def _as_text(value) -> str:
    """A value as its flag would take it; one of two parts is NAME=VALUE."""
    return "=".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _fits_one(action, value) -> bool:
    text = _as_text(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float | list) or value == "":
        return False
    try:
        parsed = (action.type or str)(text)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return parsed == value and (action.choices is None or value in action.choices)
