"""The gradients of the upper level as the bilevel methods ask for them, zeroth-order or exact.

A zeroth-order gradient is made of two values of the FID, or of one and the value before; the exact
ones are those of common/exact_gradients.py.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.func import vmap

from common import processes
from common.errors import Stop, at, check_finite
from common.exact_gradients import ExactGradients, samplings_of_gradient
from common.families import box_of, scales_of
from common.machine import stream
from common.processes import agree, in_turn
from common.weights import evaluating, flat, set_weights, weights_kept
from common.zeroth_order import Slope, one_point, two_point
from model import Levels
from scheduler import projected


class UpperLevel(ExactGradients):
    """F(q, theta) and its two gradients, at a step that names the noise."""

    last: Mapping[str, float] = MappingProxyType({})  # values before, for the one-point residual
    sloped = False  # whether an exact gradient has been other than 0

    def state_dict(self) -> dict:
        return {"last": dict(self.last), "sloped": self.sloped}

    def load_state_dict(self, state: dict) -> None:
        self.last = dict(state["last"])
        self.sloped = state.get("sloped", False)  # not in older checkpoints

    @at("theta_z")
    @torch.no_grad()
    def slope_of_weights(self, net: nn.Module, step: int) -> Slope:
        """dF/dtheta, exact or zeroth-order; the weights stay what they are, to the last bit."""
        if self.settings.upper_gradient == "exact":
            return self.slopes(net, step, "z")[1]
        agree(net, self.schedule)
        levels = self.levels(self.schedule.vector())

        def values(points):
            noises = self.noises(len(points), *self._of_a_difference("z", step))
            pairs = zip(points, noises, strict=True)
            return self.distances(torch.stack(list(in_turn(pairs, at_point, self.sampler.device))))

        def at_point(pair):
            point, noise = pair
            set_weights(net, point)
            return self.features(net, levels, noise)

        with weights_kept(net), evaluating(net):
            return self._zeroth_order(values, flat(net), "z", step)

    @at("the schedule")
    @torch.no_grad()
    def slope_of_schedule(self, net: nn.Module, step: int) -> Slope:
        """dF/dq: exact in either mode, or zeroth-order with all points drawn as one batch."""

        def values(points):
            if self.settings.perturbation == "scaled":
                points = projected(self.schedule.family, list(self.schedule.q), points)
            noises = self.noises(len(points), *self._of_a_difference("q", step))  # (k,n,C,H,W)
            k, n = noises.shape[:2]
            each = (c.mT.repeat_interleave(n, 1) for c in vmap(self.levels)(points))
            levels = Levels(*(c[:, :, None, None, None] for c in each))  # (T+1,kn,1,1,1)
            parts = range(processes.size())  # one batch where there is one process
            cut = [c.tensor_split(len(parts), 1) for c in levels]
            noises = noises.flatten(0, 1).tensor_split(len(parts))

            def features(part):
                return self.features(net, Levels(*(c[part] for c in cut)), noises[part])

            all_features = torch.cat(list(in_turn(parts, features, self.sampler.device)))
            return self.distances(all_features.unflatten(0, (k, n)))

        if self.settings.upper_gradient == "exact":
            return self.slopes(net, step, "q", weights=False)[0]
        agree(net, self.schedule)
        q = self.schedule.vector()
        with evaluating(net):
            if self.settings.upper_gradient == "zo":
                return self._zeroth_order(values, q, "q", step)
            noise = self.noises(1, "q", step)[0]
            self.count(len(noise) * len(q))  # a tangent costs about what its value costs
            return self._checked([self.forward_slope(net, q, noise)], net, noise)[0]

    def slopes(self, net: nn.Module, step: int, name: str, weights: bool = True) -> list[Slope]:
        """dF/dq and, unless told otherwise, dF/dtheta from one backward pass."""
        agree(net, self.schedule)
        noise = self.noises(1, name, step)[0]
        # the first sampling is counted with its noise
        self.count(len(noise) * (samplings_of_gradient(len(noise), self.settings.at_once) - 1))
        with evaluating(net):
            slopes = self.reverse_slopes(net, self.schedule.vector(), noise, weights)
        return self._checked(slopes, net, noise)

    def _checked(self, slopes: list[Slope], net: nn.Module, noise: Tensor) -> list[Slope]:
        """The slopes; an FID that is not finite ends the run, and so does a first gradient of 0."""
        for slope in slopes:
            check_finite(slope.value, "the FID")
        if not self.sloped and not all(slope.gradient.any() for slope in slopes):
            raise Stop(f"the exact gradient of the FID is 0: {self.why_zero(net, noise)}")
        self.sloped = True
        return slopes

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
        self.last = {**self.last, name: slope.value}
        return slope
