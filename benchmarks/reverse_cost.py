"""What do exact gradients of both levels cost at the published width, in time and memory?

python -m benchmarks.reverse_cost
python -m benchmarks.reverse_cost --steps 100 --repeats 2

A network of random weights, base 64 and T = 1000, draws 36 images of 28x28, in a few numbers of
DDIM steps: dF/dq and dF/dtheta from one backward pass. Time is the processor's, in samplings of as
many images, both sides in turn; memory is that of live tensors at the peak, in training steps on as
many images. Writes docs/results/reverse_cost.csv, a row a width and number of steps; the rows of
others stay.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.reverse_cost"
    add = cli.adder(parser)
    add("steps", [5, 15], "numbers of DDIM steps", type=cli.count, nargs="+")
    add("images", 36, "images of an FID", type=cli.count)
    add("base", 64, "width of the network", type=cli.count)
    add(
        "repeats", 3, "times that each side is measured, in turn; the median counts", type=cli.count
    )
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.cosines import Yardstick
from benchmarks.live_memory import LiveMemory
from benchmarks.record import RESULTS
from common.extractors import load_extractor
from common.fast_unet import FastUNet
from common.judging import Judge
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.tables import read_csv, rounded, write_csv
from common.upper_level import UpperLevel
from metrics import Reference
from model import Diffusion
from scheduler import Schedule

TABLE = RESULTS / "reverse_cost.csv"


def in_turn(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Processor seconds of each call: the median over the repeats."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, each in zip(calls, seconds, strict=True):
            began = time.process_time()
            call()
            each.append(time.process_time() - began)
    return [median(each) for each in seconds]


def measure(steps: int, images: int, base: int, repeats: int) -> dict:
    torch.manual_seed(0)
    schedule = Schedule("cosine", 1000, learned=True, end=0.95)
    net = FastUNet(base, timesteps=1000).eval()
    sampler = Sampler(Diffusion(schedule), SamplerSettings(steps), (1, 28, 28))
    extractor = load_extractor("mnist", "cpu")
    with torch.no_grad():
        x = extractor(torch.rand(400, 1, 28, 28) * 2 - 1)[0].double()
    judge = Judge(extractor, Reference(x.mean(0), x.T.cov(), len(x), "noise", "mnist"))
    yardstick = Yardstick(net, sampler, images)
    settings = UpperSettings(steps, images, upper_gradient="exact", truncation=1.0)
    upper = UpperLevel(sampler, judge, schedule, settings)
    with LiveMemory() as memory:  # this call also warms up
        upper.slopes(net, 0, "z")
    sampling, reverse = in_turn([yardstick.sample, lambda: upper.slopes(net, 0, "z")], repeats)
    return {
        "base": base, "images": images, "backward_steps": steps, "repeats": repeats,
        "sampling_seconds": sampling, "seconds": reverse, "samplings": reverse / sampling,
        "training_steps_of_memory": memory.peak / yardstick.step.bytes, "bytes": memory.peak,
    }  # fmt: skip


def main(args) -> None:
    torch.set_num_threads(1)
    rows = read_csv(TABLE) if TABLE.exists() else []
    for steps in args.steps:
        row = measure(steps, args.images, args.base, args.repeats)
        rows = [r for r in rows if (r["base"], r["backward_steps"]) != (args.base, steps)]
        rows.append(rounded(row, 4))
        print(rows[-1], flush=True)
        rows = [{name: r.get(name) for name in row} for r in rows]  # older rows lack a column
        rows.sort(key=lambda r: (-int(r["base"]), int(r["backward_steps"])))
        write_csv(TABLE, rows)


if __name__ == "__main__":
    main(ARGS)
