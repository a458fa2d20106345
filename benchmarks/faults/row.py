"""A row of the campaign: a promise, and cases of which each holds or fails."""

import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAME_BITS = "resumed, it ends with the bits of an undisturbed run"
Case = Callable[[int, Path], None]  # number and an empty folder; an error is a promise broken


class DoesNotApply(Exception):
    """The machine lacks what a case needs, such as a second user."""


@dataclass(frozen=True)
class Row:
    """What is done to a run or a file, what is promised, and how often it is tried."""

    fault: str
    promise: str
    case: Case
    whole: int
    quick: int

    @property
    def name(self) -> str:
        return f"{self.case.__module__.split('.')[-1]}.{self.case.__name__}"

    def tried(self, i: int) -> str | None:
        """The outcome of a case: why it fails, or nothing."""
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            try:
                self.case(i, Path(folder))
            except DoesNotApply:
                raise
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                text = " ".join(str(error).split())[-300:]
                return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {text}"
        return None
