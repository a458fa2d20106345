"""How long do the points of the learning-rate study take to generate, beside their floor?

python -m benchmarks.lr_sampling            prints, writes docs/results/lr_sampling.json
python -m benchmarks.lr_sampling --quick    one turn of 100 points, writes nothing

Measured in turns in one process: the network as in sampling, where the points share the time and
its part of the first layer is one row; the network as in training, with a time for each point; and
a large matrix product, whose speed gives the floor. On one thread, in seconds of CPU time, which
other programs on the machine do not lengthen as they do the time on the clock.
"""

from common import cli

POINTS = 10000
SIDE = 1024  # of the large product


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.lr_sampling"
    parser.add_argument("--turns", type=cli.count, default=5, help="turns, whose median counts")
    parser.add_argument(
        "--quick", action="store_true", help="one turn of 100 points; writes nothing"
    )
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from functools import partial
from statistics import median

import torch

from benchmarks.record import command_line, load_average, write_json
from benchmarks.timing import cpu_seconds
from model import Diffusion
from scheduler import Schedule
from studies.lr_schedules.judging import sample
from studies.lr_schedules.stack import BLOCKS, EMBEDDING, HIDDEN
from studies.lr_schedules.together import TIMESTEPS, first_net


def gflop(points: int) -> float:
    """The matrix products of a sampling, the time's part of the first layer once a step."""
    weights = 2 * EMBEDDING * HIDDEN + BLOCKS * HIDDEN**2 + 2 * HIDDEN
    return 2e-9 * points * TIMESTEPS * weights


def measure(points: int, turns: int) -> dict:
    """Medians over the turns, in seconds of CPU time, and the speed of a large product."""
    net = first_net(0).requires_grad_(False)
    process = Diffusion(Schedule("ddpm_unscaled", TIMESTEPS))
    start = torch.randn(points, 2, generator=torch.manual_seed(0))
    a = torch.randn(SIDE, SIDE)
    networks = {"shared_time": net, "time_each": lambda x, t: net(x, t.expand(len(x)))}
    times = {name: [] for name in networks}
    product = []
    for _ in range(turns):
        product.append(min(cpu_seconds(lambda: a @ a) for _ in range(5)))
        for name, network in networks.items():
            run = partial(sample, process, network, start, seed=0)
            times[name].append(cpu_seconds(run))
    speed = 2e-9 * SIDE**3 / median(product)
    return {
        "points": points,
        "sampling_steps": TIMESTEPS,
        **{name: median(values) for name, values in times.items()},
        "floor": gflop(points) / speed,
        "gflop": gflop(points),
        "gflops_per_second": speed,
        "turns": turns,
        "load": load_average(),
    }


def main(args) -> None:
    torch.set_num_threads(1)
    result = measure(100 if args.quick else POINTS, 1 if args.quick else args.turns)
    for name, value in result.items():
        print(f"{name:20s} {value:.4g}")
    if not args.quick:
        write_json("lr_sampling", {"command": command_line("lr_sampling"), **result})


if __name__ == "__main__":
    main(ARGS)
