"""Which estimate of the gradients knows the true hypergradient, and what does it cost?

python -m benchmarks.gradient_table

On the problem of benchmarks.problem, at the point where the two terms do not cancel: estimates of
dF/dq and dF/dtheta from 128 images, with all DDIM steps differentiated and with those left out that
see next to no signal. The cosine is the mean over all pairs of independent draws. Then theta_z is
coupled with that estimate of dF/dtheta, and direct and implicit term together are compared with
training again, as docs/results/hypergradient.csv holds it. Forward mode has no dF/dtheta: its sum
is the direct term alone. Writes docs/results/gradient_table.csv, a row a problem and estimate; rows
that are in the file stay.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.gradient_table"
    add = cli.adder(parser)
    add("seeds", 2, "problems, each with its own network and draws", type=cli.count)
    add("draws", 6, "draws of each estimate, from independent noise", type=cli.number(int, 2))
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.cosines import ESTIMATES, Cost, Yardstick, cosine_of_pairs
from benchmarks.hypergradient import as_text, table_of
from benchmarks.problem import STEP, Problem, cosine
from benchmarks.record import RESULTS
from common.objective import UpperSettings
from common.penalty import PenaltySettings
from common.tables import read_csv, write_csv
from common.upper_level import UpperLevel
from common.zeroth_order import Slope

TABLE = RESULTS / "gradient_table.csv"
POINT, IMAGES, EXACT_EVERY, BATCHES = "steep", 128, 10, 400


class AnyEstimate(UpperLevel):
    """The upper level of a coupled theta_z, whichever way its gradients are estimated."""

    def slopes(self, net: nn.Module, step: int, name: str, weights: bool = True) -> list[Slope]:
        if self.settings.upper_gradient == "exact":
            return super().slopes(net, step, name, weights)
        return [self.slope_of_schedule(net, step), self.slope_of_weights(net, step)]


def true_total(seed: int) -> dict[str, float]:
    key, rows = (seed, POINT, 0), read_csv(table_of("mlp"))
    rows = [r for r in rows if (r["seed"], r["point"], r["further"]) == key]
    return {r["parameter"]: r["true_total"] for r in rows}


def sum_of_terms(problem: Problem, upper: UpperLevel, of_q: list[Tensor]) -> dict[str, float]:
    """Direct and implicit term for a step of h each; in forward mode the direct one alone."""
    if upper.settings.upper_gradient == "forward":
        mean = torch.stack(of_q).mean(0).tolist()
        return {name: g * h for g, (name, h) in zip(mean, STEP.items(), strict=True)}
    settings = PenaltySettings(None, EXACT_EVERY, problem.kind.memory, batches=BATCHES)
    implicit, direct = problem.terms(problem.penalty(settings, upper=upper))
    return {name: implicit[name] + direct[name] for name in STEP}


def measure(problem: Problem, true: dict[str, float], draws: int) -> Iterator[dict]:
    """A row an estimate."""
    net = problem.learner.net.eval()
    yardstick = Yardstick(net, problem.sampler, IMAGES)
    for label, options in ESTIMATES.items():
        settings = UpperSettings(problem.kind.ddim_steps, IMAGES, problem.seed, **options)
        upper = AnyEstimate(problem.sampler, problem.judge, problem.schedule, settings)
        of_q = [upper.slope_of_schedule(net, step).gradient for step in range(draws)]
        row = {"estimate": label, "left_out": 0, "cosine_q": cosine_of_pairs(of_q)}
        if settings.upper_gradient != "zo":
            row["left_out"] = len(upper.left_out())
        row["cosine_weights"] = ""
        call = upper.slope_of_schedule
        if settings.upper_gradient != "forward":
            of_weights = [upper.slope_of_weights(net, step).gradient for step in range(draws)]
            row["cosine_weights"] = cosine_of_pairs(of_weights)
            call = lambda net, step: upper.slopes(net, step, "z")  # noqa: B023, E731
        cost, total = Cost(lambda: call(net, 0)), sum_of_terms(problem, upper, of_q)  # noqa: B023
        row["samplings"] = cost.seconds / yardstick.sampling.seconds
        row["training_steps_of_memory"] = cost.bytes / yardstick.step.bytes
        row["signs"] = sum(total[name] * true[name] > 0 for name in STEP)
        yield row | {"cosine_true": cosine(total, true)}


def main(args) -> None:
    torch.set_num_threads(1)
    rows = [as_text(row) for row in read_csv(TABLE)] if TABLE.exists() else []
    known = {row["seed"] for row in rows}
    for seed in range(args.seeds):
        if str(seed) in known:
            continue
        problem = Problem(seed, point=POINT)
        for row in measure(problem, true_total(seed), args.draws):
            rows.append(as_text({"seed": seed} | row))
            print(rows[-1], flush=True)
        write_csv(TABLE, rows)


if __name__ == "__main__":
    main(ARGS)
