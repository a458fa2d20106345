"""Exact gradients of the upper level's FID, in forward and in reverse mode.

In forward mode a tangent for each parameter of the schedule goes along from the first DDIM step to
the FID, with no stored activations. In reverse mode one backward pass gives dF/dq and dF/dtheta;
each DDIM step is computed again when the pass reaches it, so that memory is one training step's.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.utils.checkpoint import checkpoint

from common.fast_layers import frozen
from common.objective import Objective
from common.processes import in_turn
from common.weights import evaluating
from common.zeroth_order import Slope
from model import Levels, visited_times

# x_0 = (x_t - noise eps)/signal: below this signal a derivative through a step is that of the few
# pixels that are not clipped, times 1/signal, and nothing but noise
LEAST_SIGNAL = 0.05


class ExactGradients(Objective):
    """dF/dq and dF/dtheta, but for the DDIM steps that are taken as constant."""

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

        def features_of(noise):
            return self.features(net, self._differentiated(q, fixed), noise, **options)

        def gradients(images_to_value, noise):  # the fold holds until the last step is recomputed
            with self._eager(), frozen(net):
                value = images_to_value(features_of(noise))
                return value, torch.autograd.grad(value, wanted, materialize_grads=True)

        parts = noise.split(self.settings.at_once)
        if len(parts) == 1:
            value, grads = gradients(self.distance, noise)
        else:
            with torch.no_grad():
                leaf = torch.cat(list(in_turn(parts, features_of, self.sampler.device)))
            value = self.distance(leaf.requires_grad_())
            outer = torch.autograd.grad(value, leaf)[0].split(self.settings.at_once)

            def of_part(pair):
                part, g = pair
                return gradients(lambda f: (f * g).sum(), part)[1]

            pairs = zip(parts, outer, strict=True)
            each = list(in_turn(pairs, of_part, self.sampler.device))
            grads = [sum(part) for part in zip(*each, strict=True)]
        of_weights = [torch.cat([g.flatten() for g in grads[1:]])] if weights else []
        # under torchrun the sum is on the sampler's device; a frozen run's schedule is on the CPU
        grads = [grads[0].to(q.device), *of_weights]
        return [Slope(g, value.item(), torch.zeros_like(g)) for g in grads]

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
            # .29 of 100 times are 29, whatever the product is in floating point
            return math.floor(round(self.settings.truncation * self.schedule.timesteps, 9))
        return int((levels.signal >= LEAST_SIGNAL).sum()) - 1  # the signal falls

    def _differentiated(self, q, fixed):
        """The levels of q, those of later times than the last as constants."""
        near = torch.arange(len(fixed.signal), device=fixed.signal.device) <= self._last_time(fixed)
        pairs = zip(self.levels(q), fixed, strict=True)
        return Levels(*(torch.where(near, ours, theirs) for ours, theirs in pairs))

    def _eager(self):
        return torch.compiler.set_stance("force_eager") if self.settings.eager else nullcontext()

    @torch.no_grad()
    def why_zero(self, net, noise):
        """The first cause that is found, and what to do about it."""
        if self.sampler.settings.eps_scale == 0:
            return "--eps_scale 0 leaves the network out"
        if len(self.left_out()) == self.sampler.steps:
            return "no DDIM step is differentiated; raise --truncation"
        with evaluating(net):
            images = self.sampler(net, noise)
        if images.abs().min() >= 1:
            return (
                "every pixel lies outside [-1, 1], where it is clipped. Start at a lower "
                "--initial_end (0.98 for cosine and linear), or sample without --no_clip"
            )
        jacobian = torch.autograd.functional.jacobian(self.schedule.curve, self.schedule.vector())
        if not jacobian.any():
            return (
                "the parameters do not move the schedule, whose every step is as long as a step "
                "may be; start with another schedule"
            )
        return "the features of --extractor are the same for all these images; train for longer"


def samplings_of_gradient(zo_samples: int, batch_size: int) -> int:
    """Samplings that a gradient in reverse mode costs; two of them are the backward pass's."""
    return 4 if zo_samples <= batch_size else 5  # in parts, whose FID is computed first


def recomputed(step: Callable, *args) -> Tensor:
    """A step whose activations are not stored: it runs again when the backward pass needs them."""
    return checkpoint(step, *args, use_reentrant=False, preserve_rng_state=False)
