"""The penalty as it was published: a theta_z with draws, rate and optimizer of its own.

theta_z takes a few steps on L(., q) + F/gamma for each update of q, and q descends

    (1/gamma) dF/dq at theta_z  +  dL/dq(theta_z) - dL/dq(theta_y).

The two networks differ for many reasons beside the FID, and the difference shows all of them;
common/penalty.py couples them. The interface is the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.data import Batches
from common.machine import stream
from common.training import Learner, draw
from common.upper_level import UpperLevel
from common.weights import evaluating, seen_by_loss
from model import Diffusion, Levels


@dataclass(frozen=True)
class UncoupledSettings:
    """The steps of theta_z, and how gamma goes on a straight line over the updates."""

    steps: int = 1  # of theta_z for each update
    recopied: bool = False  # theta_z becomes theta_y before each update
    common_noise: bool = True  # the same times and noise on both sides of the difference
    gamma: float = 1.0
    gamma_end: float = 1.0

    @classmethod
    def from_flags(
        cls, *, inner_loop_z, theta_z, noise, gamma, gamma_end, **_
    ) -> "UncoupledSettings":
        """The settings that the bilevel script's flags ask for; other flags are left alone."""
        return cls(inner_loop_z, theta_z == "recopied", noise == "common", gamma, gamma_end)


class Uncoupled:
    """theta_z on its own, and the gradient of the penalty in q."""

    def __init__(
        self,
        theta_y: Learner,
        theta_z: Learner,
        upper: UpperLevel,
        settings: UncoupledSettings,
        updates: int,
    ):
        self.theta_y, self.theta_z, self.upper = theta_y, theta_z, upper
        self.settings, self.updates = settings, updates
        self.seen = seen_by_loss(theta_z.net)
        self.latest: dict[str, float] = {}  # what the last update saw
        self.direct: Tensor | None = None  # its dF/dq

    def step(self, process: Diffusion, levels: Levels) -> float:
        """Algorithm 6's step of theta_y, which goes alone."""
        return self.theta_y.step(process, levels)

    def due(self, inner_loop: int = 1) -> bool:
        """The schedule moves at every iteration."""
        return True

    def training_steps(self, inner_loop: int) -> int:
        """Batches, forward and backward, of an iteration: two of them for the difference."""
        return inner_loop + self.settings.steps + 2

    def batches(self, data: Batches, iteration: int) -> Iterator[Tensor]:
        """The batch of the difference: that of the iteration, counted in theta_y's own epochs."""
        batches = self.theta_y.batches
        yield batches(*divmod(iteration, batches.steps))

    def slope(
        self, process: Diffusion, batches: Iterable[Tensor], seed: int, update: int
    ) -> Tensor:
        """The gradient of Algorithm 6's update of q, (p,), after theta_z has taken its steps."""
        s, net_z, net_y = self.settings, self.theta_z.net, self.theta_y.net
        gamma = s.gamma + (s.gamma_end - s.gamma) * update / max(1, self.updates - 1)
        levels = process.levels_of(process.schedule.log_alpha_bar().detach())
        if update == 0 or s.recopied:
            net_z.load_state_dict(net_y.state_dict())  # in place: an optimizer holds the weights

        # theta_z follows argmin F/gamma + L(., q)
        for _ in range(s.steps):
            of_weights = self.upper.slope_of_weights(net_z, self.theta_z.count)
            pull = of_weights.gradient * self.seen / gamma
            loss_z = self.theta_z.step(process, levels, pull)

        of_q = self.upper.slope_of_schedule(net_z, update)
        (x0,) = batches
        difference = loss_difference(process, net_z, net_y, x0, seed, update, s.common_noise)
        self.direct = of_q.gradient if update else None  # the first one-point estimate is 0
        self.latest = {"loss_z": loss_z, "fid": of_q.value, "gamma": gamma}
        return of_q.gradient / gamma + difference

    @property
    def flat(self) -> bool:
        """Whether the latest dF/dq is exactly 0."""
        return self.direct is not None and not self.direct.any()

    def warning(self) -> None:
        """theta_z has steps of its own, and nothing is asked of them."""

    def row(self) -> dict[str, float]:
        """What a line of the log says of theta_z."""
        return self.latest

    def state_dict(self) -> dict:
        return {"latest": dict(self.latest)}

    def load_state_dict(self, state: dict) -> None:
        self.latest = dict(state["latest"])


def loss_difference(
    process: Diffusion,
    net_z: nn.Module,
    net_y: nn.Module,
    x0: Tensor,
    seed: int,
    update: int,
    common_noise: bool = True,
) -> Tensor:
    """dL/dq(theta_z) - dL/dq(theta_y) on one batch; on the same times and noise, or not; (p,)."""
    timesteps, device = process.schedule.timesteps, x0.device
    randoms = [stream(device, seed, "difference", update) for _ in range(2)]
    if not common_noise:
        randoms[1] = stream(device, seed, "difference, other side", update)
    q, slopes = list(process.schedule.parameters()), []
    with evaluating(net_z, net_y):
        for net, random in zip((net_z, net_y), randoms, strict=True):
            loss = process.loss(net, x0, *draw(x0, timesteps, random))  # never in bfloat16
            # in turn: both graphs at once would need more memory than a training step
            slopes.append(torch.stack(torch.autograd.grad(loss, q)))
    return slopes[0] - slopes[1]
