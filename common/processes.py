"""Several processes, started by torchrun, that share what is drawn.

Each process does every k-th piece of work; all of them get all results, in order, so that what is
computed from them is the same everywhere. Pieces are cut as one process cuts them: on equal
devices the results have the same bits. Without torchrun there is one process, and nothing is sent.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.utils import _pytree as tree

from common.errors import Stop, of_the_machine

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def join() -> None:
    """Meet the other processes of torchrun; once, and only under torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        import torch.distributed.nn  # noqa: F401  imported later, its defaults would keep the group

        distributed.init_process_group("gloo")  # of the CPU: what is sent is small
        # gloo's threads end with the group: one that drops a tensor after Python's end aborts
        atexit.register(distributed.destroy_process_group)


def refuse(command: str, instead: str = "") -> None:
    """A Stop under torchrun, for a command that shares no work; `instead` starts processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with_what = f", with {instead}" if instead else ""
        raise Stop(f"{command} shares no work: run it without torchrun{with_what}", code=2)


def size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def in_turn(
    pieces: Iterable[Piece], work: Callable[[Piece], Result], device: torch.device | str
) -> Iterator[Result]:
    """The result of every piece, in the order of the pieces, its tensors on the device."""
    if size() == 1:
        yield from map(work, pieces)
        return
    pieces = iter(pieces)
    while share := list(islice(pieces, size())):
        ours = work(share[rank()]) if rank() < len(share) else None
        results: list[Any] = [None] * size()
        with _together():
            distributed.all_gather_object(results, tree.tree_map(_to_send, ours))
        for result in results[: len(share)]:
            yield tree.tree_map(lambda value: _back(value, device), result)


def _to_send(value):
    return value.detach().cpu().clone() if torch.is_tensor(value) else value


def _back(value, device):
    return value.to(device) if torch.is_tensor(value) else value


def agree(*modules: nn.Module) -> None:
    """Give every process the first one's networks and schedules: on GPUs equal runs drift apart."""
    if size() > 1:
        with torch.no_grad(), _together():
            for group in _alike(modules):  # one message each
                ours = torch.cat([tensor.flatten() for tensor in group]).cpu()
                distributed.broadcast(ours, src=0)
                parts = ours.to(group[0].device).split([tensor.numel() for tensor in group])
                for tensor, part in zip(group, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))


def _alike(modules: tuple[nn.Module, ...]) -> Iterable[list[Tensor]]:
    """Their parameters and buffers, by type and device, in the same order in every process."""
    groups: dict[tuple, list[Tensor]] = {}
    for tensor in (t for m in modules for t in (*m.parameters(), *m.buffers())):
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return groups.values()


@contextmanager
def _together() -> Iterator[None]:
    """Around what all processes do at once; a Stop where another one has ended before."""
    try:
        yield
    except RuntimeError as error:
        if of_the_machine(error):  # our own
            raise
        raise Stop("another process of torchrun has ended, so this one cannot go on") from error


def meet() -> None:
    """Wait for the others; one that has gone would close what another still listens to."""
    if size() > 1:
        with _together():
            distributed.barrier()


@contextmanager
def one_writes(arguments: dict) -> Iterator[dict]:
    """The arguments of a run: under torchrun, all but the first process write to a copy.

    It is a folder that is deleted at the end; their standard output goes nowhere.
    """
    if rank() == 0:
        meet()  # when the others have copied what is resumed
        yield arguments
        meet()
        return
    with tempfile.TemporaryDirectory() as home, open(os.devnull, "w") as nowhere:
        changed = {"runs_dir": home}
        if arguments["resume"]:
            copy = Path(home) / Path(arguments["resume"]).name
            shutil.copytree(arguments["resume"], copy, ignore=shutil.ignore_patterns(".lock"))
            changed["resume"] = str(copy)
        meet()
        with redirect_stdout(nowhere):
            yield arguments | changed
        meet()
