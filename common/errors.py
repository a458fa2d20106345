"""Errors that a user can act on: one line on the terminal and an exit code, no traceback."""

import errno
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MOST_DIGITS = 300  # of a whole number in a JSON file; more would be no float
NOT_FINITE = "not_finite.json"  # in the folder of a run that ended with a NotFinite
TAKES_MEMORY = ("batch_size", "eval_chunk", "zo_samples", "zo_directions", "model_base_dim")
DRAWN_AT_ONCE = ("n_samples",)  # all that --sample_only draws


class Stop(Exception):
    """A reason to end the run that its user can act on: printed as one line, no traceback."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class NotFinite(Stop):
    """A number that is NaN or infinite; `at` adds the places, outermost first."""

    def __init__(self, fact: str, places: tuple[str, ...] = ()):
        location = f" at {', '.join(places)}" if places else ""
        super().__init__(f"{fact}{location}: stopped before it was saved")
        self.fact, self.places = fact, places


def check_finite(value: float, name: str) -> None:
    """Raise NotFinite before such a number reaches a weight or a checkpoint."""
    if not math.isfinite(value):
        raise NotFinite(f"{name} is {value}")


@contextmanager
def at(place: str) -> Iterator[None]:
    """Name the place of a NotFinite that is raised inside; also a decorator."""
    try:
        yield
    except NotFinite as error:
        raise NotFinite(error.fact, (place, *error.places)) from None


def parse_json(text: str | bytes) -> Any:
    """The content of JSON text; whatever is wrong with it is a ValueError."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError("a number of too many digits")
    return int(text)


class JsonObject(dict):
    """The object in a JSON file; what is asked for and not in it is a Stop that names the file."""

    def __init__(self, content: dict, path: Path):
        super().__init__(content)
        self.path = path

    def __missing__(self, name):
        raise Stop(f"{self.path}: damaged (no {name!r})")


def read_json(path: Path) -> JsonObject:
    """The object in a JSON file; a Stop names the file if it is missing, damaged or not one."""
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Stop(f"{path}: damaged ({error})") from None
    if not isinstance(content, dict):
        raise Stop(f"{path}: damaged (holds no object)")
    return JsonObject(content, path)


def one_line(prog: str, error: Exception | str) -> None:
    """The error on stderr; a name with a line break in it does not make it two lines."""
    print(f"{prog}: {error}".replace("\n", " "), file=sys.stderr)


class _Starting:
    """What Ctrl-C and an error are until `guarded` takes over: one line, also amid an import."""

    def __init__(self, prog: str):
        self.prog = prog

    def on_signal(self, number, frame) -> None:
        with suppress(RuntimeError):  # amid a write to stderr
            one_line(self.prog, "interrupted")
        self.leave(128 + number)

    def on_error(self, kind, error, traceback) -> None:
        code = explained(self.prog, error)
        if code is None:
            sys.__excepthook__(kind, error, traceback)
        self.leave(1 if code is None else code)

    @staticmethod
    def leave(code: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            # closed, none at all, or amid a write
            with suppress(OSError, ValueError, AttributeError, RuntimeError):
                stream.flush()
        os._exit(code)  # an import may be half done


def starting(prog: str) -> None:
    """For a command's first moments, while torch is imported: faults are one line, text prints."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whatever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, until the process ends
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # ± in an ASCII locale, a path in no encoding
            stream.reconfigure(errors="backslashreplace")
    first = _Starting(prog)
    sys.excepthook = first.on_error
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
        signal.signal(signal.SIGINT, first.on_signal)


def guarded(main, args, prog: str) -> int:
    """Run `main(args)`; what a user can act on becomes one line and an exit code."""
    if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), _Starting):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(args)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if (code := explained(prog, error, args)) is None:
            raise
        return code


def explained(prog: str, error: BaseException, args=None) -> int | None:
    """The exit code of an error that one line explains; None for a fault of the program.

    `args` are the command's: they say whether a run of it can be resumed.
    """
    short = ("freeze_network", "sample_only", "dry_run")  # these leave nothing to resume
    resumes = hasattr(args, "resume") and not any(getattr(args, name, False) for name in short)
    match error:
        case NotFinite() if resumes:
            rates = [f"--{n}" for n in ("lr", "lr_z") if getattr(args, n, None) is not None]
            other = f", unless a lower {' or '.join(rates)} is given with it" if rates else ""
            same = "--resume RUN repeats the steps since the last checkpoint and ends the same way"
            one_line(prog, f"{error}; {same}{other}")
            return error.code
        case Stop():
            one_line(prog, error)
            return error.code
        case BrokenPipeError():  # whatever read our output has ended, as in `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        case OSError():  # of the disk, the file system, the limits of the process
            reason = error.strerror or first_line(error)
            file = error.filename or "a file"
            if error.errno == errno.ENAMETOOLONG:  # not a fault of the machine: a wrong argument
                one_line(prog, f"{file:.80}…: {reason}")
                return 2
            again = "; --resume continues once it is fixed" if resumes else ""
            one_line(prog, f"{file}: {reason}{again}")
            return 1
        case KeyboardInterrupt():
            one_line(prog, "interrupted")
            return 130
    if out_of_memory(error):
        names = DRAWN_AT_ONCE if getattr(args, "sample_only", False) else TAKES_MEMORY
        # not one that the run does not read, which is None, nor one at its least value
        flags = [f"--{name}" for name in names if (getattr(args, name, None) or 1) > 1]
        less = f"; a smaller {' or '.join(flags)} needs less" if flags else ""
        one_line(prog, f"out of memory ({first_line(error)}){less}")
        return 1
    return None


NO_MEMORY = (
    "can't allocate", "Cannot allocate memory", "can't start new thread", "bad_alloc",
    "CUDA error: out of memory", "STATUS_ALLOC_FAILED",
)  # fmt: skip
UNMAPPED = "failed to map segment from shared object"  # without a reason: memory; else it follows


def out_of_memory(error: BaseException) -> bool:
    """Of the host or of a GPU: torch's own class is not known here, its name is."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if {"MemoryError", "OutOfMemoryError"} & names:
        return True
    # an import is refused memory with an ImportError
    text = str(error)
    return isinstance(error, RuntimeError | ImportError) and (
        text.endswith(UNMAPPED) or any(part in text for part in NO_MEMORY)
    )


def of_the_card(error: BaseException) -> bool:
    """Whether an error is of a GPU; later work of the same process may fail too."""
    return any(name in str(error) for name in ("CUDA error", "cuDNN error"))


def of_the_machine(error: BaseException) -> bool:
    """Whether an error is of the memory or of a GPU, and not of what was computed."""
    return out_of_memory(error) or of_the_card(error)


def first_line(error: BaseException) -> str:
    """An error's text in few words."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:120]
