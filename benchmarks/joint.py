"""Does the schedule go where it should when network and schedule learn together?

python -m benchmarks.joint

The problem of benchmarks.problem, 5,000 steps side by side with an update of the schedule
every 50: held still, moved by the direct term alone, and by direct and implicit term. Afterwards a
network is trained from scratch at each schedule. Writes docs/results/joint.csv, a row an update,
and docs/results/joint_end.csv, a row a run.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.joint"
    add = cli.adder(parser)
    add("seeds", 2, "problems, each with its own network and draws", type=cli.count)
    add("steps", 5000, "steps of theta_y and theta_z side by side", type=cli.count)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import torch

from benchmarks.problem import DDIM_STEPS, Mlp, Problem
from benchmarks.record import RESULTS
from common.objective import UpperSettings
from common.penalty import Penalty, PenaltySettings
from common.step_rule import SteadySteps
from common.tables import rounded, write_csv
from common.training import Average
from common.upper_level import UpperLevel

KINDS = ("held", "direct", "direct and implicit")
RATES = [0.01, 0.01, 0.1, 0.004]


def run(seed: int, kind: str, steps: int) -> tuple[list[dict], dict]:
    """A row an update, and the end."""
    problem = Problem(seed)
    settings = UpperSettings(DDIM_STEPS, 64, seed, upper_gradient="exact")
    upper = UpperLevel(problem.sampler, problem.judge, problem.schedule, settings)
    coupled = PenaltySettings(None, 10, 100, settle_steps=200, update_every=50, batches=16)
    penalty = Penalty(problem.going_on(), problem.going_on(), upper, coupled)
    rates = [0.0] * 4 if kind == "held" else RATES
    q, rows = SteadySteps(problem.schedule, rates, coupled.updates(steps)), []
    process = problem.sampler.process
    for _ in range(steps):
        penalty.step(process, problem.levels())
        if penalty.due():
            total = penalty.slope(process, penalty.batches(problem.batches), seed, q.count)
            direct, implicit = (term.gradient for term in penalty.terms)
            q.step(direct if kind == "direct" else total)
            row = {"seed": seed, "moved_by": kind, "step": penalty.steps, "gamma": penalty.gamma}
            row |= {"fid": penalty.terms[0].value, **problem.schedule.values()}
            for name, *pair in zip(problem.schedule.q, direct, implicit, strict=True):
                row[f"direct_{name}"], row[f"implicit_{name}"] = (x.item() for x in pair)
            rows.append(row)
    values = problem.schedule.values()
    end = {"seed": seed, "moved_by": kind, **values}
    end["fid"] = problem.fid(penalty.averages[1].model, values)
    end["fid_from_scratch"] = from_scratch(problem, values, seed, steps)
    print(rounded(end, 4), flush=True)
    return rows, end


def from_scratch(problem: Problem, values: dict, seed: int, steps: int) -> float:
    """F of a network trained at a schedule from its first weights on, in two rates."""
    torch.manual_seed(seed + 100)
    process = problem.process_of(values)
    learner = problem.learner_of(Mlp(), 1e-3)
    average = Average(learner.net, 0.99, 1, 0)
    for step in range(steps):
        if step == steps * 3 // 5:
            learner.optimizer.param_groups[0]["lr"] = 3e-4
        learner.step(process)
        average.after_step(learner.net, learner.count)
    return problem.fid(average.model, values)


def main(args) -> None:
    torch.set_num_threads(1)
    rows, ends = [], []
    for seed in range(args.seeds):
        for kind in KINDS:
            path, end = run(seed, kind, args.steps)
            rows, ends = rows + path, [*ends, end]
    write_csv(RESULTS / "joint.csv", [rounded(row, 4) for row in rows])
    write_csv(RESULTS / "joint_end.csv", [rounded(end, 4) for end in ends])


if __name__ == "__main__":
    main(ARGS)
