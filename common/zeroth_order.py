"""Zeroth-order gradients: differences of a function's values along random directions."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, cat, zeros_like


class Slope(NamedTuple):
    """A gradient, the value it was taken at, and the spread of the directions' estimates."""

    gradient: Tensor  # (p,)
    value: float
    spread: Tensor  # (p,), standard error over directions; 0 where there is one, or none is needed


def two_point(values: Callable[[Tensor], Tensor], p: Tensor, z: Tensor, delta: float) -> Slope:
    """(F(p + delta z) - F(p - delta z))/(2 delta) z, averaged over the directions z (k,p).

    `values` takes the 2k points (k plus, then k minus) and returns their F.
    """
    points = cat([p + delta * z, p - delta * z])
    plus, minus = values(points).chunk(2)
    each = ((plus - minus) / (2 * delta)).to(z)[:, None] * z  # (k,p)
    return Slope(each.mean(0), (plus + minus).mean().item() / 2, _standard_error(each))


def one_point(
    values: Callable[[Tensor], Tensor], p: Tensor, z: Tensor, delta: float, last: float | None
) -> Slope:
    """(F(p + delta z) - last)/delta z, the residual of the value that the call before returned."""
    now = values(p + delta * z)
    residual = now - (now.mean() if last is None else last)  # the first call has no residual
    each = (residual / delta).to(z)[:, None] * z
    if last is None:
        each = zeros_like(each)
    return Slope(each.mean(0), now.mean().item(), _standard_error(each))


def _standard_error(each):
    k = len(each)
    return each.std(0) / k**0.5 if k > 1 else zeros_like(each[0])
