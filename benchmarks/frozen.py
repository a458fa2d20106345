"""What is a sampling schedule worth that was learned for a network whose weights stay?

    python -m benchmarks.frozen --data_dir data
    python -m benchmarks.frozen --data_dir data --ckpt RUN RUN RUN

A small fully connected network is trained on MNIST at 8x8 with the default schedule, one a seed; or
the networks are those of runs. For each, a schedule of knots is learned for a few numbers of DDIM
steps, with clipping and without, by the exact gradient of the FID by `first` against training
images. With clipping it begins as the default schedule, without as the default with end 0.9: the
default ends in so little signal that its unclipped samples are noise, with a gradient to match.
Every judge sees samples of all three, against test images. Writes docs/results/frozen.csv, a row a
network, clipping, number of steps and schedule; rows that are in the file stay, and only what is
missing is measured.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.frozen"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("seeds", 3, "networks that are trained, one a seed", type=cli.count)
    text = "finished runs on MNIST at 8x8, whose networks take the place of trained ones"
    add("ckpt", None, text, nargs="+", metavar="RUN")
    add("steps", [5, 10, 20, 50], "numbers of DDIM steps", nargs="+", type=cli.count)
    add("updates", 100, "updates of a schedule", type=cli.count)
    text = "images of the FID that is descended, always from the same noise"
    add("noises", 256, text, type=cli.count)
    add("images", 2000, "images that are judged", type=cli.number(int, 100))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import nn

from benchmarks.problem import Mlp
from benchmarks.record import RESULTS, ROOT
from common.data import Batches, Source
from common.errors import Stop
from common.judging import Judge, Judges, evaluate, real_batches
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings, load_any, process_of
from common.sampling_only import learn, steps_table
from common.scores import JUDGES_COLUMNS
from common.tables import read_text_csv, write_csv
from common.training import Average, Learner, LRSchedule, make_optimizer
from model import Diffusion
from scheduler import Schedule

TABLE = RESULTS / "frozen.csv"
SIDE, TIMESTEPS, KNOTS = 8, 200, 12
TRAIN_STEPS, BATCH, RATE, MEMORY = 10000, 128, 2e-3, 500  # of the fully connected network
RATES = [0.01, 0.01, 0.1, 0.001]  # of start, end, the knots and epsilon: the script's defaults
EARLY = {"end": 0.9}
KEY = ("network", "seed", "clip", "steps", "schedule")


class Silent:
    """What a descent asks of its run, without a folder."""

    def __init__(self):
        self.evaluations: Counter = Counter()

    def row(self, *_, **__) -> None: ...

    def log(self, text: str) -> None: ...

    def poll(self) -> None: ...


@dataclass
class Network:
    """A trained network, and the process that it was trained with; made when it is needed."""

    name: str
    seed: int
    make: Callable[[], tuple[nn.Module, Diffusion]]

    @cached_property
    def parts(self) -> tuple[nn.Module, Diffusion]:
        return self.make()


def trained(seed: int, source: Source) -> tuple[nn.Module, Diffusion]:
    """A fully connected network after 21 epochs at the default schedule, averaged."""
    torch.manual_seed(seed)
    process, net = Diffusion(Schedule("cosine", TIMESTEPS)), Mlp(timesteps=TIMESTEPS)
    optimizer = make_optimizer(net.parameters(), RATE)
    batches = Batches(source.images("train"), BATCH, seed)
    rates = LRSchedule("onecycle", optimizer, TRAIN_STEPS)
    learner = Learner(net, optimizer, batches, seed, "step", rates)
    average = Average(net, 1 - 1 / MEMORY, 1, TRAIN_STEPS)
    for _ in range(TRAIN_STEPS):
        learner.step(process)
        average.after_step(net, learner.count)
    return average.model, process


def of_run(path: str) -> Network:
    """The averaged network of a run."""
    net, state = load_any(path, "cpu")
    if tuple(state["shape"]) != (1, SIDE, SIDE) or state["args"]["dataset"] != "mnist":
        raise Stop(f"--ckpt {path}: not a network of MNIST at {SIDE}x{SIDE}", code=2)
    name = f"U-Net, {state['args']['model_base_dim']} channels"
    return Network(name, state["args"]["seed"], lambda: (net, process_of(state, "cpu")))


def networks(args, source: Source) -> list[Network]:
    if args.ckpt:
        return [of_run(path) for path in args.ckpt]
    name = "fully connected"
    return [Network(name, s, lambda s=s: trained(s, source)) for s in range(args.seeds)]


def changed(process: Diffusion, values: dict) -> Schedule:
    """The schedule of training with other values of some parameters."""
    return Schedule.from_dict(process.schedule.to_dict() | values)


class Measurement:
    """The judges, the objective, and what is drawn for both."""

    def __init__(self, source: Source, images: int, noises: int, updates: int):
        flags = {"dataset": source.dataset, "data_dir": source.data_dir, "image_size": SIDE}
        flags |= {"inception_weights": None, "cache_dir": str(ROOT / "cache")}
        self.judges = Judges.from_flags("cpu", extractor="first", eval_samples=images, **flags)
        self.objective = Judge.from_flags("cpu", extractor="first", split="train", **flags)
        self.source, self.images, self.noises, self.updates = source, images, noises, updates

    def real(self) -> dict:
        """The floors: as many training images as are drawn of a network, by every judge."""
        random = torch.Generator().manual_seed(0)
        chosen = torch.randperm(60000, generator=random)[: self.images]
        return self.judges.score(real_batches(self.source.images("train")[chosen]))

    def fixed(
        self, net: nn.Module, process: Diffusion, steps: int, clip: bool, **changes: float
    ) -> dict:
        """The schedule of training, some parameters changed, visited in so many steps."""
        process = process.replaced(sampling_schedule=changed(process, changes), told="visited")
        sampler = Sampler(process, SamplerSettings(steps, clip=clip), (1, SIDE, SIDE))
        return self.scores(net, sampler)

    def learned(self, net: nn.Module, process: Diffusion, steps: int, clip: bool) -> dict:
        """Knots that begin as that schedule; without clipping, as one that ends early."""
        first = changed(process, {} if clip else EARLY)
        schedule = first.as_knots(KNOTS, learned=True)
        process = process.replaced(sampling_schedule=schedule, told="visited")
        sampler = Sampler(process, SamplerSettings(steps, clip=clip), (1, SIDE, SIDE))
        settings = UpperSettings(steps, self.noises, upper_gradient="exact")
        learn(Silent(), net, sampler, self.objective, settings, RATES, self.updates)
        fixed = process.replaced(sampling_schedule=Schedule.from_dict(schedule.to_dict()))
        return self.scores(net, Sampler(fixed, sampler.settings, sampler.shape))

    def scores(self, net: nn.Module, sampler: Sampler) -> dict:
        """By every judge, with the sigmas of the steps, the noisiest first."""
        sigmas = " ".join(f"{row['sigma']:.4g}" for row in steps_table(sampler))
        scores = evaluate(sampler, net, self.images, self.judges, "evaluation")
        return scores | {"sigmas": sigmas}


def main(args) -> None:
    torch.set_num_threads(1)
    source = Source("mnist", args.data_dir, SIDE)
    measure = Measurement(source, args.images, args.noises, args.updates)
    rows = read_text_csv(TABLE) if TABLE.exists() else []

    def add(key: tuple, scores: Callable[[], dict]) -> None:
        """A row, unless the file has it, on as many images and after as many updates."""
        spent = {"updates": args.updates, "noises": args.noises}
        if key[-1] != "learned":
            spent = dict.fromkeys(spent, "")
        values = *key, args.images, *spent.values()
        cell = dict(zip((*KEY, "n", *spent), map(str, values), strict=True))
        if any(row | cell == row for row in rows):
            return
        result = scores()
        cell |= {name: f"{result[name]:.6g}" for name in JUDGES_COLUMNS}
        rows.append(cell | {"sigmas": result.get("sigmas", "")})
        write_csv(TABLE, rows)
        print(*rows[-1].values(), sep=",", flush=True)

    add(("real images", "", "", "", ""), measure.real)
    for network, clip, steps in product(networks(args, source), (True, False), args.steps):
        key = network.name, network.seed, clip, steps
        at = steps, clip
        add((*key, "default"), lambda: measure.fixed(*network.parts, *at))  # noqa: B023
        add((*key, "end 0.9"), lambda: measure.fixed(*network.parts, *at, **EARLY))  # noqa: B023
        add((*key, "learned"), lambda: measure.learned(*network.parts, *at))  # noqa: B023


if __name__ == "__main__":
    main(ARGS)
