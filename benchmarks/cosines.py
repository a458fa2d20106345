"""Do gradients of the FID from independent noise agree, and what do they cost?

python -m benchmarks.cosines --ckpt CHECKPOINT [CHECKPOINT ...]

For each checkpoint, at its own schedule and perhaps at another --end: zeroth-order estimates,
forward mode and reverse mode, with all DDIM steps differentiated and with those left out that see
next to no signal. The cosine is the mean over all pairs of draws; a gradient without noise has
1. Time is the processor's, in samplings of as many images (no gradient); memory is what live
tensors hold at the peak, in training steps on as many images. Writes docs/results/cosines.csv, a
row an estimate.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.cosines"
    add = cli.adder(parser)
    add("ckpt", None, "checkpoints of runs", metavar="FILE", nargs="+", required=True)
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("n", 128, "images of an FID", type=cli.count)
    add("draws", 6, "draws of each estimate, from independent noise", type=cli.number(int, 2))
    add("backward_steps", 5, "DDIM steps per sampled image", type=cli.count)
    add("end", None, "values of `end` to measure at, beside the checkpoint's own",
        type=cli.parameter, nargs="*")  # fmt: skip
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import time
from functools import cached_property
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.estimators import Estimator
from benchmarks.live_memory import LiveMemory
from benchmarks.record import RESULTS
from common.objective import UpperSettings
from common.sampling import Sampler
from common.tables import rounded, write_csv
from common.training import draw
from common.upper_level import UpperLevel
from common.weights import evaluating

TABLE = RESULTS / "cosines.csv"
# label -> settings; what is differentiated
ESTIMATES = {
    "zeroth-order, two points": {"upper_gradient": "zo", "truncation": 1.0},
    "forward mode, all steps": {"upper_gradient": "forward", "truncation": 1.0},
    "forward mode": {"upper_gradient": "forward"},
    "reverse mode, all steps": {"upper_gradient": "exact", "truncation": 1.0},
    "reverse mode": {"upper_gradient": "exact"},
}


def cosine_of_pairs(gradients: list[Tensor]) -> float:
    pairs = combinations([g.double() / g.double().norm() for g in gradients], 2)
    cosines = [(a @ b).item() for a, b in pairs]
    return sum(cosines) / len(cosines)


class Cost:
    """Processor seconds and the peak of live bytes of calls."""

    def __init__(self, call):
        call()  # warm up
        began = time.process_time()
        call()
        self.seconds = time.process_time() - began
        with LiveMemory() as memory:
            call()
        self.bytes = memory.peak


class Yardstick:
    """What a sampling takes in time, and a training step in memory, on n images."""

    def __init__(self, net: nn.Module, sampler: Sampler, n: int):
        noise = sampler.noise(n, 0, "yardstick")
        process = sampler.process
        levels = process.levels_of(process.schedule.log_alpha_bar().detach())
        x0 = noise.clamp(-1, 1)

        def sample():
            with torch.no_grad(), evaluating(net):
                sampler(net, noise, levels=levels)

        def train():
            random = torch.Generator().manual_seed(0)
            net.train()
            loss = process.loss(net, x0, *draw(x0, process.schedule.timesteps, random), levels)
            torch.autograd.grad(loss, list(net.parameters()))
            net.eval()

        self.sample, self.train = sample, train

    @cached_property
    def sampling(self) -> Cost:
        return Cost(self.sample)

    @cached_property
    def step(self) -> Cost:
        return Cost(self.train)


def measure(name: str, estimator: Estimator, n: int, draws: int) -> list[dict]:
    """A row for each estimate and what it is differentiated in."""
    rows, yardstick = [], Yardstick(estimator.net, estimator.sampler, n)
    for label, options in ESTIMATES.items():
        settings = UpperSettings(estimator.sampler.steps, n, **options)
        upper = UpperLevel(estimator.sampler, estimator.judge, estimator.schedule, settings)
        calls = {"q": lambda step: upper.slope_of_schedule(estimator.net, step)}  # noqa: B023
        if settings.upper_gradient != "forward":
            calls["weights"] = lambda step: upper.slope_of_weights(estimator.net, step)  # noqa: B023
        for what, call in calls.items():
            slopes = [call(step).gradient for step in range(draws)]
            cost = Cost(lambda call=call: call(0))
            rows.append({
                "checkpoint": name, "end": estimator.schedule.values()["end"],
                "estimate": label, "gradient": what, "n": n, "draws": draws,
                "backward_steps": estimator.sampler.steps,
                "left_out": len(upper.left_out()) if settings.upper_gradient != "zo" else 0,
                "cosine": cosine_of_pairs(slopes),
                "norm": torch.stack(slopes).norm(dim=1).mean().item(),
                "samplings": cost.seconds / yardstick.sampling.seconds,
                "training_steps_of_memory": cost.bytes / yardstick.step.bytes,
            })  # fmt: skip
            print(rounded(rows[-1], 3), flush=True)
    return rows


def main(args) -> None:
    torch.set_num_threads(1)
    rows = []
    for path in args.ckpt:
        estimator = Estimator.load(path, args.data_dir, args.backward_steps, 0.01)
        estimator.net.requires_grad_(True)
        name = "/".join(Path(path).parts[-3::2])
        for end in [None, *(args.end or [])]:
            if end is not None:
                estimator.schedule.end.data.fill_(end)
            rows += measure(name, estimator, args.n, args.draws)
    write_csv(TABLE, [rounded(row, 4) for row in rows])


if __name__ == "__main__":
    main(ARGS)
