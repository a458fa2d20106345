"""Errors that a user can act on: one line on the terminal and an exit code, no traceback."""

import errno
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


class Stop(Exception):
    """A reason to end the run that its user can act on: printed as one line, no traceback."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def one_line(prog: str, error: Exception) -> None:
    print(f"{prog}: {error}", file=sys.stderr)


class NotFinite(Stop):
    """A number that is NaN or infinite; `located` adds where in the run it arose."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Stop at a number inside that is not finite, and name the place."""
    try:
        yield
    except NotFinite as error:
        raise Stop(
            f"{error} at {place}: stopped before it was saved. --resume goes on from the last "
            "checkpoint; a lower --lr may help"
        ) from None


def check_finite(value: float, what: str, where: str | None = None) -> None:
    """Stop at a number that is NaN or infinite, before it reaches a checkpoint."""
    if math.isfinite(value):
        return
    with located(where) if where else nullcontext():
        raise NotFinite(f"{what} is {value}")


def guarded(main, args, prog: str) -> int:
    """Run `main(args)`; what a user can act on becomes one line and an exit code."""
    try:
        main(args)
        return 0
    except Stop as error:
        one_line(prog, error)
        return error.code
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
            errno.EEXIST,
            errno.ENOTDIR,
        ):
            raise
        one_line(
            prog,
            f"{error.filename or 'a file'}: {error.strerror}; --resume goes on after it is mended",
        )
        return 1
    except KeyboardInterrupt:
        one_line(prog, "interrupted")
        return 130
