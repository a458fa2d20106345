"""How fast is the FID beside the general eigenproblem, eigvals(C C_r), that torchmetrics solves?

python -m benchmarks.fid            prints the table, writes docs/results/fid_speed.json
python -m benchmarks.fid --quick    128 dimensions, writes nothing
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.fid"
    add = cli.adder(parser)
    add("quick", False, "measure in 128 dimensions and write nothing", action="store_true")
    add("repeats", 3, "calls, of which the fastest counts", type=cli.count)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.record import command_line, write_json
from benchmarks.timing import seconds
from metrics import FeatureStatistics, Reference, frechet_distance

FEW = 36  # images of an FID of the upper level


def fastest(call: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Seconds of the fastest call after one that is not counted, and the value it returns."""
    value = float(call())
    return min(seconds(call) for _ in range(repeats)), value


def streamed(x: Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for part in x.split(500):
        statistics.update(part)
    return statistics


def with_gradient(x: Tensor, reference: Reference) -> Tensor:
    leaf = x.clone().requires_grad_()
    value = frechet_distance(leaf, reference)
    torch.autograd.grad(value, leaf)
    return value.detach()


def row(name: str, n: int, d: int, ours: tuple, general: tuple) -> dict:
    """One row of the table, printed; each side is (seconds, value)."""
    ratio, difference = general[0] / ours[0], abs(ours[1] / general[1] - 1)
    print(
        f"{name:28s} {n:6d} {d:5d} {ours[0]:10.5f} {general[0]:10.3f} {ratio:8.1f} "
        f"{difference:8.0e}"
    )
    return {"what": name, "n": n, "d": d, "seconds": ours[0], "general_seconds": general[0],
            "ratio": ratio, "relative_difference": difference}  # fmt: skip


def measure(d: int, n_many: int, repeats: int) -> list[dict]:
    """The rows of the table: from few features, with their gradient, and from moments."""
    spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5

    def draw(n):
        return torch.randn(n, d, dtype=torch.float64) * spectrum

    reference = Reference(*streamed(draw(n_many)).moments(), n_many, "drawn", "none")
    assert reference.root.shape == (d, d)  # computed once, not within a row
    few, many = draw(FEW) * 1.1, streamed(draw(n_many) * 1.1)
    mean, cov = many.moments()
    names = ("n", "d", "s", "general s", "ratio", "differ")
    print(" " * 28 + " {:>6s} {:>5s} {:>10s} {:>10s} {:>8s} {:>8s}".format(*names))
    general = fastest(lambda: plain.fid(few.mean(0), few.T.cov(), reference), repeats)
    often = 10 * repeats + 11  # a few milliseconds each
    direct = fastest(lambda: frechet_distance(few, reference), often)
    gradient = fastest(lambda: with_gradient(few, reference), often)
    rows = [row("from features", FEW, d, direct, general)]
    rows.append(row("from features, with gradient", FEW, d, gradient, general))
    general = fastest(lambda: plain.fid(mean, cov, reference), repeats)
    ours = fastest(lambda: many.fid(reference), repeats)
    return [*rows, row("from moments", n_many, d, ours, general)]


def main(args) -> None:
    torch.manual_seed(0)
    rows = measure(*((128, 1000) if args.quick else (2048, 10000)), args.repeats)
    if args.quick:
        return
    record = {
        "command": command_line("fid"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "rows": rows,
    }
    write_json("fid_speed", record)


if __name__ == "__main__":
    main(ARGS)
