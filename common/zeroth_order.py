"""Zeroth-order gradients: differences of a function's values along random directions.

A point outside the bounds of a parameter says nothing about a schedule that could be used. With a
`box` every point is moved to the nearest inside. For a standard normal z and the displacement d of
a coordinate, E[d z] = E[dd/dz] = delta P(p + delta z inside), by Stein's lemma: this takes the
place of delta in the quotient, which stays unbiased for a linear function. On a bound it is half.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, cat, zeros_like
from torch.special import ndtr

Box = tuple[Tensor, Tensor]  # lower and upper bounds, (p,) each


class Slope(NamedTuple):
    """A gradient, the mean of the values that it was made of, and the spread of the estimates."""

    gradient: Tensor  # (p,)
    value: float
    spread: Tensor  # (p,), standard error over directions; 0 where there is one, or none is needed


def two_point(
    values: Callable[[Tensor], Tensor],
    p: Tensor,
    z: Tensor,
    delta: float | Tensor,
    box: Box | None = None,
) -> Slope:
    """(F(p + delta z) - F(p - delta z))/(2 delta) z, averaged over the directions z (k,p).

    `values` takes the 2k points (k plus, then k minus) and returns their F. `delta` may differ from
    parameter to parameter, (p,).
    """
    points = cat([p + delta * z, p - delta * z])
    plus, minus = values(_inside(points, box)).chunk(2)
    each = (plus - minus).to(z)[:, None] * z / (2 * _lengths(p, delta, box))  # (k,p)
    return Slope(each.mean(0), (plus + minus).mean().item() / 2, _standard_error(each))


def one_point(
    values: Callable[[Tensor], Tensor],
    p: Tensor,
    z: Tensor,
    delta: float | Tensor,
    last: float | None,
    box: Box | None = None,
) -> Slope:
    """(F(p + delta z) - last)/delta z, the residual of the value that the call before returned."""
    now = values(_inside(p + delta * z, box))
    residual = now - (now.mean() if last is None else last)  # the first call has no residual
    each = residual.to(z)[:, None] * z / _lengths(p, delta, box)
    if last is None:
        each = zeros_like(each)
    return Slope(each.mean(0), now.mean().item(), _standard_error(each))


def _inside(points, box):
    return points if box is None else points.clamp(*box)


def _lengths(p, delta, box):
    if box is None:
        return delta
    low, high = box
    return delta * (ndtr((high - p) / delta) - ndtr((low - p) / delta))


def _standard_error(each):
    k = len(each)
    return each.std(0) / k**0.5 if k > 1 else zeros_like(each[0])
