"""Is the predicted noise right on average, and do chains bring networks what they were trained on?

    python -m benchmarks.predicted_noise --data_dir data --ckpt assets/mnist.pt

At the times of ten DDIM steps, for each network: the factor of its prediction that has the least
squared error on noised test images, 1 if it is right on average; and the size, as the root of the
mean square, of what it receives there, and of what it receives at the same time in a clipped chain:
with the sampler's own settings, in 50 steps, with a tau of 1.15 in sampling, and with
--eps_scale 1.15. Then what all judges say of the ten-step chain, of the one with that tau, and of
one that is multiplied, before each step and a batch at a time, to the size of noised training
images. Writes docs/results/predicted_noise.csv, a row a network and time, and
predicted_noise_fids.csv, a row a network and chain; rows of other networks stay.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.predicted_noise"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains the images")
    add("ckpt", ["assets/mnist.pt"], "runs or checkpoints", nargs="+", metavar="RUN")
    add("images", 500, "images at each time, and chains", type=cli.number(int, 2))
    add("judged", 2000, "images that are judged", type=cli.number(int, 100))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from pathlib import Path

import torch
from torch import Tensor, nn

from assets.make import EPS_SCALE
from benchmarks.frozen import SCHEDULES, TOLD, Measurement, Network, changed, networks
from benchmarks.record import RESULTS
from common.data import to_unit
from common.judging import evaluate
from common.machine import stream
from common.sampling import Sampler
from common.scores import JUDGES_COLUMNS
from common.tables import read_text_csv, write_csv
from model import Diffusion, visited_times

TABLE, FIDS = RESULTS / "predicted_noise.csv", RESULTS / "predicted_noise_fids.csv"
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
        numbers = {"factor": factor, "noised": size}
        numbers |= {name: sizes[t] for name, sizes in chains.items()}
        place = dict(zip(KEY, network.key, strict=True)) | {"time": t, "n": len(x0)}
        rows.append(place | {name: f"{value:.4f}" for name, value in numbers.items()})
    return rows


class Rescaled(Diffusion):
    """Chains that are multiplied, before each step, to the size that noised images have there."""

    def __init__(self, process: Diffusion, sizes: list[float]):
        """The sizes are those at the times that it visits, rising."""
        super().__init__(process.schedule, process.b, process.normalise)
        self.sizes = sizes

    def sample(self, net, x: Tensor, steps: int, *how, **options) -> Tensor:
        def scaled(step, x, i):
            return step(x * (self.sizes[i - 1] / size_of(x)), i)

        return super().sample(net, x, steps, *how, **options, around=scaled)


@torch.no_grad()
def fids_of(network: Network, x0: Tensor, measure: Measurement) -> list[dict]:
    """What the judges say of three chains, the last of which has the sizes of noised images."""
    net, process = network.parts
    times = visited_times(process.schedule.timesteps, STEPS)
    sizes = [on_images(net, process, x0, t)[1] for t in times]
    plain = measure.sampler(network, process.schedule, STEPS, clip=True)
    larger = measure.sampler(network, changed(process, SCHEDULES["tau 1.15"]), STEPS, clip=True)
    rescaled = Sampler(Rescaled(process, sizes), plain.settings, plain.shape)
    rows = []
    for name, sampler in {"default": plain, "tau 1.15": larger, "rescaled": rescaled}.items():
        scores = evaluate(sampler, net, measure.images, measure.judges, "evaluation")
        place = dict(zip(KEY, network.key, strict=True)) | {"chain": name, "n": measure.images}
        rows.append(place | {name: f"{scores[name]:.6g}" for name in JUDGES_COLUMNS})
    return rows


def put(table: Path, network: Network, new: list[dict]) -> None:
    """Write a network's rows into a file, instead of those it had; the file is in order."""
    rows = read_text_csv(table) if table.exists() else []
    key = tuple(map(str, network.key))
    others = [row for row in rows if tuple(row[name] for name in KEY) != key]
    write_csv(table, sorted([*others, *new], key=lambda row: [str(row[name]) for name in KEY]))
    for row in new:
        print(*row.values(), sep=",", flush=True)


def main(args) -> None:
    torch.set_num_threads(1)
    for network in networks(args, max(steps for steps, *_ in CHAINS.values())):
        source = network.source(args.data_dir)
        test, train = (to_unit(source.images(name)[: args.images]) for name in ("test", "train"))
        put(TABLE, network, rows_of(network, test))
        measure = Measurement(source, args.judged)
        put(FIDS, network, fids_of(network, train, measure))


if __name__ == "__main__":
    main(ARGS)
