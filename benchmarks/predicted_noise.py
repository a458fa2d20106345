"""Does a network predict too much noise or too little, on images and on its way to samples?

    python -m benchmarks.predicted_noise --data_dir data --ckpt assets/mnist.pt

At the times of ten DDIM steps, for each network: the factor of its prediction that has the least
squared error on noised test images, 1 if it is right on average; and the size, as the root of the
mean square, of what it receives there, and of what it receives at the same step of a clipped chain:
as the sampler is, in 50 steps, with a tau of 1.15 in sampling, and with --eps_scale 1.15. Writes
docs/results/predicted_noise.csv, a row a network and time; rows of other networks stay.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.predicted_noise"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains the images")
    add("ckpt", ["assets/mnist.pt"], "runs or checkpoints", nargs="+", metavar="RUN")
    add("images", 500, "test images, and chains", type=cli.number(int, 2))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import torch
from torch import Tensor, nn

from assets.make import EPS_SCALE
from benchmarks.frozen import SCHEDULES, TOLD, Network, changed, of_run
from benchmarks.record import RESULTS
from common.data import Source, to_unit
from common.machine import stream
from common.tables import read_text_csv, write_csv
from model import Diffusion

TABLE = RESULTS / "predicted_noise.csv"
STEPS = 10
# column -> steps, what differs in the sampling schedule, factor of the predicted noise
CHAINS = {
    "chain": (STEPS, {}, 1.0),
    "chain_50": (5 * STEPS, {}, 1.0),  # which visits the times of ten steps too
    "chain_tau": (STEPS, SCHEDULES["tau 1.15"], 1.0),
    "chain_scaled": (STEPS, {}, EPS_SCALE),
}
KEY = ("network", "size", "seed")


def size_of(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def on_images(net: nn.Module, process: Diffusion, x0: Tensor, t: int) -> tuple[float, float]:
    """The best factor of the predicted noise at a time, and the size of what the network sees."""
    signal, noise, scale = (part[t] for part in process.levels())
    eps = torch.randn(x0.shape, generator=stream("cpu", 0, "images", t))
    x = scale * (signal * x0 + noise * eps)
    predicted = net(x, torch.tensor([t]))
    return float((eps * predicted).sum() / predicted.square().sum()), size_of(x)


def on_the_way(
    net: nn.Module, process: Diffusion, shape, steps: int, values: dict, eps_scale: float
) -> dict[int, float]:
    """The size of what the network receives, by time, in clipped chains from fresh noise."""
    sizes = {}

    def watched(x, t):
        sizes[int(t)] = size_of(x)
        return net(x, t)

    x = torch.randn(shape, generator=stream("cpu", 0, "chains"))
    process = process.replaced(sampling_schedule=changed(process, values), told=TOLD)
    process.sample(watched, x, steps, eps_scale=eps_scale)
    return sizes


@torch.no_grad()
def rows_of(network: Network, x0: Tensor) -> list[dict]:
    net, process = network.parts
    chains = {name: on_the_way(net, process, x0.shape, *how) for name, how in CHAINS.items()}
    rows = []
    for t in sorted(chains["chain"], reverse=True):
        factor, size = on_images(net, process, x0, t)
        numbers = {"factor": factor, "images": size}
        numbers |= {name: sizes[t] for name, sizes in chains.items()}
        place = dict(zip(KEY, network.key, strict=True)) | {"time": t}
        rows.append(place | {name: f"{value:.4f}" for name, value in numbers.items()})
    return rows


def main(args) -> None:
    torch.set_num_threads(1)
    rows = read_text_csv(TABLE) if TABLE.exists() else []
    for network in map(of_run, args.ckpt):
        images = Source(network.dataset, args.data_dir, network.size).images("test")
        new = rows_of(network, to_unit(images[: args.images]))
        key = tuple(map(str, network.key))
        rows = [row for row in rows if tuple(row[name] for name in KEY) != key] + new
        write_csv(TABLE, rows)
        for row in new:
            print(*row.values(), sep=",")


if __name__ == "__main__":
    main(ARGS)
