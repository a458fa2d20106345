"""How fast do the runs of the learning-rate study train together, beside one after another?

python -m benchmarks.lr_training            prints the table, writes docs/results/lr_speed.json
python -m benchmarks.lr_training --quick    2 steps a turn, writes nothing

Plain is what one would write first: a module, AdamW with its defaults, clip_grad_norm_, an
averaged model, a run at a time. Both take the same batches, and turns, in one process. The floor is
the products of matrices alone, at the speed of a large one measured in the same turns.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.lr_training"
    add = cli.adder(parser)
    add("quick", False, "take 2 turns of 2 steps and write nothing", action="store_true")
    add("threads", 0, "CPU threads; 0: as many as torch takes", type=cli.threads)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import copy
import json
import statistics

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.record import load_average, write_json
from benchmarks.timing import seconds
from common.training import LRSchedule
from model import Diffusion
from scheduler import Schedule
from studies.lr_schedules import together
from studies.lr_schedules.options import LR_SCHEDULES, SETS
from studies.lr_schedules.recipes import the_five
from studies.lr_schedules.stack import BLOCKS, EMBEDDING, HIDDEN

BATCH, RATE, STEPS, EPOCH = 256, 3e-4, 10000, 390
SIDE = 1024  # of the large product


class Plain:
    """One run, as plain PyTorch writes it; the same numbers as a row of together.Together."""

    def __init__(self, recipe, lr: float, steps: int, epoch: int, net):
        self.net, self.steps, self.epoch, self.done = copy.deepcopy(net), steps, epoch, 0
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=lr)
        self.lr_schedule = LRSchedule(recipe.lr_schedule, self.optimizer, steps, **recipe.options)
        average = get_ema_multi_avg_fn(together.EMA_DECAY)
        self.ema = AveragedModel(self.net, multi_avg_fn=average)
        self.epoch_loss = 0.0

    def step(self, process, x0, t, eps) -> float:
        loss = process.loss(self.net, x0, t, eps)
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.net.parameters(), together.MAX_NORM)
        self.optimizer.step()
        self.lr_schedule.after_step()
        self.done += 1
        self.epoch_loss += loss.item()
        if self.done % together.EMA_STEPS == 0 or self.done == self.steps:
            self.ema.update_parameters(self.net)
        if self.done % self.epoch == 0:
            self.lr_schedule.after_epoch(self.epoch_loss / self.epoch)
            self.epoch_loss = 0.0
        return loss.item()


def flops() -> float:
    """Of the matrix products of one run's step: forward, and back to weights and layers."""
    first = 3 * EMBEDDING * HIDDEN
    rest = BLOCKS * HIDDEN**2 + 2 * HIDDEN
    return 2 * BATCH * (2 * first + 3 * rest)  # nothing goes back through the first layer


class Sides:
    """All runs of the study twice: one after another, and together; both take the same steps."""

    def __init__(self):
        self.process = Diffusion(Schedule("ddpm_unscaled", together.TIMESTEPS))
        self.data = {name: torch.randn(10000, 2) for name in SETS}
        recipes, net = the_five({}), together.first_net(0)
        self.plains = {n: [Plain(r, RATE, STEPS, EPOCH, net) for r in recipes] for n in SETS}
        self.groups = {n: together.Together(recipes, RATE, STEPS, EPOCH, net) for n in SETS}

    def one_after_another(self, steps: range) -> None:
        for name, runs in self.plains.items():
            for run in runs:
                for step in steps:
                    x0s, t, eps = together.batch({name: self.data[name]}, BATCH, 0, step)
                    run.step(self.process, x0s[name], t, eps)

    def together(self, steps: range) -> None:
        for step in steps:
            x0s, t, eps = together.batch(self.data, BATCH, 0, step)
            for name, group in self.groups.items():
                group.step(self.process, x0s[name], t, eps)


def times_of_turns(turns: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step of all 20 runs in each turn, and of a large product."""
    sides = Sides()
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    times = {"plain": [], "together": [], "product": []}
    for turn in range(turns + 1):
        of_turn = range(turn * steps, (turn + 1) * steps)
        measured = {
            "plain": seconds(lambda of_turn=of_turn: sides.one_after_another(of_turn)) / steps,
            "together": seconds(lambda of_turn=of_turn: sides.together(of_turn)) / steps,
            "product": min(seconds(lambda: a @ b) for _ in range(5)),
        }
        for name, value in measured.items():
            if turn:  # the first turn warms up
                times[name].append(value)
    return times


def measure(turns: int, steps: int) -> dict:
    """Medians over the turns, in seconds, and what the processor could do."""
    times = times_of_turns(turns, steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [p / t for p, t in zip(times["plain"], times["together"], strict=True)]
    speed = 2 * SIDE**3 / medians.pop("product")
    runs = len(SETS) * len(LR_SCHEDULES)
    return {
        **medians,
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "floor": runs * flops() / speed,
        "gflops_per_second": speed / 1e9,
        "gflop_per_step": runs * flops() / 1e9,
        "runs": runs,
        "turns": turns,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "load": load_average(),
    }


def main(args) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    result = measure(*((2, 2) if args.quick else (7, 20)))
    print(json.dumps(result, indent=2))
    if not args.quick:
        write_json("lr_speed", result)


if __name__ == "__main__":
    main(ARGS)
