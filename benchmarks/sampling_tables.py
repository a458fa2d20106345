"""The tables of docs/sampling_schedules.md."""

import json
from statistics import mean

from benchmarks.record import RESULTS
from common.tables import markdown, plus_minus, read_csv
from comparison.rows import grouped

# columns of predicted_noise.csv -> heading: how much larger than noised images it is
CHAINS = {
    "chain": "10 steps",
    "chain_50": "50 steps",
    "chain_tau": "10 steps, tau 1.15",
    "chain_scaled": "10 steps, eps_scale 1.15",
}
# columns of scores -> heading
SCORES = {
    "minimised": "the minimised FID",
    "fid_first": "`first`",
    "fid_second": "`second`",
    "fid_pixels": "`pixels`",
    "precision": "precision",
    "recall": "recall",
}


def by_size(rows: list[dict], *columns: str) -> list[tuple[tuple, list[dict]]]:
    """Rows of several networks by size, name and other columns, in the order of the first two."""
    groups = grouped(rows, "size", "network", *columns).items()
    return sorted(groups, key=lambda group: group[0][:2])


def of_predicted_noise(rows: list[dict]) -> str:
    """Mean over the networks of a kind, at every other time."""
    lines = []
    for (size, network), of_kind in by_size(rows):
        for time in sorted({r["time"] for r in of_kind}, reverse=True)[1::2]:
            at = [r for r in of_kind if r["time"] == time]
            factor = mean(r["factor"] for r in at)
            sizes = [f"{mean(r[name] / r['noised'] - 1 for r in at):+.1%}" for name in CHAINS]
            lines.append([size, network, len(at), time, f"{factor:.3f}", *sizes])
    return markdown(["size", "network", "networks", "t", "best factor", *CHAINS.values()], lines)


def scores_of(run: list[dict]) -> list[str]:
    """Mean and standard error over networks."""
    return [plus_minus([r[name] for r in run], ".3g") for name in SCORES if name in run[0]]


def of_fids(rows: list[dict]) -> str:
    lines = [
        [size, network, len(run), chain, *scores_of(run)]
        for (size, network, chain), run in by_size(rows, "chain")
    ]
    head = ["size", "network", "networks", "chain of ten steps"]
    return markdown([*head, *(SCORES[name] for name in SCORES if name in rows[0])], lines)


def of_frozen_search(rows: list[dict]) -> str:
    """A line a method and what it varies; the values of a constant are named."""
    lines = []
    about = "steps", "noises", "n", "space", "method", "samplings"
    for (size, network, steps, _, _, space, method, samplings), run in by_size(rows, *about):
        values = [json.loads(r["point"]).get(space) for r in run]
        label = space
        if method == "grid":
            label += ": " + ", ".join(f"{value:g}" for value in values)
        lines.append([size, network, len(run), steps, label, method, samplings, *scores_of(run)])
    head = ["size", "network", "networks", "steps", "over", "method", "samplings"]
    return markdown([*head, *SCORES.values()], lines)


def all_tables() -> dict[str, str]:
    """All by the names of their marks."""
    tables = {
        "predicted_noise": of_predicted_noise,
        "predicted_noise_fids": of_fids,
        "frozen_search": of_frozen_search,
    }
    return {name: make(read_csv(RESULTS / f"{name}.csv")) for name, make in tables.items()}
