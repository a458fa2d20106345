"""Is the penalty's gradient the true one: training again at another schedule, on the same draws?

python -m benchmarks.hypergradient
python -m benchmarks.hypergradient --network unet

The problem is that of benchmarks.problem, as it is after training and after more steps at a lower
rate, at two points. Writes docs/results/hypergradient.csv or docs/results/hypergradient_unet.csv, a
row a seed, point, gamma, exact_every, number of batches and parameter. Rows that are in the file
stay, and only what is missing is measured.
"""

from common import cli

# network -> problems, steps at the lower rate, batches of the difference of the losses
DEFAULTS = {"mlp": (6, [0, 6000], [47, 400]), "unet": (3, [100], [47, 188])}


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.hypergradient"
    add = cli.adder(parser)
    text = "mlp: fully connected, 128 wide; unet: the U-Net, base 8"
    add("network", "mlp", text, choices=list(DEFAULTS))
    text = "problems, each with its own network and draws (default: 6; 3 with unet)"
    add("seeds", None, text, type=cli.count)
    text = "training steps at the lower rate before anything is compared, one value after the other"
    text += " (default: 0 6000; 100 with unet)"
    add("further", None, text, type=cli.count_or_none, nargs="+")
    text = "steps that share one exact gradient, one value after the other"
    add("exact_every", [10], text, type=cli.count, nargs="+")
    text = "batches of the difference of the losses, one value after the other (default: 47 400; "
    text += "47 188 with unet)"
    add("batches", None, text, type=cli.count, nargs="+")
    text = "where on the schedule's parameters, one value after the other"
    add("points", ["flat", "steep"], text, choices=["flat", "steep"], nargs="+")
    add("gammas", False, "other gammas too, on the first problem", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from functools import lru_cache
from itertools import product
from pathlib import Path

import torch

from benchmarks.problem import KINDS, STEP, Problem, cosine
from benchmarks.record import RESULTS
from common.penalty import PenaltySettings
from common.tables import read_csv, rounded, write_csv

FACTORS = (1e-3, 1e-2, 0.1, 10, 100)  # on the gamma that is chosen


def table_of(network: str) -> Path:
    return RESULTS / ("hypergradient.csv" if network == "mlp" else f"hypergradient_{network}.csv")


@lru_cache(maxsize=1)
def problem_of(network: str, seed: int, point: str, further: int) -> tuple[Problem, dict]:
    """The problem, and what is true of it: in all, directly, and through the weights."""
    problem = Problem(seed, KINDS[network], point=point)
    if further:
        problem.train_further(further)
    total, direct = problem.truth()
    implicit = {name: total[name] - direct[name] for name in STEP}
    return problem, {"total": total, "direct": direct, "implicit": implicit}


def measure(unit: tuple, gamma: float | None, every: int, batches: list[int]) -> list[dict]:
    """Rows of one run of the penalty: both terms for a step of h in each parameter."""
    problem, true = problem_of(*unit)
    settings = PenaltySettings(gamma, every, problem.kind.memory, batches=max(batches))
    penalty, rows = problem.penalty(settings), []
    for k in batches:
        implicit, direct = problem.terms(penalty, k)
        ours = {"total": {name: implicit[name] + direct[name] for name in STEP}}
        ours |= {"direct": direct, "implicit": implicit}
        key = {"seed": unit[1], "point": unit[2], "further": unit[3], "gamma": penalty.gamma}
        key |= {"auto": gamma is None, "exact_every": every, "batches": k}
        for name in STEP:
            row = key | {"parameter": name, "h": STEP[name]}
            for kind in true:
                row |= {f"true_{kind}": true[kind][name], kind: ours[kind][name]}
                row[f"cosine_{kind}"] = cosine(ours[kind], true[kind])
            rows.append(as_text(row))
            print(rows[-1], flush=True)
    return rows


def as_text(row: dict) -> dict[str, str]:
    """A row as the file holds it."""
    return {k: str(v) for k, v in rounded(row, 4).items()}


def main(args) -> None:
    torch.set_num_threads(1)
    defaults = DEFAULTS[args.network]
    seeds, further, batches = args.seeds or defaults[0], args.further, args.batches
    further, batches = further or defaults[1], batches or defaults[2]
    table = table_of(args.network)
    rows = [as_text(row) for row in read_csv(table)] if table.exists() else []

    def rows_of(unit: tuple, every: int, auto: bool = True) -> list[dict]:
        names = ("seed", "point", "further", "exact_every", "auto")
        return [
            row
            for row in rows
            if [row[n] for n in names] == [*map(str, unit), str(every), str(auto)]
        ]

    def add(*run) -> None:
        rows.extend(measure(*run))
        write_csv(table, rows)

    for *unit, every in product(range(seeds), args.points, further, args.exact_every):
        known = {row["batches"] for row in rows_of(unit, every)}
        if missing := [k for k in batches if str(k) not in known]:
            add((args.network, *unit), None, every, missing)
    if args.gammas:
        first, every = (0, args.points[0], further[0]), args.exact_every[0]
        gamma = float(rows_of(first, every)[0]["gamma"])
        known = {float(row["gamma"]) for row in rows_of(first, every, False)}
        for factor in FACTORS:
            if gamma * factor not in known:
                add((args.network, *first), gamma * factor, every, batches[:1])


if __name__ == "__main__":
    main(ARGS)
