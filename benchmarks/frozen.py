"""What is a sampling schedule worth that was learned for a network whose weights stay?

    python -m benchmarks.frozen --data_dir data
    python -m benchmarks.frozen --data_dir data --ckpt assets/mnist.pt --steps 10

A small fully connected network is trained on MNIST at 8x8 with the default schedule, one a seed; or
the networks are those of runs, of any size. For each, a schedule of knots is learned for a few
numbers of DDIM steps, with clipping and without, by the exact gradient of the FID by `first`
against training images. With clipping it begins as the default schedule, without as the default
with end 0.9: the default ends in so little signal that its unclipped samples are noise, with a
gradient to match. Beside them stand what needs no learning: a tau of 1.15, quadratic steps,
--eps_scale, and with it noise in each step, as docs/network.md advises. Every judge sees samples of
all, against test images. Writes docs/results/frozen.csv, a row a network, clipping, number of steps
and schedule; rows that are in the file stay, and only what is missing is measured. Of the first
run's network it also draws samples by all, from the same noise.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.frozen"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains the images")
    add("seeds", 3, "networks that are trained, one a seed", type=cli.count)
    text = "runs or checkpoints whose networks take the place of trained ones"
    add("ckpt", None, text, nargs="+", metavar="RUN")
    add("steps", [5, 10, 20, 50], "numbers of DDIM steps", nargs="+", type=cli.count)
    add("updates", 100, "updates of a schedule", type=cli.count)
    text = "images of the FID that is descended, always from the same noise"
    add("noises", 256, text, type=cli.number(int, 2))
    add("images", 2000, "images that are judged", type=cli.number(int, 100))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from assets.make import EPS_SCALE
from benchmarks.problem import Mlp
from benchmarks.record import RESULTS, ROOT
from common.data import Batches, Source
from common.errors import Stop
from common.figures import grid, save_beside
from common.judge_files import is_made
from common.judging import Judge, Judges, evaluate, real_batches
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings, load_any, process_of
from common.sampling_only import learn, steps_table
from common.scores import JUDGES_COLUMNS
from common.tables import read_text_csv, write_csv
from common.training import Average, Learner, LRSchedule, make_optimizer
from comparison.kept import figure_path
from model import Diffusion
from scheduler import Schedule

TABLE = RESULTS / "frozen.csv"
SIDE, TIMESTEPS, KNOTS = 8, 200, 12
TRAIN_STEPS, BATCH, RATE, MEMORY = 10000, 128, 2e-3, 500  # of the fully connected network
RATES = [0.01, 0.01, 0.1, 0.001]  # of start, end, the knots and epsilon: the script's defaults
# what each changes of the schedule of training; the last one is learned
SCHEDULES: dict[str, dict] = {
    "default": {},
    "end 0.9": {"end": 0.9},
    "tau 1.15": {"tau": 1.15},
    "learned": {},
}
# the schedule of training by other DDIM steps, as flags that need no learning choose them
SAMPLERS: dict[str, dict] = {
    "quadratic steps": {"tau_type": "quadratic"},
    f"eps_scale {EPS_SCALE:g}": {"eps_scale": EPS_SCALE},
    f"eta 1, eps_scale {EPS_SCALE:g}": {"eta": 1.0, "eps_scale": EPS_SCALE},
}
NAMES = (*SCHEDULES, *SAMPLERS)
IN_A_NAME = {"mnist": "", "fashion": ", Fashion-MNIST"}
TOLD = "visited"  # the network receives the times of the steps
DRAWN = 9  # images of a picture
KEY = ("network", "size", "seed", "clip", "steps", "schedule")


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
    size: int
    seed: int
    make: Callable[[], tuple[nn.Module, Diffusion]]
    dataset: str = "mnist"

    @property
    def key(self) -> tuple[str, int, int]:
        return self.name, self.size, self.seed

    @cached_property
    def parts(self) -> tuple[nn.Module, Diffusion]:
        return self.make()

    def source(self, data_dir: str) -> Source:
        """The images that it was trained on."""
        return Source(self.dataset, data_dir, self.size)


def trained(seed: int, images: Tensor) -> tuple[nn.Module, Diffusion]:
    """A fully connected network after 21 epochs at the default schedule, averaged."""
    torch.manual_seed(seed)
    process, net = Diffusion(Schedule("cosine", TIMESTEPS)), Mlp(timesteps=TIMESTEPS)
    optimizer = make_optimizer(net.parameters(), RATE)
    batches = Batches(images, BATCH, seed)
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
    dataset, size = state["args"]["dataset"], state["shape"][-1]
    if dataset not in IN_A_NAME or not is_made("first", dataset, size):
        raise Stop(f"--ckpt {path}: the judge `first` does not know {dataset} at {size}", code=2)
    if state["schedule"] != Schedule("cosine", state["schedule"]["timesteps"]).to_dict():
        raise Stop(f"--ckpt {path}: not trained with the default schedule", code=2)
    name = f"U-Net, {state['args']['model_base_dim']} channels{IN_A_NAME[dataset]}"
    seed = state["args"]["seed"]
    return Network(name, size, seed, lambda: (net, process_of(state, "cpu")), dataset)


def networks(args, most_steps: int) -> list[Network]:
    """The networks that the flags name; each has at least so many times to visit."""
    if args.ckpt:
        chosen = [of_run(path) for path in args.ckpt]
        longest = min(network.parts[1].schedule.timesteps for network in chosen)
    else:
        images, longest = Source("mnist", args.data_dir, SIDE).images("train"), TIMESTEPS
        name, seeds = "fully connected", range(args.seeds)
        chosen = [Network(name, SIDE, s, lambda s=s: trained(s, images)) for s in seeds]
    if most_steps > longest:
        raise Stop(f"{most_steps} steps exceed the T of a network, {longest}", code=2)
    return chosen


def changed(process: Diffusion, values: dict) -> Schedule:
    """The schedule of training with other values of some parameters."""
    return Schedule.from_dict(process.schedule.to_dict() | values)


class Measurement:
    """The judges, the objective, and what is drawn for both."""

    def __init__(self, source: Source, images: int, noises: int = 0, updates: int = 0):
        """Nothing is learned or searched where there are no noises."""
        flags = {"dataset": source.dataset, "data_dir": source.data_dir}
        flags |= {"image_size": source.size, "extractor": "first"}
        flags |= {"inception_weights": None, "cache_dir": str(ROOT / "cache")}
        self.judges = Judges.from_flags("cpu", eval_samples=images, **flags)
        if noises:
            self.objective = Judge.from_flags("cpu", split="train", **flags)
        self.source, self.shape = source, (1, source.size, source.size)
        self.images, self.noises, self.updates = images, noises, updates

    def real(self) -> dict:
        """The floors: as many training images as are drawn of a network, by every judge."""
        random = torch.Generator().manual_seed(0)
        chosen = torch.randperm(60000, generator=random)[: self.images]
        return self.judges.score(real_batches(self.source.images("train")[chosen]))

    def by_schedule(self, network: Network, name: str, steps: int, clip: bool) -> dict:
        """The scores of samples by one of SCHEDULES or SAMPLERS, and what they were drawn with."""
        if name == "learned":
            first = changed(network.parts[1], SCHEDULES["default" if clip else "end 0.9"])
            schedule = self.learned(network, first.as_knots(KNOTS), steps, clip)
        else:
            schedule = changed(network.parts[1], SCHEDULES.get(name, {}))
        sampler = self.sampler(network, schedule, steps, clip, **SAMPLERS.get(name, {}))
        sigmas = " ".join(f"{row['sigma']:.4g}" for row in steps_table(sampler))
        visited = json.dumps({**schedule.to_dict(), "told": TOLD})
        scores = evaluate(sampler, network.parts[0], self.images, self.judges, "evaluation")
        return scores | {"sigmas": sigmas, "visited": visited}

    def learned(self, network: Network, first: Schedule, steps: int, clip: bool) -> Schedule:
        """What the exact gradient makes of a schedule."""
        schedule = Schedule.from_dict(first.to_dict(), learned=True)
        sampler = self.sampler(network, schedule, steps, clip)
        settings = UpperSettings(steps, self.noises, upper_gradient="exact")
        net = network.parts[0]
        learn(Silent(), net, sampler, self.objective, settings, RATES, self.updates)
        return Schedule.from_dict(schedule.to_dict())

    def sampler(
        self, network: Network, schedule: Schedule, steps: int, clip: bool, **others
    ) -> Sampler:
        """Draws by another schedule than that of training, in so many steps."""
        process = network.parts[1].replaced(sampling_schedule=schedule, told=TOLD)
        return Sampler(process, SamplerSettings(steps, clip=clip, **others), self.shape)

    def draw(self, network: Network, rows: list[dict], path: Path) -> None:
        """The samples of a network's rows side by side, all from the same noise."""
        pictures = {}
        for row in rows:
            schedule, clip = Schedule.from_dict(json.loads(row["visited"])), row["clip"] == "True"
            others = SAMPLERS.get(row["schedule"], {})
            sampler = self.sampler(network, schedule, int(row["steps"]), clip, **others)
            images = sampler.all_of(network.parts[0], DRAWN, "picture")
            clipping = "clipped" if clip else "not clipped"
            pictures[f"{row['schedule']}\n{clipping}"] = grid(images)
        save_beside(path, pictures, 2.4, across=len(pictures) // 2)


def main(args) -> None:
    torch.set_num_threads(1)
    rows = read_text_csv(TABLE) if TABLE.exists() else []

    def cell_of(key: tuple) -> dict[str, str]:
        """What a row says of how it was made: on how many images, after how many updates."""
        spent = {"updates": args.updates, "noises": args.noises}
        if key[-1] != "learned":
            spent = dict.fromkeys(spent, "")
        values = *key, args.images, *spent.values()
        return dict(zip((*KEY, "n", *spent), map(str, values), strict=True))

    def add(key: tuple, scores: Callable[[], dict]) -> None:
        """A row, unless the file has it."""
        cell = cell_of(key)
        if any(row | cell == row for row in rows):
            return
        result = scores()
        cell |= {name: f"{result[name]:.6g}" for name in JUDGES_COLUMNS}
        rows.append(cell | {name: result.get(name, "") for name in ("sigmas", "visited")})
        write_csv(TABLE, rows)
        print(*rows[-1].values(), sep=",", flush=True)

    @cache
    def of_source(source: Source) -> Measurement:
        return Measurement(source, args.images, args.noises, args.updates)

    chosen = networks(args, max(args.steps))
    for network, clip, steps in product(chosen, (True, False), args.steps):
        measure = of_source(network.source(args.data_dir))
        real = f"real images{IN_A_NAME[network.dataset]}"
        add((real, network.size, "", "", "", ""), measure.real)
        for schedule in NAMES:
            key = *network.key, clip, steps, schedule
            add(key, partial(measure.by_schedule, network, schedule, steps, clip))
    for network, steps in product(chosen[:1] if args.ckpt else (), args.steps):
        drawn = [
            row
            for clip, schedule in product((True, False), NAMES)
            for row in rows
            if row | cell_of((*network.key, clip, steps, schedule)) == row
        ]
        data = "" if network.dataset == "mnist" else f"{network.dataset}_"
        path = figure_path(TABLE, f"{data}{network.size}_{steps}")
        of_source(network.source(args.data_dir)).draw(network, drawn, path)


if __name__ == "__main__":
    main(ARGS)
