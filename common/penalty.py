"""The penalty whose gradient is the hypergradient: theta_z goes beside theta_y, and gamma is large.

The gradient of F(q, argmin L(., q)) has a direct term, dF/dq at fixed weights, and an implicit one.
With theta_y = argmin L and theta_z = argmin F/gamma + L the implicit term is the limit of

    gamma [dL/dq(theta_z) - dL/dq(theta_y)]        for gamma to infinity.

Neither argmin is ever reached, and what differs between two networks for any other reason counts
gamma times. So theta_z begins as theta_y and takes every step beside it: the same batch, times,
noise, learning rate and optimizer, with the exact dF/dtheta/gamma on top and nothing else.

At a high learning rate training is chaotic: two networks part whatever first set them apart, and
their difference is no response to F any more. theta_z then begins again as theta_y.
"""

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from common.batch_norm import has_batch_norm, through_statistics
from common.data import Batches
from common.machine import stream
from common.training import Average, Learner, draw
from common.upper_level import UpperLevel
from common.weights import evaluating, flat, seen_by_loss
from common.zeroth_order import Slope
from model import Diffusion, Levels

F_OVER_L = 1e-4  # F/gamma as a part of L: small enough for theta_z to stay at argmin L
LEFT = 0.05  # theta_z has left argmin L where its loss is higher by this part
PARTED = 2e-3  # |theta_z - theta_y|/|theta_y| where it grows by itself: measured, .0003 or .01
STATISTICS_BATCHES = 2  # training batches that say how batch norm's statistics follow the weights
ROUNDING = 1e-6  # |theta_z - theta_y|/|theta_y| below which the difference is one of rounding


@dataclass(frozen=True)
class PenaltySettings:
    """How theta_z is coupled to theta_y, and how often the schedule moves."""

    gamma: float | None = None  # None: from the sizes of F and L at the first gradient
    exact_every: int = 1  # steps that share one dF/dtheta
    average_steps: int = 100  # memory of the averages on both sides of the difference
    settle_steps: int = 0  # coupled steps before the schedule moves: the response takes that long
    update_every: int = 1  # steps from one update of the schedule to the next
    batches: int = 1  # of the difference

    def gradients(self, steps: int) -> int:
        """Exact gradients in so many coupled steps."""
        return -(-steps // self.exact_every)

    def due(self, steps: int, inner_loop: int = 1) -> bool:
        """Whether the schedule moves after so many steps, the last `inner_loop` since it could."""
        last = max(self.settle_steps, steps - inner_loop)
        return steps // self.update_every > last // self.update_every

    def updates(self, iterations: int, inner_loop: int = 1) -> int:
        """Updates of the schedule in so many coupled iterations."""
        # due() telescopes once the schedule has settled: no loop over the iterations
        first = self.settle_steps // inner_loop + 1
        if iterations < first:
            return 0
        if inner_loop >= self.update_every:
            later = iterations - first
        else:
            ends = (i * inner_loop // self.update_every for i in (iterations, first))
            later = next(ends) - next(ends)
        return later + self.due(first * inner_loop, inner_loop)

    @classmethod
    def from_flags(
        cls, *, gamma, exact_every, average_steps, settle_steps, update_every,
        difference_batches, **_,
    ) -> "PenaltySettings":  # fmt: skip
        """The settings that the bilevel script's flags ask for; other flags are left alone."""
        gamma = None if gamma == "auto" else gamma
        return cls(
            gamma, exact_every, average_steps, settle_steps, update_every, difference_batches
        )


class Penalty:
    """theta_z beside theta_y, their averages, and the gradient of the penalty in q."""

    def __init__(
        self,
        theta_y: Learner,
        theta_z: Learner,
        upper: UpperLevel,
        settings: PenaltySettings,
    ):
        self.theta_y, self.theta_z, self.upper = theta_y, theta_z, upper
        theta_z.name = theta_y.name  # the same draws at the same count
        self.settings = settings
        self.gamma: float | None = settings.gamma
        self.steps = 0  # taken side by side
        self.began = 0  # the step at which theta_z last was theta_y
        decay = 1 - 1 / settings.average_steps
        # without the average, the noise of the last few steps would count gamma times
        self.averages = [Average(learner.net, decay, 1, 0) for learner in (theta_z, theta_y)]
        self.seen = seen_by_loss(theta_z.net)
        self.pull: Tensor | None = None  # dF/dtheta at theta_z, as of its last evaluation
        self.direct = []  # dF/dq at theta_z and F, of the evaluations for one update of q
        self.evaluated = 0  # the step of the last of them
        self.used = False  # whether an update has been made of them
        self.losses = [0.0, 0.0]  # of theta_z and theta_y, summed since the last report
        self.loss_z = math.nan
        self.terms = []  # the direct and the implicit term of the last update

    def begin(self) -> None:
        """theta_z becomes theta_y: weights, optimizer, draws."""
        self.began = self.steps
        self.theta_z.load_state_dict(deepcopy(self.theta_y.state_dict()))
        self.losses, self.direct = [0.0, 0.0], []
        for average in self.averages:
            average.model.n_averaged.zero_()  # the next update is a copy

    @property
    def flat(self) -> bool:
        """Whether the latest dF/dq is exactly 0."""
        return bool(self.direct) and not self.direct[-1].gradient.any()

    def due(self, inner_loop: int = 1) -> bool:
        """Whether the schedule is to move after an iteration of so many steps."""
        return self.settled() and self.settings.due(self.steps, inner_loop)

    def settled(self) -> bool:
        """Whether theta_z has had the time to respond to F since it last was theta_y."""
        return self.steps - self.began >= self.settings.settle_steps

    def step(self, process: Diffusion, levels: Levels) -> float:
        """Algorithm 6's steps of theta_y and theta_z, one of each; returns the loss of theta_y."""
        z, y = self.theta_z, self.theta_y
        if self.steps % self.settings.exact_every == 0:
            if not self.steps or self.parted():
                self.begin()
            of_q, of_weights = self.upper.slopes(z.net, y.count, "z")
            whole = self.through_statistics(of_weights.gradient, process, levels)
            self.pull = whole * self.seen  # 0 where only rounding is left
            self.direct = [of_q] if self.used else [*self.direct, of_q]
            self.used, self.evaluated = False, self.steps
        for ours, theirs in zip(z.optimizer.param_groups, y.optimizer.param_groups, strict=True):
            # not the rate alone: OneCycle also moves the first beta
            ours.update({name: value for name, value in theirs.items() if name != "params"})
        loss_y = y.step(process, levels)
        if self.gamma is None:
            self.gamma = gamma_for(self.direct[0].value, loss_y)
        assert self.pull is not None  # from this step or one before
        self.loss_z = z.step(process, levels, self.pull / self.gamma)
        for average, learner in zip(self.averages, (z, y), strict=True):
            average.after_step(learner.net, learner.count)
        self.steps += 1
        self.losses = [self.losses[0] + self.loss_z, self.losses[1] + loss_y]
        return loss_y

    def parted(self) -> bool:
        """Whether theta_z is further away than a gamma chosen from F and L would take it."""
        chosen = self.settings.gamma is None  # one given by hand may take it anywhere
        return chosen and self.distance() > PARTED

    def distance(self) -> float:
        """|theta_z - theta_y|/|theta_y|, the difference without what L is blind to."""
        ours, theirs = flat(self.theta_z.net), flat(self.theta_y.net)
        return ((ours - theirs).mul_(self.seen).norm() / theirs.norm()).item()

    def through_statistics(self, gradient: Tensor, process: Diffusion, levels: Levels) -> Tensor:
        """dF/dtheta with batch norm's statistics following, as they do in the next steps."""
        z = self.theta_z
        if not has_batch_norm(z.net):
            return gradient
        runs = [partial(z.loss, process, levels, z.count + i) for i in range(STATISTICS_BATCHES)]
        return through_statistics(z.net, gradient, runs)

    def training_steps(self, inner_loop: int) -> int:
        """Batches, forward and backward, of an iteration that just ended."""
        before = self.settings.gradients(self.steps - inner_loop)
        exact = self.settings.gradients(self.steps) - before
        compared = self.settings.batches * self.due(inner_loop)
        return 2 * inner_loop + 2 * compared + STATISTICS_BATCHES * exact

    def batches(self, data: Batches, iteration: int = 0) -> Iterator[Tensor]:
        """Batches for the difference of one update, in an order that no epoch has."""
        for i in range(self.settings.batches):
            part, i = divmod(i, data.steps)
            yield data(-1 - self.steps - part, i)

    def slope(
        self, process: Diffusion, batches: Iterable[Tensor], seed: int, update: int
    ) -> Tensor:
        """dF/dq in all, (p,): the direct and the implicit term of Algorithm 6's update of q."""
        self.terms = list(self.slopes(process, batches, seed, update))
        return self.terms[0].gradient + self.terms[1].gradient

    def slopes(
        self, process: Diffusion, batches: Iterable[Tensor], seed: int, update: int
    ) -> tuple[Slope, Slope]:
        """The direct and the implicit term, with F and the standard error of each."""
        each = torch.stack([slope.gradient for slope in self.direct])
        value = sum(slope.value for slope in self.direct) / len(self.direct)
        net_z, net_y = (average.model for average in self.averages)
        difference = loss_differences(process, net_z, net_y, batches, seed, update)
        self.used = True
        assert self.gamma is not None  # the first step sets it
        return summary_of(each, value), summary_of(self.gamma * difference, value)

    def row(self) -> dict[str, float]:
        """What a line of the log says of theta_z."""
        return {
            "loss_z": self.loss_z,
            "fid": self.direct[-1].value,
            "gamma": self.gamma,
            "direct_n": len(self.direct),
            "direct_age": self.steps - self.evaluated,
        }

    def warning(self) -> str | None:
        """What makes the difference of the losses say something else than the implicit term."""
        if not self.steps:
            return None
        loss_z, loss_y = self.losses
        self.losses = [0.0, 0.0]
        if loss_z > (1 + LEFT) * loss_y:
            part = loss_z / loss_y - 1
            return (
                f"theta_z has left argmin L, its loss is {part:.0%} higher: raise --gamma tenfold"
            )
        if self.began:
            return (
                f"theta_z and theta_y parted by themselves, and began again together at step "
                f"{self.began} of theta_z: a lower --lr keeps them together"
            )
        if self.settled() and self.distance() < ROUNDING:
            return "theta_z and theta_y differ by little more than rounding: lower --gamma"
        return None

    def state_dict(self) -> dict:
        return {
            "averages": [average.state_dict() for average in self.averages],
            "gamma": self.gamma,
            "steps": self.steps,
            "began": self.began,
            "pull": self.pull,
            "direct": [tuple(slope) for slope in self.direct],
            "used": self.used,
            "evaluated": self.evaluated,
            "terms": [tuple(slope) for slope in self.terms],
            "loss_z": self.loss_z,
            "losses": list(self.losses),
        }

    def load_state_dict(self, state: dict) -> None:
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.load_state_dict(saved)
        self.gamma, self.steps, pull = state["gamma"], state["steps"], state["pull"]
        # a checkpoint is read on the host
        self.pull = None if pull is None else pull.to(self.seen.device)
        home = self.upper.schedule.vector().device
        self.direct, self.terms = (
            [Slope(g.to(home), value, spread.to(home)) for g, value, spread in state[name]]
            for name in ("direct", "terms")
        )
        self.used, self.losses, self.loss_z = state["used"], list(state["losses"]), state["loss_z"]
        self.evaluated, self.began = state["evaluated"], state["began"]


def gamma_for(fid: float, loss: float) -> float:
    """A gamma from the sizes of F and L, to one digit."""
    gamma = max(fid, 1e-12) / (F_OVER_L * loss)
    digit = 10 ** math.floor(math.log10(gamma))
    return round(gamma / digit) * digit


def loss_differences(
    process: Diffusion,
    net_z: nn.Module,
    net_y: nn.Module,
    batches: Iterable[Tensor],
    seed: int,
    update: int,
) -> Tensor:
    """dL/dq(theta_z) - dL/dq(theta_y) batch by batch, on the same times and noise: (k,p)."""
    q, differences = list(process.schedule.parameters()), []
    with evaluating(net_z, net_y):
        for i, x0 in enumerate(batches):
            sides = []
            for net in (net_z, net_y):
                random = stream(x0.device, seed, "difference", update, i)
                loss = process.loss(net, x0, *draw(x0, process.schedule.timesteps, random))
                sides.append(torch.stack(torch.autograd.grad(loss, q)))
            differences.append(sides[0] - sides[1])
    return torch.stack(differences)


def summary_of(each: Tensor, value: float) -> Slope:
    """The mean of estimates (k,p) and its standard error; infinite where there is one estimate."""
    k = len(each)
    spread = each.std(0) / k**0.5 if k > 1 else torch.full_like(each[0], math.inf)
    return Slope(each.mean(0), value, spread)
