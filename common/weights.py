"""All weights of a network as one vector, and states of a network that hold for a block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def flat(net: nn.Module) -> Tensor:
    """All weights as one vector, a copy."""
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@torch.no_grad()
def set_weights(net: nn.Module, new: Tensor | list[Tensor]) -> None:
    """Copy weights into a network, in place: an optimizer keeps its reference."""
    parameters: list[Tensor] = list(net.parameters())
    if isinstance(new, Tensor):
        pieces = new.split([p.numel() for p in parameters])
        new = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
    torch._foreach_copy_(parameters, new)


@contextmanager
def weights_kept(net: nn.Module) -> Iterator[None]:
    """Restore the weights bit for bit on leaving, also after an error."""
    saved = [p.detach().clone() for p in net.parameters()]
    try:
        yield
    finally:
        set_weights(net, saved)


@contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Batch norm with its running statistics, and not moved by what is done inside."""
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)
