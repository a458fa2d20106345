"""A problem whose hypergradient is known: a small network that learns the 8x8 digits.

It is trained at one schedule. From there it is trained on at that schedule and at q +- h for each
parameter, on the same batches, times and noise: the change of F in all, and its direct part at
fixed weights, are differences of values. F is the Frechet distance of the 64 pixels.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from common.data import Batches, Source, to_unit
from common.fast_unet import FastUNet
from common.judging import Judge
from common.objective import UpperSettings
from common.penalty import Penalty, PenaltySettings
from common.sampling import Sampler, SamplerSettings
from common.training import Average, Learner, make_optimizer
from common.upper_level import UpperLevel
from common.weights import evaluating
from metrics import Reference, frechet_distance
from model import Diffusion
from scheduler import Schedule

# at the first the direct and the implicit term all but cancel, at the second they do not
POINTS = {
    "flat": {"start": 0.1, "end": 0.97, "tau": 2.0, "epsilon": 0.02},
    "steep": {"start": 0.3, "end": 0.9, "tau": 1.5, "epsilon": 0.02},
}
STEP = {"start": 0.05, "end": 0.02, "tau": 0.4, "epsilon": 0.01}
TIMESTEPS, DDIM_STEPS = 200, 10
LOW_RATE = 3e-4  # of everything that is compared


class Mlp(nn.Module):
    """eps(x_t, t) of 8x8 images, without batch norm."""

    def __init__(self, width: int = 128, timesteps: int = TIMESTEPS):
        super().__init__()
        self.embed = nn.Embedding(timesteps, 32)
        layers = [nn.Linear(64 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Linear(width, 64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.embed(t - 1).expand(len(x), -1)
        return self.body(torch.cat([x.flatten(1), time], 1)).view_as(x)


@dataclass(frozen=True)
class Kind:
    """A network, how it is trained, and how long its response to another schedule is followed."""

    network: Callable[[], nn.Module] = Mlp
    timesteps: int = TIMESTEPS
    ddim_steps: int = DDIM_STEPS
    train_steps: int = 3000
    lr: float = 1e-3
    steps: int = 400  # at q and at q +- h
    memory: int = 100  # of the averages, in steps
    batch_size: int = 128
    fid_images: int = 2000


KINDS = {
    "mlp": Kind(),
    "unet": Kind(lambda: FastUNet(8, timesteps=100), 100, 5, 500, 3e-3, 80, 25, 64, 1000),
}


class Pixels:
    """An extractor without weights: the pixels, clipped."""

    name, dim, weights_hash = "pixels", 64, ""

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        return x.clamp(-1, 1).flatten(1), None


class Problem:
    """A trained network, its schedule, and both levels."""

    def __init__(
        self,
        seed: int,
        kind: Kind = KINDS["mlp"],
        train_steps: int | None = None,
        point: str = "flat",
    ):
        torch.manual_seed(seed)
        self.point = POINTS[point]
        images = Source("digits").images("train")
        self.seed, self.kind, self.batches = seed, kind, Batches(images, kind.batch_size, seed)
        self.schedule = Schedule("cosine", kind.timesteps, learned=True, **self.point)
        pixels = to_unit(images).flatten(1).double()
        moments = pixels.mean(0), pixels.T.cov(), len(pixels)
        self.judge = Judge(Pixels(), Reference(*moments, "digits", Pixels.name))
        self.sampler = self.sampler_of(self.schedule)
        # every noise is drawn once: both sides of a difference see the same
        self.noise = self.sampler.noise(kind.fid_images, seed, "F")
        self.learner = self.learner_of(kind.network(), kind.lr)
        self.train(kind.train_steps if train_steps is None else train_steps)

    def sampler_of(self, schedule: Schedule) -> Sampler:
        return Sampler(Diffusion(schedule), SamplerSettings(self.kind.ddim_steps), (1, 8, 8))

    def levels(self):
        return self.sampler.process.levels_of(self.schedule.log_alpha_bar().detach())

    def learner_of(self, net: nn.Module, lr: float) -> Learner:
        return Learner(net, make_optimizer(net.parameters(), lr), self.batches, self.seed)

    def train(self, steps: int) -> None:
        levels = self.levels()
        for _ in range(steps):
            self.learner.step(self.sampler.process, levels)

    def train_further(self, steps: int) -> None:
        """At the lower rate, before anything is compared."""
        self.learner = self.going_on()
        self.train(steps)

    def going_on(self) -> Learner:
        """A copy of the trained network with its optimizer, at a constant and lower rate."""
        learner = self.learner_of(self.kind.network(), LOW_RATE)
        learner.load_state_dict(deepcopy(self.learner.state_dict()))
        for group in learner.optimizer.param_groups:
            group["lr"] = LOW_RATE
        return learner

    def process_of(self, values: dict) -> Diffusion:
        return Diffusion(Schedule("cosine", self.kind.timesteps, **values))

    def retrained(self, values: dict, steps: int, memory: int) -> nn.Module:
        """The averaged network after so many more steps at another schedule."""
        process, learner = self.process_of(values), self.going_on()
        average = Average(learner.net, 1 - 1 / memory, 1, 0)
        for _ in range(steps):
            learner.step(process)
            average.after_step(learner.net, learner.count)
        return average.model

    @torch.no_grad()
    def fid(self, net: nn.Module, values: dict) -> float:
        sampler = self.sampler_of(self.process_of(values).schedule)
        parts = self.noise.split(500)  # as many distances, averaged
        with evaluating(net):
            features = [self.judge.extractor(sampler(net, x))[0] for x in parts]
        distances = [frechet_distance(f, self.judge.reference).item() for f in features]
        return sum(distances) / len(distances)

    def truth(self, steps: int | None = None, memory: int | None = None) -> tuple[dict, dict]:
        """Half the change of F from q - h to q + h: in all, and at fixed weights."""
        steps, memory = steps or self.kind.steps, memory or self.kind.memory
        base, total, direct = self.retrained(self.point, steps, memory), {}, {}
        for name, h in STEP.items():
            sides = [self.point | {name: self.point[name] + sign * h} for sign in (1, -1)]
            new = [self.fid(self.retrained(q, steps, memory), q) for q in sides]
            old = [self.fid(base, q) for q in sides]
            total[name], direct[name] = (new[0] - new[1]) / 2, (old[0] - old[1]) / 2
        return total, direct

    def upper(self) -> UpperLevel:
        """Exact gradients of 128 images, every DDIM step differentiated."""
        settings = UpperSettings(
            self.kind.ddim_steps, 128, self.seed, upper_gradient="exact", truncation=1.0
        )
        return UpperLevel(self.sampler, self.judge, self.schedule, settings)

    def penalty(
        self,
        settings: PenaltySettings,
        steps: int | None = None,
        upper: UpperLevel | None = None,
    ) -> Penalty:
        """theta_z coupled to theta_y for so many steps."""
        penalty = Penalty(self.going_on(), self.going_on(), upper or self.upper(), settings)
        process, levels = self.sampler.process, self.levels()
        for _ in range(steps or self.kind.steps):
            penalty.step(process, levels)
        return penalty

    def terms(self, penalty: Penalty, batches: int | None = None) -> tuple[dict, dict]:
        """The implicit and the direct term for a step of h each, on the first of the batches."""
        x0s = islice(penalty.batches(self.batches), batches)
        slopes = penalty.slopes(self.sampler.process, x0s, self.seed, 0)
        h = torch.tensor(list(STEP.values()), dtype=torch.float64)
        direct, implicit = (dict(zip(STEP, (s.gradient * h).tolist(), strict=True)) for s in slopes)
        return implicit, direct


def cosine(ours: dict, theirs: dict) -> float:
    a, b = (torch.tensor([x[name] for name in STEP], dtype=torch.float64) for x in (ours, theirs))
    return (a @ b / a.norm() / b.norm()).item()
