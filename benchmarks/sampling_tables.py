"""The tables of docs/comparison.md that other benchmarks than the comparison fill."""

import json
from itertools import product
from statistics import mean

from benchmarks.record import RESULTS
from common.tables import markdown, plus_minus, read_csv

# columns of predicted_noise.csv -> heading
CHAINS = {
    "chain": "10 steps",
    "chain_50": "50 steps",
    "chain_tau": "10 steps, tau 1.15",
    "chain_scaled": "10 steps, eps_scale 1.15",
}
# and of frozen_search.csv
FOUND = {
    "minimised": "the minimised FID",
    "fid_first": "`first`",
    "fid_second": "`second`",
    "fid_pixels": "`pixels`",
    "precision": "precision",
    "recall": "recall",
}


def by_size(rows: list[dict]) -> list[tuple]:
    """The kinds of networks, each with the side of its images."""
    return sorted(dict.fromkeys((r["size"], r["network"]) for r in rows))


def of_predicted_noise(rows: list[dict]) -> str:
    """Mean over the networks of a kind, at every other time; sizes beside that on images."""
    times, lines = sorted({r["time"] for r in rows}, reverse=True)[1::2], []
    for kind, time in product(by_size(rows), times):
        at = [r for r in rows if (r["size"], r["network"], r["time"]) == (*kind, time)]
        factor = mean(r["factor"] for r in at)
        sizes = [mean(r[name] / r["images"] - 1 for r in at) for name in CHAINS]
        lines.append([*kind, len(at), time, f"{factor:.3f}", *(f"{size:+.1%}" for size in sizes)])
    return markdown(["size", "network", "networks", "t", "best factor", *CHAINS.values()], lines)


def of_fids(rows: list[dict]) -> str:
    """Mean and standard error over the networks of a kind, by chain."""
    lines, names = [], [name for name in FOUND if name in rows[0]]
    for kind, chain in product(by_size(rows), dict.fromkeys(r["chain"] for r in rows)):
        run = [r for r in rows if (r["size"], r["network"], r["chain"]) == (*kind, chain)]
        cells = [plus_minus([r[name] for r in run], ".3g") for name in names]
        lines.append([*kind, len(run), chain, *cells])
    head = ["size", "network", "networks", "chain of ten steps"]
    return markdown([*head, *(FOUND[name] for name in names)], lines)


def of_frozen_search(rows: list[dict]) -> str:
    """Mean and standard error over the networks of a kind: a line a method and what it varies."""
    lines, plans = [], dict.fromkeys((r["space"], r["method"]) for r in rows)
    for kind, (space, method) in product(by_size(rows), plans):
        about = *kind, space, method
        run = [r for r in rows if (r["size"], r["network"], r["space"], r["method"]) == about]
        if not run:
            continue
        label = space
        if method == "grid":
            label += ": " + ", ".join(f"{json.loads(r['found'])[space]:g}" for r in run)
        cells = [plus_minus([r[name] for r in run], ".3g") for name in FOUND]
        lines.append([*kind, label, method, run[0]["samplings"], *cells])
    return markdown(["size", "network", "over", "method", "samplings", *FOUND.values()], lines)


def all_tables() -> dict[str, str]:
    """All by the names of their marks."""
    return {
        "predicted_noise": of_predicted_noise(read_csv(RESULTS / "predicted_noise.csv")),
        "predicted_noise_fids": of_fids(read_csv(RESULTS / "predicted_noise_fids.csv")),
        "frozen_search": of_frozen_search(read_csv(RESULTS / "frozen_search.csv")),
    }
