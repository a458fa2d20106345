"""Stands in for a CUDA graph on the CPU: operators are recorded once and replayed on their memory.

As on a GPU, a replay sees no number of the host, no branch and no tensor but those of the
recording. What a capture refuses is refused: to wait for a number, to draw from a generator.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Refused(RuntimeError):
    """What ends a capture on a GPU."""


class Tape(TorchDispatchMode):
    """The operators that run inside; `replay` runs them again."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITS or torch.Tag.nondeterministic_seeded in func.tags:
            raise Refused(str(func))
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            results = tree_leaves(func(*args, **kwargs))
            for memory, result in zip(tree_leaves(out), results, strict=True):
                # a view, and what was changed in place, is there already
                if isinstance(result, torch.Tensor) and memory.data_ptr() != result.data_ptr():
                    memory.copy_(result)


def record(run: Callable[[], Any], warm_up: int) -> Callable[[], Any]:
    """In place of graphs.record_cuda."""
    for _ in range(warm_up):
        run()
    tape = Tape()
    with tape:
        outputs = run()

    def replay():
        tape.replay()
        return outputs

    return replay
