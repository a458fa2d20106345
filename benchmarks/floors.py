"""The work of a training step, and what the machine can do: no step is faster than its floors."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sides import Sides
from benchmarks.timing import seconds

NO_TRAFFIC = ("empty", "detach", "_view")  # operators that move no data, beside views
SIDE, LENGTH = 2048, 2**26  # of the matrix product, of the copy


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write; a view moves none."""

    bytes = calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view and not any(name in func.name() for name in NO_TRAFFIC):
            tensors = tree_leaves((args, kwargs, out))
            self.bytes += sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))
            self.calls += 1
        return out


def work(sides: Sides) -> dict:
    """Operations and bytes of a training step of each side, and the speeds of the machine."""
    result = {}
    for name, net in (("ours", sides.ours), ("plain", sides.plain)):
        with FlopCounterMode(display=False) as flops, torch.inference_mode():
            net(sides.x0, torch.ones(len(sides.x0), dtype=torch.long, device=sides.device))
        with Traffic() as traffic:
            sides.train(net)
        result[name] = {
            "GFLOP": 3 * flops.get_total_flops() / 1e9,  # forward, and two products back
            "GB": traffic.bytes / 1e9,
            "operators": traffic.calls,
        }
    return result | speeds(sides.device)


def speeds(device: torch.device) -> dict[str, float]:
    def fastest(call: Callable[[], object]) -> float:
        return min(seconds(call, device) for _ in range(9))

    a = torch.randn(SIDE, SIDE, device=device)
    b = torch.randn(LENGTH, device=device)
    c = torch.empty_like(b)
    return {
        "product, GFLOP/s": 2 * SIDE**3 / fastest(lambda: a @ a) / 1e9,
        "copy, GB/s": 2 * b.nbytes / fastest(lambda: c.copy_(b)) / 1e9,
    }
