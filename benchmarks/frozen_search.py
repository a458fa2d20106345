"""Is the gradient worth its cost for a sampling schedule, or does a search find one as good?

    python -m benchmarks.frozen_search --data_dir data
    python -m benchmarks.frozen_search --data_dir data --ckpt assets/mnist.pt --noises 128
    python -m benchmarks.frozen_search --data_dir data --ckpt runs/00003

For the networks of `benchmarks.frozen`, or those of runs, several methods lower the FID by `first`
of one fixed sample of noises, with clipping. They vary the four parameters of the training
schedule, or twelve knots that begin near it. The descent follows the exact gradient, in which the
noisiest steps are constants. The random search draws as many samples as the descent, whose
gradients count as 4 or 5 samplings each; the Bayesian search tries few points, since its Gaussian
process takes seconds for each. Both look within the ranges of the search script, widened to hold
the schedule that they begin with; the descent has wider bounds. Constants stand beside them: a tau
of sampling alone, and a factor of the predicted noise, each the best of eleven values. A search's
seed is the network's. Writes docs/results/frozen_search.csv, a row a network, space and method:
the FID before and after, what that took, and what all judges say of other samples, against test
images. Rows that are in the file stay.
"""

from common import cli

METHODS = ["none", "descent", "random", "bayesian", "grid"]


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.frozen_search"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains the images")
    add("seeds", 3, "networks that are trained, one a seed", type=cli.count)
    text = "runs or checkpoints whose networks take the place of trained ones"
    add("ckpt", None, text, nargs="+", metavar="RUN")
    text = "what is measured; none: the schedule that the others begin with"
    add("methods", METHODS, text, choices=METHODS, nargs="+")
    add("steps", 10, "DDIM steps", type=cli.count)
    add("updates", 100, "updates of a descent", type=cli.count)
    text = "points that the Bayesian search tries: the first, some at random, and its own"
    add("calls", 50, text, type=cli.count)
    add("noises", 256, "images of the FID that is minimised", type=cli.number(int, 2))
    add("images", 2000, "images that are judged", type=cli.number(int, 100))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json
import time
from functools import cache
from itertools import product

import torch

from benchmarks.frozen import KNOTS, Measurement, Network, networks
from benchmarks.record import RESULTS
from common.data import Source
from common.exact_gradients import samplings_of_gradient
from common.families import table_of
from common.judging import evaluate
from common.objective import Objective, UpperSettings
from common.sampling import Sampler
from common.scores import JUDGES_COLUMNS
from common.tables import read_text_csv, write_csv
from common.weights import evaluating
from scheduler import Schedule
from search.points import Points
from search.space import widened

TABLE = RESULTS / "frozen_search.csv"
AT_RANDOM = 10  # points of a Bayesian search before its Gaussian process, the first among them
FAMILIES = {"4 parameters": None, "12 knots": KNOTS}
CONSTANTS = {
    "tau": [1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.75, 2, 2.5],
    "eps_scale": [0.9, 0.95, 0.975, 1, 1.025, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3],
}
PLANS = (*product(FAMILIES, METHODS[:-1]), *((name, "grid") for name in CONSTANTS))


class Trials:
    """The FIDs of one fixed sample of noises, as a function of what the sampler draws with."""

    def __init__(self, measure: Measurement, network: Network, steps: int, knots: int | None):
        """A point is made of parameters of the schedule, or of `knots`, and of the sampler."""
        self.measure, self.network, self.steps = measure, network, steps
        trained = network.parts[1].schedule
        self.first = trained.as_knots(knots) if knots else trained
        self.settings = UpperSettings(steps, measure.noises)
        # those of a descent's updates
        self.noise = self._objective({}).noises(1, "q", 0)[0]

    def sampler(self, point: dict[str, float]) -> Sampler:
        """Draws with a point in place of what the network was trained with."""
        names = self.first.values()
        schedule = self.first.to_dict() | {n: v for n, v in point.items() if n in names}
        others = {name: value for name, value in point.items() if name not in names}
        fixed = Schedule.from_dict(schedule)
        return self.measure.sampler(self.network, fixed, self.steps, clip=True, **others)

    def _objective(self, point: dict[str, float]) -> Objective:
        return Objective(self.sampler(point), self.measure.objective, self.first, self.settings)

    @torch.no_grad()
    def __call__(self, point: dict[str, float]) -> float:
        net = self.network.parts[0]
        with evaluating(net):
            return float(self._objective(point).fid(net, None, self.noise))

    def descended(self) -> dict[str, float]:
        """The point to which the exact gradient leads."""
        return self.measure.learned(self.network, self.first, self.steps, clip=True).values()

    def searched(self, strategy: str, count: int, seed: int) -> dict[str, float]:
        """The best of so many points."""
        box, first = box_around(self.first), self.first.values()
        points = Points(strategy, count, AT_RANDOM, seed, box, [first])
        tried = []
        for _ in range(count):
            (point,) = points.ask(1)
            tried.append((self(point), point))
            points.tell([point], [tried[-1][0]])
        return min(tried, key=lambda pair: pair[0])[1]


def box_around(schedule: Schedule) -> dict[str, tuple[float, float]]:
    """The ranges of the search script, widened to hold a schedule."""
    values = schedule.values()
    table = table_of(schedule.family, values)
    return {name: widened(table[name].search, value) for name, value in values.items()}


def samplings_of(space: str, method: str, args) -> int:
    """How often a method draws the images whose FID it minimises."""
    if method == "grid":
        return len(CONSTANTS[space])
    of_descent = args.updates * samplings_of_gradient(args.noises, UpperSettings.at_once)
    counts = {"none": 0, "descent": of_descent, "random": of_descent, "bayesian": args.calls}
    return counts[method]


def measured(
    measure: Measurement, network: Network, steps: int, space: str, method: str, samplings: int
) -> dict:
    """Where a method ends, and what the judges say of that."""
    trials = Trials(measure, network, steps, FAMILIES.get(space))
    began, point = time.monotonic(), {}
    if method == "grid":
        point = min(({space: value} for value in CONSTANTS[space]), key=trials)
    elif method == "descent":
        point = trials.descended()
    elif method != "none":
        point = trials.searched(method, samplings, network.seed)
    seconds = time.monotonic() - began
    drawn, net = trials.sampler(point), network.parts[0]
    scores = evaluate(drawn, net, measure.images, measure.judges, "evaluation")
    return {
        "seconds": f"{seconds:.0f}", "at_first": f"{trials({}):.6g}",
        "minimised": f"{trials(point):.6g}",
        **{name: f"{scores[name]:.6g}" for name in JUDGES_COLUMNS}, "point": json.dumps(point),
    }  # fmt: skip


def main(args) -> None:
    torch.set_num_threads(1)
    rows = read_text_csv(TABLE) if TABLE.exists() else []

    @cache
    def of_source(source: Source) -> Measurement:
        return Measurement(source, args.images, args.noises, args.updates)

    plans = [plan for plan in PLANS if plan[1] in args.methods]
    for network, (space, method) in product(networks(args, args.steps), plans):
        samplings = samplings_of(space, method, args)
        cell = {
            "network": network.name, "size": network.size, "seed": network.seed,
            "steps": args.steps, "space": space, "method": method, "n": args.images,
            "noises": args.noises, "samplings": samplings,
        }  # fmt: skip
        cell = {name: str(value) for name, value in cell.items()}
        if any(row | cell == row for row in rows):
            continue
        measure = of_source(network.source(args.data_dir))
        result = measured(measure, network, args.steps, space, method, samplings)
        rows.append(cell | result)
        write_csv(TABLE, rows)
        print(*rows[-1].values(), sep=",", flush=True)


if __name__ == "__main__":
    main(ARGS)
