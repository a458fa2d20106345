"""The rows of a table of times: both sides measured in turn, printed as they come."""

from collections.abc import Callable

import torch

from benchmarks.timing import seconds, summary
from common.machine import keep_freed_memory

HEAD = f"{'seconds':38s} {'ours':>9s} {'least':>9s} {'most':>9s} {'plain':>9s} {'ratio':>6s}"


class Rows:
    """What was measured, a dict a row."""

    def __init__(self, device: torch.device, repeats: int, keep_both: bool = False):
        self.device, self.repeats = device, repeats
        # only our side keeps freed memory; where both sides are ours, both do
        self.keep_both = keep_both
        self.rows = []
        print(HEAD)

    def measure(
        self,
        name: str,
        ours: Callable[[], object],
        plain: Callable[[], object] | None = None,
        scale: float = 1.0,
        repeats: int | None = None,
        warm_up: bool = True,
    ) -> dict:
        """Measure the sides in turn; the seconds are multiplied by `scale`.

        Each comes after a call that is not timed, since what the other side did to the memory
        must not count; a call that is long enough warms up in its first part.
        """
        sides = {"ours": ours} | ({"plain": plain} if plain else {})
        times = {side: [] for side in sides}
        for _ in range(repeats or self.repeats):
            for side, call in sides.items():
                keep_freed_memory(side == "ours" or self.keep_both)
                if warm_up:
                    call()
                times[side].append(seconds(call, self.device) * scale)
        return self.add({"what": name} | {side: summary(each) for side, each in times.items()})

    def add(self, row: dict) -> dict:
        """Append a row, with the ratio of its sides."""
        if "plain" in row:
            row["ratio"] = row["ours"]["median"] / row["plain"]["median"]
        self.rows.append(row)
        print(line(row), flush=True)
        return row


def line(row: dict) -> str:
    """A row as it is printed."""
    if "GiB" in row:
        return f"{row['what']:38s} {row['GiB']:9.3f} GiB"
    ours = " ".join(f"{row['ours'][k]:9.4f}" for k in ("median", "least", "most"))
    text = f"{row['what']:38s} {ours}"
    return text + (f" {row['plain']['median']:9.4f} {row['ratio']:6.3f}" if "ratio" in row else "")
