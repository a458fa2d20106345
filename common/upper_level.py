"""The upper level: the FID of a few images as a function of the schedule and of the weights.

Its gradients are zeroth-order (two values of the FID, or one and the value before) or exact. In
forward mode a tangent for each parameter of the schedule goes along from the first DDIM step to the
FID, with no stored activations. In reverse mode one backward pass gives dF/dq and dF/dtheta; each
DDIM step is computed again when the pass reaches it, so that memory is one training step's.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.utils.checkpoint import checkpoint

from common import processes
from common.errors import NotFinite, Stop, at, check_finite
from common.families import box_of, scales_of
from common.fast_layers import frozen
from common.judging import Judge
from common.machine import stream
from common.processes import agree, in_turn
from common.sampling import Sampler
from common.weights import evaluating, flat, set_weights, weights_kept
from common.zeroth_order import Slope, one_point, two_point
from metrics import frechet_distance, largest_of
from model import Levels, visited_times
from scheduler import Schedule, projected

# x_0 = (x_t - noise eps)/signal: below this signal a derivative through a step is that of the few
# pixels that are not clipped, times 1/signal, and nothing but noise
LEAST_SIGNAL = 0.05


@dataclass(frozen=True)
class UpperSettings:
    """How the FID of the upper level is drawn and differentiated."""

    backward_steps: int
    samples: int
    seed: int = 0
    directions: int = 1
    zo_type: str = "two"
    delta: float = 0.01
    perturbation: str = "scaled"  # of q: to its scales and inside its bounds, or as published
    noise: str = "common"  # starting noise on the sides of a difference
    upper_gradient: str = "zo"
    truncation: float | None = None  # times above this part of T are constants; None: LEAST_SIGNAL
    at_once: int = 128  # images whose DDIM step is stored at once in reverse mode
    amp: bool = False
    eager: bool = False  # exact gradients run without the compiler

    @classmethod
    def from_flags(
        cls, *, backward_steps, zo_samples, seed, zo_directions, ZO_type, delta,
        perturbation, noise, upper_gradient, truncation, batch_size, amp, compile, **_,
    ) -> "UpperSettings":  # fmt: skip
        """The settings that the bilevel script's flags ask for; other flags are left alone."""
        return cls(
            backward_steps, zo_samples, seed, zo_directions, ZO_type, delta, perturbation,
            noise, upper_gradient, truncation, batch_size, amp, compile != "off",
        )  # fmt: skip


class UpperLevel:
    """F(q, theta) = FID(images drawn with schedule q and network theta), and its two gradients."""

    def __init__(
        self,
        sampler: Sampler,
        judge: Judge,
        schedule: Schedule,
        settings: UpperSettings,
        evaluations: Counter | None = None,
    ):
        # DDIM: the images are a function of q, theta and the noise alone. Autocast does not reach
        # dual numbers, and exact gradients are worth their digits
        amp = settings.amp and settings.upper_gradient == "zo"
        graphs = sampler.settings.graphs and settings.upper_gradient == "zo"  # values alone
        drawn = replace(
            sampler.settings, eta=0.0, steps=settings.backward_steps, amp=amp, graphs=graphs
        )
        self.sampler, self.judge = Sampler(sampler.process, drawn, sampler.shape), judge
        self.schedule, self.settings = schedule, settings
        self.evaluations = Counter() if evaluations is None else evaluations
        self.last = {}  # the value before, for the one-point residual

    def state_dict(self) -> dict:
        return {"last": dict(self.last)}

    def load_state_dict(self, state: dict) -> None:
        self.last = dict(state["last"])

    def levels(self, q: Tensor) -> Levels:
        return self.sampler.process.levels_of(self.schedule.curve(q))

    def features(self, net: nn.Module, levels: Levels, noise: Tensor, **options) -> Tensor:
        """The features of the images that starting noise becomes, (n,d)."""
        return self.judge.extractor(self.sampler(net, noise, levels=levels, **options))[0]

    def fid(self, net: nn.Module, levels: Levels, noise: Tensor, **options) -> Tensor:
        """F from given starting noise."""
        return self.distance(self.features(net, levels, noise, **options))

    def distances(self, features: Tensor) -> Tensor:
        """The FIDs of the images of k points, (k,n,d) -> (k,); all are checked at once."""
        largest = largest_of(features)
        return torch.stack([self.distance(part, largest) for part in features])

    def distance(self, features: Tensor, largest: float | None = None) -> Tensor:
        """The FID of features; what is not finite in them ends the run."""
        try:
            return frechet_distance(features, self.judge.reference, largest)
        except ValueError as error:
            raise NotFinite(f"the FID ({error})") from None

    @at("theta_z")
    @torch.no_grad()
    def slope_of_weights(self, net: nn.Module, step: int) -> Slope:
        """dF/dtheta, exact or zeroth-order; the weights stay what they are, to the last bit."""
        levels = self.levels(self.schedule.vector())

        def values(points):
            noises = self._noises(len(points), *self._of_a_difference("z", step))
            pairs = zip(points, noises, strict=True)
            return self.distances(torch.stack(list(in_turn(pairs, at_point, self.sampler.device))))

        def at_point(pair):
            point, noise = pair
            set_weights(net, point)
            return self.features(net, levels, noise)

        agree(net)
        if self.settings.upper_gradient == "exact":
            return self.slopes(net, step, "z")[1]
        with weights_kept(net), evaluating(net):
            return self._zeroth_order(values, flat(net), "z", step)

    @at("the schedule")
    @torch.no_grad()
    def slope_of_schedule(self, net: nn.Module, step: int) -> Slope:
        """dF/dq: exact in either mode, or zeroth-order with all points drawn as one batch."""

        def values(points):
            if self.settings.perturbation == "scaled":
                points = projected(self.schedule.family, list(self.schedule.q), points)
            noises = self._noises(len(points), *self._of_a_difference("q", step))  # (k,n,C,H,W)
            k, n = noises.shape[:2]
            each = (c.mT.repeat_interleave(n, 1) for c in vmap(self.levels)(points))
            levels = Levels(*(c[:, :, None, None, None] for c in each))  # (T+1,kn,1,1,1)
            parts = range(processes.size())  # one batch where there is one process
            cut = [c.tensor_split(len(parts), 1) for c in levels]
            noises = noises.flatten(0, 1).tensor_split(len(parts))

            def features(part):
                return self.features(net, Levels(*(c[part] for c in cut)), noises[part])

            found = torch.cat(list(in_turn(parts, features, self.sampler.device)))
            return self.distances(found.unflatten(0, (k, n)))

        agree(net)
        q = self.schedule.vector()
        if self.settings.upper_gradient == "exact":
            return self.slopes(net, step, "q", weights=False)[0]
        with evaluating(net):
            if self.settings.upper_gradient == "zo":
                return self._zeroth_order(values, q, "q", step)
            noise = self._noises(1, "q", step)[0]
            self._count(len(noise) * len(q))  # a tangent costs about what its value costs
            return self._checked(self.forward_slope(net, q, noise), net, noise)

    def slopes(self, net: nn.Module, step: int, name: str, weights: bool = True) -> list[Slope]:
        """dF/dq and, unless told otherwise, dF/dtheta from one backward pass."""
        noise = self._noises(1, name, step)[0]
        # two forward passes and a backward one, which costs two; the first of them is counted
        self._count(len(noise) * (3 if len(noise) <= self.settings.at_once else 4))
        with evaluating(net):
            found = self.reverse_slopes(net, self.schedule.vector(), noise, weights)
        return [self._checked(slope, net, noise) for slope in found]

    def forward_slope(self, net: nn.Module, q: Tensor, noise: Tensor) -> Slope:
        """One tangent a parameter, carried along from the first step of the chain to the FID."""
        directions = torch.eye(len(q), dtype=q.dtype, device=q.device)
        fixed = self.levels(q)
        value = lambda q: self.fid(net, self._differentiated(q, fixed), noise)  # noqa: E731
        with self._eager(), warnings.catch_warnings():  # torch's own, of what its jvp is made with
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            slopes = vmap(lambda z: jvp(value, (q,), (z,))[:2])(directions)
        values, gradient = slopes
        return Slope(gradient, values[0].item(), torch.zeros_like(gradient))

    @torch.enable_grad()
    def reverse_slopes(
        self, net: nn.Module, q: Tensor, noise: Tensor, weights: bool = True, store: bool = False
    ) -> list[Slope]:
        """dF/dq, and dF/dtheta, by one backward pass through the FID and the whole chain.

        Each DDIM step is computed again on the way back, unless `store` keeps all of them. More
        images than are stored at once are drawn once more, without a graph, to learn dF/dfeatures.
        """
        q, fixed = q.detach().requires_grad_(), self.levels(q.detach())
        wanted = [q, *(net.parameters() if weights else ())]
        options: dict[str, Any] = {"constant_above": self._last_time(fixed)}
        if not store:
            options["around"] = recomputed

        def features(noise):
            levels = self._differentiated(q, fixed)
            return self.judge.extractor(self.sampler(net, noise, levels=levels, **options))[0]

        def gradients(images_to_value, noise):  # the fold holds until the last step is recomputed
            with self._eager(), frozen(net):
                value = images_to_value(features(noise))
                return value, torch.autograd.grad(value, wanted, materialize_grads=True)

        parts = noise.split(self.settings.at_once)
        if len(parts) == 1:
            value, found = gradients(self.distance, noise)
        else:
            with torch.no_grad():
                leaf = torch.cat(list(in_turn(parts, features, self.sampler.device)))
            value = self.distance(leaf.requires_grad_())
            outer = torch.autograd.grad(value, leaf)[0].split(self.settings.at_once)

            def of_part(pair):
                part, g = pair
                return gradients(lambda f: (f * g).sum(), part)[1]

            pairs = zip(parts, outer, strict=True)
            each = list(in_turn(pairs, of_part, self.sampler.device))
            found = [sum(part) for part in zip(*each, strict=True)]
        found = [found[0], *([torch.cat([g.flatten() for g in found[1:]])] if weights else [])]
        return [Slope(g, value.item(), torch.zeros_like(g)) for g in found]

    def left_out(self) -> list[int]:
        """The visited times that exact gradients take as constant, in a sampler's order."""
        with torch.no_grad():
            last = self._last_time(self.levels(self.schedule.vector()))
        drawn = self.sampler.settings
        times = visited_times(self.schedule.timesteps, drawn.steps, drawn.tau_type)
        return [t for t in times[::-1] if t > last]

    def _last_time(self, levels: Levels) -> int:
        """The latest time whose step is differentiated."""
        if self.settings.truncation is not None:
            return math.floor(self.settings.truncation * self.schedule.timesteps)
        return int((levels.signal >= LEAST_SIGNAL).sum()) - 1  # the signal falls

    def _differentiated(self, q, fixed):
        """The levels of q, those of later times than the last as constants."""
        near = torch.arange(len(fixed.signal), device=fixed.signal.device) <= self._last_time(fixed)
        pairs = zip(self.levels(q), fixed, strict=True)
        return Levels(*(torch.where(near, ours, theirs) for ours, theirs in pairs))

    def _eager(self):
        return torch.compiler.set_stance("force_eager") if self.settings.eager else nullcontext()

    def _checked(self, slope, net, noise):
        check_finite(slope.value, "the FID")
        if not slope.gradient.any():
            raise Stop(f"the exact gradient of the FID is 0: {self._why_zero(net, noise)}")
        return slope

    @torch.no_grad()
    def _why_zero(self, net, noise):
        """The first cause that is found, and what to do about it."""
        if len(self.left_out()) == self.sampler.steps:
            return "no DDIM step is differentiated; raise --truncation"
        with evaluating(net):
            images = self.sampler(net, noise)
        if images.abs().min() >= 1:
            return (
                "every pixel lies outside [-1, 1], where it is clipped. Start with --initial_end "
                "0.98, or sample without --no_clip"
            )
        jacobian = torch.autograd.functional.jacobian(self.schedule.curve, self.schedule.vector())
        if not jacobian.any():
            return (
                "the parameters do not move the schedule, whose every step is as long as a step "
                "may be; start with another schedule"
            )
        return "the features of --extractor are the same for all these images; train for longer"

    def _noises(self, k, *names):
        """Starting noise for k points, (k,n,C,H,W): the same for all, or for each its own."""
        n, common = self.settings.samples, self.settings.noise == "common"
        self._count(k * n)
        x = self.sampler.noise(n if common else k * n, self.settings.seed, "upper", *names)
        return x.expand(k, *x.shape) if common else x.unflatten(0, (k, n))

    def _count(self, images):
        self.evaluations["upper"] += images * self.sampler.steps

    def _of_a_difference(self, name, step):
        # the one-point residual is a difference from the step before: what is common has no step
        one = self.settings.zo_type == "one" and self.settings.noise == "common"
        return (name,) if one else (name, step)

    def _zeroth_order(self, values, p, name, step):
        s = self.settings
        random = stream(p.device, s.seed, "direction", name, step)
        z = torch.randn((s.directions, len(p)), generator=random, device=p.device, dtype=p.dtype)
        delta, box = s.delta, None
        if name == "q" and s.perturbation == "scaled":
            family, names = self.schedule.family, list(self.schedule.q)
            delta = s.delta * p.new_tensor(scales_of(family, names))
            low, high = box_of(family, names)
            box = p.new_tensor(low), p.new_tensor(high)
        if s.zo_type == "two":
            slope = two_point(values, p, z, delta, box)
        else:
            slope = one_point(values, p, z, delta, self.last.get(name), box)
        check_finite(slope.value, "the FID of a perturbed point")
        self.last[name] = slope.value
        return slope


def recomputed(step: Callable, *args) -> Tensor:
    """A step whose activations are not stored: it runs again when the backward pass needs them."""
    return checkpoint(step, *args, use_reentrant=False, preserve_rng_state=False)
