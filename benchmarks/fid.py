"""How fast FID is beside the general eigenproblem (eigvals of C·C_r) that torchmetrics solves.

python -m benchmarks.fid            prints the table, writes docs/results/fid_speed.json
python -m benchmarks.fid --quick    128 dimensions, writes nothing
"""

import argparse
import json
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
from metrics import FeatureStatistics, Reference, frechet_distance


def general(mean, cov, reference):
    """The same distance by a general eigenproblem."""
    trace_sqrt = torch.linalg.eigvals(cov @ reference.cov).sqrt().real.sum()
    gap = (mean - reference.mean).square().sum()
    return gap + cov.trace() + reference.trace - 2 * trace_sqrt


def seconds(f, repeats):
    """The fastest call after one that is not counted, and what it returned."""
    value, times = f(), []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times), float(value)


def streamed(x):
    statistics = FeatureStatistics()
    for part in x.split(500):
        statistics.update(part)
    return statistics


def derived(x, reference):
    leaf = x.clone().requires_grad_()
    value = frechet_distance(leaf, reference)
    torch.autograd.grad(value, leaf)
    return value.detach()


def measure(d, n_many, repeats):
    """The rows of the table: name, n, d, our seconds, the general form's seconds."""
    spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5

    def draw(n):
        return torch.randn(n, d, dtype=torch.float64) * spectrum

    start = time.perf_counter()
    reference = Reference(*streamed(draw(n_many)).moments(), n_many, "drawn", "none")
    assert reference.root.shape == (d, d)
    print(f"the reference's moments and root, once: {time.perf_counter() - start:.2f} s")
    few, many = draw(36) * 1.1, streamed(draw(n_many) * 1.1)
    rows = []

    def add(what, n, ours, theirs):
        ratio, error = theirs[0] / ours[0], abs(ours[1] / theirs[1] - 1)
        rows.append(
            {"what": what, "n": n, "d": d, "seconds": ours[0], "general_seconds": theirs[0],
             "ratio": ratio, "relative_difference": error}
        )  # fmt: skip
        print(
            f"{what:28s} {n:6d} {d:5d} {ours[0]:10.5f} {theirs[0]:10.3f} {ratio:8.1f} {error:8.0e}"
        )

    print(
        f"{'':28s} {'n':>6s} {'d':>5s} {'s':>10s} {'general s':>10s} {'ratio':>8s} {'differ':>8s}"
    )
    theirs = seconds(lambda: general(few.mean(0), few.T.cov(), reference), repeats)
    many_repeats = 10 * repeats + 11
    add(
        "from features", 36, seconds(lambda: frechet_distance(few, reference), many_repeats), theirs
    )
    add(
        "from features, with gradient",
        36,
        seconds(lambda: derived(few, reference), many_repeats),
        theirs,
    )
    mean, cov = many.moments()
    theirs = seconds(lambda: general(mean, cov, reference), repeats)
    add("from moments", n_many, seconds(lambda: many.fid(reference), repeats), theirs)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="128 dimensions, writes nothing")
    parser.add_argument("--repeats", type=int, default=3, help="calls, of which the fastest counts")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = measure(128 if args.quick else 2048, 1000 if args.quick else 10000, args.repeats)
    if args.quick:
        return
    out = ROOT / "docs" / "results" / "fid_speed.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "python -m benchmarks.fid",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "rows": rows,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
