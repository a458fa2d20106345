"""Is the penalty's gradient the true one: training again at another schedule, on the same draws?

python -m benchmarks.hypergradient

A small fully connected network learns the 8x8 digits at one schedule. From there it is trained
on at that schedule and at q +- h for each parameter, on the same batches, times and noise: the
change of F in all, and its direct part at fixed weights, are differences of values. The coupled
penalty gives the same two numbers from one run. F is the Frechet distance of the 64 pixels. Writes
docs/results/hypergradient.csv, a row a seed, gamma, exact_every and parameter.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.hypergradient"
    add = cli.adder(parser)
    add("seeds", 6, "problems, each with its own network and draws", type=cli.count)
    text = "steps that share one exact gradient, one value after the other"
    add("exact_every", [1, 10], text, type=cli.count, nargs="+")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from copy import deepcopy
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks.record import RESULTS
from common.data import Batches, Source, to_unit
from common.penalty import Penalty, PenaltySettings
from common.sampling import Sampler, SamplerSettings
from common.tables import write_csv
from common.training import Average, Learner, make_optimizer
from common.upper_level import UpperLevel, UpperSettings
from common.weights import evaluating
from metrics import Reference, frechet_distance
from model import Diffusion
from scheduler import Schedule

TABLE = RESULTS / "hypergradient.csv"
POINT = {"start": 0.1, "end": 0.97, "tau": 2.0, "epsilon": 0.02}
STEP = {"start": 0.05, "end": 0.02, "tau": 0.4, "epsilon": 0.01}
TIMESTEPS, DDIM_STEPS = 200, 10


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


class Problem:
    """A trained network, its schedule, and both levels."""

    def __init__(self, seed: int, train_steps: int = 3000, lr: float = 1e-3):
        torch.manual_seed(seed)
        images = Source("digits", "").images("train")
        self.seed, self.batches = seed, Batches(images, 128, seed)
        self.schedule = Schedule("cosine", TIMESTEPS, learned=True, **POINT)
        pixels = to_unit(images).flatten(1).double()
        judge = SimpleNamespace(
            extractor=lambda x: (x.clamp(-1, 1).flatten(1), None),
            reference=Reference(pixels.mean(0), pixels.T.cov(), len(pixels), "digits", "pixels"),
        )
        self.judge = judge
        self.sampler = self.sampler_of(self.schedule)
        # every noise is drawn once: both sides of a difference see the same
        self.noise = self.sampler.noise(2000, seed, "F")
        self.learner = self.learner_of(Mlp(), lr)
        levels = self.levels()
        for _ in range(train_steps):
            self.learner.step(self.sampler.process, levels)

    def sampler_of(self, schedule: Schedule) -> Sampler:
        return Sampler(Diffusion(schedule), SamplerSettings(DDIM_STEPS), (1, 8, 8))

    def levels(self):
        return self.sampler.process.levels_of(self.schedule.log_alpha_bar().detach())

    def learner_of(self, net: nn.Module, lr: float) -> Learner:
        return Learner(net, make_optimizer(net.parameters(), lr), self.batches, self.seed)

    def going_on(self, lr: float = 3e-4) -> Learner:
        """A copy of the trained network with its optimizer, at a constant and lower rate."""
        learner = self.learner_of(Mlp(), lr)
        learner.load_state_dict(deepcopy(self.learner.state_dict()))
        for group in learner.optimizer.param_groups:
            group["lr"] = lr
        return learner

    def retrained(self, values: dict, steps: int, memory: int) -> nn.Module:
        """The averaged network after so many more steps at another schedule."""
        process = Diffusion(Schedule("cosine", TIMESTEPS, **values))
        learner = self.going_on()
        average = Average(learner.net, 1 - 1 / memory, 1, 0)
        for _ in range(steps):
            learner.step(process)
            average.after_step(learner.net, learner.count)
        return average.model

    @torch.no_grad()
    def fid(self, net: nn.Module, values: dict) -> float:
        sampler = self.sampler_of(Schedule("cosine", TIMESTEPS, **values))
        parts = self.noise.split(500)  # as many distances, averaged
        with evaluating(net):
            found = [self.judge.extractor(sampler(net, x))[0] for x in parts]
        return sum(frechet_distance(f, self.judge.reference).item() for f in found) / len(parts)

    def truth(self, steps: int, memory: int) -> tuple[dict, dict]:
        """Half the change of F from q - h to q + h: in all, and at fixed weights."""
        base, total, direct = self.retrained(POINT, steps, memory), {}, {}
        for name, h in STEP.items():
            sides = [POINT | {name: POINT[name] + sign * h} for sign in (1, -1)]
            new = [self.fid(self.retrained(q, steps, memory), q) for q in sides]
            old = [self.fid(base, q) for q in sides]
            total[name], direct[name] = (new[0] - new[1]) / 2, (old[0] - old[1]) / 2
        return total, direct

    def penalty(self, settings: PenaltySettings, steps: int) -> tuple[dict, dict, Penalty]:
        """The implicit and the direct term, for a step of h each."""
        upper = UpperLevel(
            self.sampler, self.judge, self.schedule,
            UpperSettings(DDIM_STEPS, 128, self.seed, upper_gradient="exact", truncation=1.0),
        )  # fmt: skip
        penalty = Penalty(self.going_on(), self.going_on(), upper, settings)
        process, levels = self.sampler.process, self.levels()
        for _ in range(steps):
            penalty.step(process, levels)
        x0s = penalty.batches(self.batches)
        direct, implicit = (s.gradient for s in penalty.slopes(process, x0s, self.seed, 0))
        h = torch.tensor(list(STEP.values()), dtype=torch.float64)
        return *(
            dict(zip(STEP, (g * h).tolist(), strict=True)) for g in (implicit, direct)
        ), penalty


def cosine(ours: dict, theirs: dict) -> float:
    a, b = (torch.tensor([x[name] for name in STEP], dtype=torch.float64) for x in (ours, theirs))
    return (a @ b / a.norm() / b.norm()).item()


def compare(seed: int, exact_every: list[int], gammas: bool, steps: int = 400) -> list[dict]:
    """Rows of one problem: truth and penalty for a step of h in each parameter."""
    problem, rows, memory = Problem(seed), [], 100
    total, direct = problem.truth(steps, memory)
    true = {"total": total, "direct": direct}
    true["implicit"] = {name: total[name] - direct[name] for name in STEP}
    asked = [(None, every) for every in exact_every]
    for gamma, every in asked:
        settings = PenaltySettings(gamma, every, memory, batches=47)
        implicit, direct, penalty = problem.penalty(settings, steps)
        if gammas and not rows:
            asked += [(penalty.gamma * factor, every) for factor in (1e-3, 1e-2, 0.1, 10, 100)]
        ours = {"total": {n: implicit[n] + direct[n] for n in STEP}}
        ours |= {"direct": direct, "implicit": implicit}
        for name in STEP:
            row = {"seed": seed, "gamma": penalty.gamma, "auto": gamma is None}
            row |= {"exact_every": every, "parameter": name, "h": STEP[name]}
            for kind in true:
                row |= {f"true_{kind}": true[kind][name], kind: ours[kind][name]}
                row[f"cosine_{kind}"] = cosine(ours[kind], true[kind])
            rows.append(row)
            print({k: f"{v:.4g}" if type(v) is float else v for k, v in row.items()}, flush=True)
    return rows


def main(args) -> None:
    torch.set_num_threads(1)
    rows = [r for seed in range(args.seeds) for r in compare(seed, args.exact_every, seed == 0)]
    write_csv(
        TABLE, [{k: f"{v:.4g}" if type(v) is float else v for k, v in r.items()} for r in rows]
    )


if __name__ == "__main__":
    main(ARGS)
