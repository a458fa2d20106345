"""Is the gradient worth its cost for a sampling schedule, or does a search find one as good?

    python -m benchmarks.frozen_search --data_dir data
    python -m benchmarks.frozen_search --data_dir data --ckpt assets/mnist.pt --noises 128
    python -m benchmarks.frozen_search --data_dir data --ckpt runs/00003

For the networks of `benchmarks.frozen`, or those of runs, a schedule is sought that lowers the FID
by `first` of one fixed sample of noises, with clipping: over the four parameters of the training
schedule or over twelve knots that begin as it does. The descent follows the exact gradient; random
points are drawn for as many forward passes as the descent takes, a gradient counting as its 4 or 5
samplings; a Gaussian process proposes --calls points, few, since it takes seconds a point. Both
searches try the training schedule first. Writes docs/results/frozen_search.csv, a row a network,
space and method: the FID that was minimised before and after, what it took, and what all judges say
of other samples, against test images. Rows that are in the file stay.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.frozen_search"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains the images")
    add("seeds", 3, "networks that are trained, one a seed", type=cli.count)
    text = "runs or checkpoints whose networks take the place of trained ones"
    add("ckpt", None, text, nargs="+", metavar="RUN")
    add("steps", 10, "DDIM steps", type=cli.count)
    add("updates", 100, "updates of a descent", type=cli.count)
    add("calls", 50, "points that the Gaussian process proposes", type=cli.count)
    add("noises", 256, "images of the FID that is minimised", type=cli.count)
    add("images", 2000, "images that are judged", type=cli.number(int, 100))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json
import time
from itertools import product

import torch

from benchmarks.frozen import KNOTS, RATES, Measurement, Network, Silent, networks
from benchmarks.record import RESULTS
from common.data import Source
from common.exact_gradients import samplings_of_gradient
from common.families import table_of
from common.judging import evaluate
from common.objective import Objective, UpperSettings
from common.sampling_only import learn
from common.scores import JUDGES_COLUMNS
from common.tables import read_text_csv, write_csv
from common.weights import evaluating
from scheduler import Schedule
from search.points import Points

TABLE = RESULTS / "frozen_search.csv"
SPACES = "4 parameters", "12 knots"
METHODS = "none", "descent", "random", "bayesian"
INITIAL = 10  # random points before the Gaussian process proposes any
KEY = ("network", "size", "seed", "steps", "space", "method")


def beginning(network: Network, space: str) -> Schedule:
    """The training schedule, as it is or as knots, with parameters to learn."""
    schedule = network.parts[1].schedule
    if space == "12 knots":
        return schedule.as_knots(KNOTS, learned=True)
    return Schedule.from_dict(schedule.to_dict(), learned=True)


def box_around(schedule: Schedule) -> dict[str, tuple[float, float]]:
    """Where a search looks: the ranges of the search script, widened to hold the beginning."""
    values = schedule.values()
    table = table_of(schedule.family, values)
    return {
        name: (min(table[name].search[0], value), max(table[name].search[1], value))
        for name, value in values.items()
    }


class Trials:
    """The FIDs of one fixed sample of noises, as a function of a schedule's parameters."""

    def __init__(self, measure: Measurement, network: Network, schedule: Schedule, steps: int):
        sampler = measure.sampler(network, schedule, steps, clip=True)
        settings = UpperSettings(steps, measure.noises)
        self.net, self.schedule = network.parts[0], schedule
        self.objective = Objective(sampler, measure.objective, schedule, settings)
        self.noise = self.objective.noises(1, "q", 0)[0]  # those of a descent

    @torch.no_grad()
    def __call__(self, point: dict[str, float]) -> float:
        q = torch.tensor([point[name] for name in self.schedule.q]).to(self.schedule.vector())
        with evaluating(self.net):
            return float(self.objective.fid(self.net, self.objective.levels(q), self.noise))


def search(trials: Trials, strategy: str, count: int, seed: int) -> dict[str, float]:
    """The best of so many points."""
    first, box = trials.schedule.values(), box_around(trials.schedule)
    points, best = Points(strategy, count, INITIAL, seed, box, [first]), (first, float("inf"))
    for _ in range(count):
        (point,) = points.ask(1)
        value = trials(point)
        points.tell([point], [value])
        best = min(best, (point, value), key=lambda pair: pair[1])
    return best[0]


def descend(measure: Measurement, network: Network, schedule: Schedule, steps: int) -> dict:
    """What the exact gradient finds."""
    sampler = measure.sampler(network, schedule, steps, clip=True)
    settings = UpperSettings(steps, measure.noises, upper_gradient="exact")
    updates = measure.updates
    learn(Silent(), network.parts[0], sampler, measure.objective, settings, RATES, updates)
    return schedule.values()


def measured(measure: Measurement, network: Network, key: tuple, calls: int) -> dict:
    """The schedule that a method finds: what it took, and what the judges say of it."""
    steps, space, method = key[3:]
    schedule = beginning(network, space)
    trials, first = Trials(measure, network, schedule, steps), schedule.values()
    of_descent = measure.updates * samplings_of_gradient(measure.noises, UpperSettings.at_once)
    budget = {"none": 0, "descent": of_descent, "random": of_descent, "bayesian": calls}[method]
    began = time.monotonic()
    if method == "none":
        found = first
    elif method == "descent":
        found = descend(measure, network, beginning(network, space), steps)
    else:
        found = search(trials, method, budget, network.seed)
    seconds = time.monotonic() - began
    fixed = Schedule.from_dict(schedule.to_dict() | found)
    sampler = measure.sampler(network, fixed, steps, clip=True)
    scores = evaluate(sampler, network.parts[0], measure.images, measure.judges, "evaluation")
    return {
        "samplings": budget, "seconds": f"{seconds:.0f}", "minimised": f"{trials(found):.6g}",
        "at_first": f"{trials(first):.6g}",
        **{name: f"{scores[name]:.6g}" for name in JUDGES_COLUMNS},
        "schedule": json.dumps(fixed.to_dict()),
    }  # fmt: skip


def main(args) -> None:
    torch.set_num_threads(1)
    rows, measures = read_text_csv(TABLE) if TABLE.exists() else [], {}
    for network, space, method in product(networks(args), SPACES, METHODS):
        key = *network.key, args.steps, space, method
        cell = dict(
            zip((*KEY, "n", "noises"), map(str, (*key, args.images, args.noises)), strict=True)
        )
        if any(row | cell == row for row in rows):
            continue
        source = Source(network.dataset, args.data_dir, network.size)
        if source not in measures:
            measures[source] = Measurement(source, args.images, args.noises, args.updates)
        rows.append(cell | measured(measures[source], network, key, args.calls))
        write_csv(TABLE, rows)
        print(*rows[-1].values(), sep=",", flush=True)


if __name__ == "__main__":
    main(ARGS)
