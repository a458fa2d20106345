"""What do exact gradients of both levels cost at the published width, in time and memory?

python -m benchmarks.reverse_cost

A network of random weights, base 64 and T = 1000, draws 36 images of 28x28, in a few numbers of
DDIM steps: dF/dq and dF/dtheta from one backward pass. Time is the processor's, in samplings of as
many images; memory is that of live tensors at the peak, in training steps on as many images. Writes
docs/results/reverse_cost.csv, a row a number of steps.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.reverse_cost"
    add = cli.adder(parser)
    add("steps", [5, 15], "numbers of DDIM steps", type=cli.count, nargs="+")
    add("images", 36, "images of an FID", type=cli.count)
    add("base", 64, "width of the network", type=cli.count)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from types import SimpleNamespace

import torch

from benchmarks.cosines import Cost, Yardstick
from benchmarks.record import RESULTS
from common.extractors import load_extractor
from common.fast_unet import FastUNet
from common.sampling import Sampler, SamplerSettings
from common.tables import write_csv
from common.upper_level import UpperLevel, UpperSettings
from metrics import Reference
from model import Diffusion
from scheduler import Schedule


def measure(steps: int, images: int, base: int) -> dict:
    torch.manual_seed(0)
    schedule = Schedule("cosine", 1000, learned=True, end=0.95)
    net = FastUNet(base, timesteps=1000).eval()
    sampler = Sampler(Diffusion(schedule), SamplerSettings(steps), (1, 28, 28))
    extractor = load_extractor("mnist", "cpu")
    with torch.no_grad():
        x = extractor(torch.rand(400, 1, 28, 28) * 2 - 1)[0].double()
    judge = SimpleNamespace(
        extractor=extractor, reference=Reference(x.mean(0), x.T.cov(), len(x), "noise", "mnist")
    )
    yardstick = Yardstick(SimpleNamespace(net=net, sampler=sampler), images)
    settings = UpperSettings(steps, images, upper_gradient="exact", truncation=1.0)
    upper = UpperLevel(sampler, judge, schedule, settings)
    cost = Cost(lambda: upper.slopes(net, 0, "z"))
    return {
        "base": base, "images": images, "backward_steps": steps,
        "sampling_seconds": yardstick.sampling.seconds, "seconds": cost.seconds,
        "samplings": cost.seconds / yardstick.sampling.seconds,
        "training_steps_of_memory": cost.bytes / yardstick.step.bytes, "bytes": cost.bytes,
    }  # fmt: skip


def main(args) -> None:
    torch.set_num_threads(1)
    rows = []
    for steps in args.steps:
        row = measure(steps, args.images, args.base)
        rows.append({k: f"{v:.4g}" if type(v) is float else v for k, v in row.items()})
        print(rows[-1], flush=True)
    write_csv(RESULTS / "reverse_cost.csv", rows)


if __name__ == "__main__":
    main(ARGS)
