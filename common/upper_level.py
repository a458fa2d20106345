"""The upper level: the FID of a few images as a function of the schedule and of the weights.

Its gradients are zeroth-order (two values of the FID, or one and the value before) or, for the few
parameters of a schedule, exact: forward mode through the whole DDIM chain, all parameters in one
pass, with no stored activations.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from common.errors import Stop, check_finite
from common.machine import stream
from common.run import Run
from common.sampling import Sampler
from metrics import frechet_distance
from model import Levels
from scheduler import Schedule


class Slope(NamedTuple):
    """A gradient, the value it was taken at, and the spread of the directions' estimates."""

    gradient: Tensor  # (p,)
    value: float
    spread: Tensor  # (p,), standard error over directions; 0 where there is one, or none is needed


class UpperLevel:
    """F(q, theta) = FID(images drawn with schedule q and network theta), and its two gradients."""

    def __init__(self, sampler: Sampler, judge: tuple, schedule: Schedule, args, run: Run):
        self.sampler = copy(sampler)
        self.sampler.eta = 0.0  # DDIM: the images are a function of q, theta and the noise alone
        self.sampler.steps = args.backward_steps
        # autocast does not reach dual numbers: forward mode is float32
        self.sampler.amp = args.amp and args.upper_gradient == "zo"
        self.extractor, self.reference = judge
        self.schedule, self.args, self.run = schedule, args, run
        self.last = {}  # the value before, for the one-point residual
        self.where = "the start"  # the phase, for what goes wrong in it

    def levels(self, q: Tensor) -> Levels:
        return self.sampler.diffusion.levels_of(self.schedule.curve(q))

    def fid(self, net: nn.Module, levels: Levels, noise: Tensor) -> Tensor:
        """F from given starting noise."""
        return self.distance(self.sampler(net, noise, levels=levels))

    def distance(self, images: Tensor) -> Tensor:
        """The FID of images; what is not finite in them ends the run."""
        try:
            return frechet_distance(self.extractor(images)[0], self.reference)
        except ValueError as error:
            raise Stop(f"the FID at {self.where}: {error}; nothing of it was saved") from None

    @torch.no_grad()
    def slope_of_weights(self, net: nn.Module, levels: Levels, step: int, where: str) -> Slope:
        """dF/dtheta, zeroth-order over all weights; they stay what they are, to the last bit."""

        self.where = where

        def values(points):
            found = []
            for point, noise in zip(points, self._noises(len(points), "z", step), strict=True):
                set_weights(net, point)
                found.append(self.fid(net, levels, noise))
            return torch.stack(found)

        with weights_kept(net), evaluating(net):
            return self._zeroth_order(values, flat(net), where, "z", step)

    @torch.no_grad()
    def slope_of_schedule(self, net: nn.Module, step: int, where: str) -> Slope:
        """dF/dq: exact in forward mode, or zeroth-order with all points drawn as one batch."""

        self.where = where

        def values(points):
            noises = self._noises(len(points), "q", step)  # (k,n,C,H,W)
            k, n = noises.shape[:2]
            each = (c.mT.repeat_interleave(n, 1) for c in vmap(self.levels)(points))
            levels = Levels(*(c[:, :, None, None, None] for c in each))  # (T+1,kn,1,1,1)
            images = self.sampler(net, noises.flatten(0, 1), levels=levels)
            return torch.stack([self.distance(part) for part in images.unflatten(0, (k, n))])

        q = self.schedule.vector()
        with evaluating(net):
            if self.args.upper_gradient == "zo":
                return self._zeroth_order(values, q, where, "q", step)
            noise = self._noises(1, "q", step)[0]
            self._count(len(noise) * len(q))  # a tangent costs about what its value costs
            slope = self.forward_slope(net, q, noise)
            check_finite(slope.value, "the FID", where)
            return slope

    def forward_slope(self, net: nn.Module, q: Tensor, noise: Tensor) -> Slope:
        """One tangent a parameter, carried along from the first step of the chain to the FID."""
        fixed, truncation = self.levels(q), self.args.truncation
        times = torch.arange(self.schedule.timesteps + 1, device=noise.device)
        near = times <= truncation * self.schedule.timesteps  # the part that is differentiated

        def value(q):
            levels = self.levels(q)
            if truncation < 1:
                pairs = zip(levels, fixed, strict=True)
                levels = Levels(*(torch.where(near, ours, theirs) for ours, theirs in pairs))
            return self.fid(net, levels, noise)

        directions = torch.eye(len(q), dtype=q.dtype, device=q.device)
        compiled = self.args.compile != "off"
        eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
        with eager, warnings.catch_warnings():  # torch's own, of what its jvp is made with
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            values, gradient = vmap(lambda z: jvp(value, (q,), (z,)))(directions)
        return Slope(gradient, values[0].item(), torch.zeros_like(gradient))

    def _noises(self, k, *names):
        """Starting noise for k points, (k,n,C,H,W): the same for all, or for each its own."""
        n, common = self.args.zo_samples, self.args.noise == "common"
        self._count(k * n)
        x = self.sampler.noise(n if common else k * n, self.args.seed, "upper", *names)
        return x.expand(k, *x.shape) if common else x.unflatten(0, (k, n))

    def _count(self, images):
        self.run.evaluations["upper"] += images * self.sampler.steps

    def _zeroth_order(self, values, p, where, *names):
        random = stream(p.device, self.args.seed, "direction", *names)
        shape = (self.args.zo_directions, len(p))
        z = torch.randn(shape, generator=random, device=p.device, dtype=p.dtype)
        if self.args.ZO_type == "two":
            slope = two_point(values, p, z, self.args.delta)
        else:
            slope = one_point(values, p, z, self.args.delta, self.last.get(names[0]))
        check_finite(slope.value, "the FID of a perturbed point", where)
        self.last[names[0]] = slope.value
        return slope


def two_point(values: Callable[[Tensor], Tensor], p: Tensor, z: Tensor, delta: float) -> Slope:
    """(F(p + delta z) - F(p - delta z))/(2 delta) z, averaged over the directions z (k,p).

    `values` takes the 2k points (k plus, then k minus) and returns their F.
    """
    points = torch.cat([p + delta * z, p - delta * z])
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
        each = torch.zeros_like(each)
    return Slope(each.mean(0), now.mean().item(), _standard_error(each))


def _standard_error(each):
    k = len(each)
    return each.std(0) / k**0.5 if k > 1 else torch.zeros_like(each[0])


def flat(net: nn.Module) -> Tensor:
    """All weights as one vector, a copy."""
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@contextmanager
def weights_kept(net: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the weights are afterwards what they were, to the last bit."""
    saved = [p.detach().clone() for p in net.parameters()]
    try:
        yield
    finally:
        set_weights(net, saved)


@torch.no_grad()
def set_weights(net: nn.Module, new: Tensor | list[Tensor]) -> None:
    """Copy weights into a network, in place: an optimizer that holds it holds it still."""
    parameters = list(net.parameters())
    if isinstance(new, Tensor):
        pieces = new.split([p.numel() for p in parameters])
        new = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
    torch._foreach_copy_(parameters, new)


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
