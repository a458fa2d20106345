"""Errors that a user can act on: one line on the terminal and an exit code, no traceback."""

import errno
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# of the operating system: the user can mend these, and resume
MENDABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
}
NOT_FINITE = "not_finite.json"  # in the folder of a run that ended with a NotFinite
LESS_MEMORY = "a smaller --batch_size, --eval_chunk, --zo_samples or --model_base_dim needs less"


class Stop(Exception):
    """A reason to end the run that its user can act on: printed as one line, no traceback."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class NotFinite(Stop):
    """A number that is NaN or infinite; `at` adds the places, outermost first."""

    def __init__(self, fact: str, places: tuple[str, ...] = ()):
        location = f" at {', '.join(places)}" if places else ""
        super().__init__(
            f"{fact}{location}: stopped before it was saved. --resume RUN repeats the same steps "
            "from the last checkpoint, to the same end; --resume RUN --lr, with a lower rate, "
            "takes others"
        )
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


def one_line(prog: str, error: Exception | str) -> None:
    print(f"{prog}: {error}", file=sys.stderr)


def guarded(main, args, prog: str) -> int:
    """Run `main(args)`; what a user can act on becomes one line and an exit code."""
    try:
        main(args)
        return 0
    except Stop as error:
        one_line(prog, error)
        return error.code
    except BrokenPipeError:  # whatever read our output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        one_line(
            prog,
            f"{error.filename or 'a file'}: {error.strerror}; --resume continues once it is fixed",
        )
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        one_line(prog, f"out of memory ({_first_line(error)}); {LESS_MEMORY}")
        return 1
    except KeyboardInterrupt:
        one_line(prog, "interrupted")
        return 130


def _out_of_memory(error: Exception) -> bool:
    """Of the host or of a GPU: torch's own class is not known here, its name is."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"MemoryError", "OutOfMemoryError"} & names) or "can't allocate" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
