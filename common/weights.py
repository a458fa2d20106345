"""All weights of a network as one vector, and states of a network that hold for a block."""

from collections.abc import Iterator, Sequence
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
        new = in_shapes(new, parameters)
    torch._foreach_copy_(parameters, new)


def in_shapes(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A vector over all weights as views, each in the shape of its parameter."""
    pieces = vector.split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def seen_by_loss(net: nn.Module) -> Tensor:
    """1 for every weight but those that L is blind to, (d,).

    Batch norm takes the bias of the convolution before it away, once its statistics have followed,
    and that of another batch norm if only a 1x1 convolution lies between the two: a constant stays
    one. dF/dtheta, with the statistics as they are, is not 0 there; nothing in L holds such a
    weight back, and AdamW would take full steps.
    """
    blind = set()
    for layers in map(layers_of, net.modules()):
        for layer, conv, norm in zip([None, *layers], layers, layers[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                blind.add(conv.bias)
                if isinstance(layer, nn.BatchNorm2d) and conv.kernel_size == (1, 1):
                    blind.add(layer.bias)
    seen = [torch.full_like(p.flatten(), float(p not in blind)) for p in net.parameters()]
    return torch.cat(seen).detach()


def layers_of(block: nn.Module) -> list[nn.Module]:
    """The layers of a Sequential, those of the Sequentials in it among them."""
    if not isinstance(block, nn.Sequential):
        return []
    return [layer for child in block for layer in layers_of(child) or [child]]


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
