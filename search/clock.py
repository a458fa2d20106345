"""The time that a search has taken: its ledger and, for what came after the last line, a file."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Stop, read_json
from common.run import Run
from search.ledger import Ledger

CLOCK = "clock.json"


@contextmanager
def clock(run: Run, ledger: Ledger) -> Iterator[None]:
    """The run's seconds go on from where the search was stopped, and are left when it ends."""
    run.elapsed = seconds_before(run, ledger)
    try:
        yield
    finally:
        run.write_json(CLOCK, {"seconds": round(run.seconds(), 3)})


def seconds_before(run: Run, ledger: Ledger) -> float:
    """What the search has taken so far."""
    path = run.folder / CLOCK
    known = [row["at"] for row in ledger.rows.values()]
    try:
        if path.exists():
            known.append(float(read_json(path)["seconds"]))
            if not 0 <= known[-1] < math.inf:
                raise ValueError
    except (LookupError, TypeError, ValueError):
        raise Stop(f"{path}: damaged; delete it to use the times of the ledger") from None
    return max(known, default=0.0)
