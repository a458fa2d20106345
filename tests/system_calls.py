"""The moments of a save, at any of which a process may die or a system call may fail."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from common import checkpoint

PARTS = 4  # a file's content is written in so many parts
# before and after: mkdir, unlink of what was left, open, fsync, rename, open, fsync and close of
# the folder, unlink of the oldest checkpoint; and after each part of the content
MOMENTS = 2 * 9 + PARTS


class Moments:
    """Counts the moments, and acts at one of them."""

    def __init__(self, number: int, act: Callable[[], None]):
        self.number, self.act, self.count = number, act, 0

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self.number:
            self.act()

    def around(self, call: Callable) -> Callable:
        def wrapped(*args, **named):
            self.pass_one()
            result = call(*args, **named)
            self.pass_one()
            return result

        return wrapped

    def opened(self, *args, **named) -> "SlowFile":
        return SlowFile(self.around(open)(*args, **named), self)


class SlowFile:
    """A file that is written in parts."""

    def __init__(self, file, moments: Moments):
        self.file, self.moments = file, moments

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content: bytes) -> None:
        size = -(-len(content) // PARTS)
        for i in range(PARTS):
            self.file.write(content[i * size : (i + 1) * size])
            self.file.flush()
            self.moments.pass_one()


@contextmanager
def moments(number: int, act: Callable[[], None]) -> Iterator[Moments]:
    """Inside, `act` is called at the moment of this number of a save, from 1."""
    counted = Moments(number, act)
    with ExitStack() as stack:
        calls = [(os, "fsync"), (os, "replace"), (os, "open"), (os, "close")]
        for owner, name in [*calls, (Path, "unlink"), (Path, "mkdir")]:
            wrapped = counted.around(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        stack.enter_context(mock.patch.object(checkpoint, "open", counted.opened, create=True))
        yield counted
