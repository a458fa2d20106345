"""The tables of docs/metrics.md, from docs/results; `python -m benchmarks.page` fills them in."""

import json
from itertools import combinations
from pathlib import Path

from benchmarks.record import RESULTS, read_json
from common.judge_files import ASSETS, weights_path
from common.tables import markdown, read_csv

# column of the CSV files -> heading; larger is better where a name stands in LARGER
JUDGED = {
    "fid": "`mnist`", "fid_first": "`first`", "fid_second": "`second`", "fid_pixels": "`pixels`",
    "kid": "KID `mnist`", "kid_first": "KID `first`", "kid_second": "KID `second`",
    "kid_pixels": "KID `pixels`", "precision": "precision", "recall": "recall",
    "confidence": "confidence",
}  # fmt: skip
LARGER = {"precision", "recall", "confidence"}
ORDERED = ("blur", "noise", "holes", "digits left")  # faults that are worse the more there is


def of_networks() -> str:
    """Every shipped network with its record."""
    lines = []
    for path in [
        weights_path("mnist", "mnist", 28),
        *sorted(ASSETS.glob("judges/*.pt"), key=place),
    ]:
        record = json.loads(path.with_suffix(".json").read_text())
        made = record["arguments"]
        of = made.get("network", "mnist"), made.get("dataset", "mnist"), made.get("image_size", 28)
        first, last = record.get("training_images", (0, made["train_images"] - 1))
        correct = f"{100 * record['accuracy']:.2f} %"
        size = f"{record['bytes'] / 1e3:.0f} kB"
        lines.append([f"`{of[0]}`", of[1], of[2], f"{first}–{last}", correct, size])
    head = [
        "network",
        "data",
        "size",
        "training images",
        "test images classified as labelled",
        "file",
    ]
    return markdown(head, lines)


def place(path: Path) -> tuple:
    """MNIST first, the sizes in their order."""
    dataset, size, network = path.stem.split("-")
    return dataset != "mnist", int(size), network


def of_floors(rows: list[dict]) -> str:
    """FIDs, KIDs and the rest of what is real and of noise."""
    names = [name for name in JUDGED if name in rows[0]]
    lines = []
    for row in rows:
        cells = ["–" if row[name] == "" else f"{row[name]:.3g}" for name in names]
        if row["extractor"] != "mnist":  # there the run's own extractor is `first`
            cells[names.index("fid")] = cells[names.index("kid")] = "–"
        lines.append([row["dataset"], row["image_size"], row["images"], *cells])
    return markdown(["data", "size", "images", *(JUDGED[name] for name in names)], lines)


def of_bias(rows: list[dict]) -> str:
    """Mean FID by the number of images, a column a case."""
    cases = list(dict.fromkeys((row["case"], row["true"]) for row in rows))
    head = ["n", *(f"{case}, true {true:.3g}" if true != "" else case for case, true in cases)]
    sizes = sorted({row["n"] for row in rows})
    table = {(row["case"], row["n"]): f"{row['fid_mean']:.3g}" for row in rows}
    return markdown(head, [[n, *(table[case, n] for case, _ in cases)] for n in sizes])


def of_speed(record: dict) -> str:
    lines = [
        [r["what"], r["n"], f"{r['seconds']:.3g} s", f"{r['general_seconds']:.3g} s",
         f"{r['ratio']:.3g}"]
        for r in record["rows"]
    ]  # fmt: skip
    return markdown(["what", "n", "ours", "eigvals", "ratio"], lines)


def of_sets(rows: list[dict]) -> str:
    """Every set of images by every judge."""
    names = [name for name in JUDGED if not name.startswith("kid")] + ["kid_pixels"]
    lines = [
        [row["image_size"], row["fault"], row["degree"], *(f"{row[name]:.3g}" for name in names)]
        for row in rows
    ]
    return markdown(["size", "fault", "degree", *(JUDGED[name] for name in names)], lines)


def of_orders(rows: list[dict]) -> str:
    """How many pairs of one fault each judge puts in the order of their degree."""
    lines = []
    for name, heading in JUDGED.items():
        cells = [heading]
        for fault in ORDERED:
            right, pairs = in_order(rows, name, fault)
            cells.append(f"{right} of {pairs}")
        lines.append(cells)
    return markdown(["judge", *ORDERED], lines)


def in_order(rows: list[dict], judge: str, fault: str) -> tuple[int, int]:
    """Pairs of degrees in the right order, real images being the mildest; and all pairs."""
    right = pairs = 0
    for size in {row["image_size"] for row in rows}:
        values = [
            row[judge] * (-1 if judge in LARGER else 1)
            for row in rows
            if row["image_size"] == size and row["fault"] in ("none", fault)
        ]
        for milder, worse in combinations(values, 2):
            right, pairs = right + (milder < worse), pairs + 1
    return right, pairs


def all_tables() -> dict[str, str]:
    """Every table of the page by the name of its marks."""
    judged = read_csv(RESULTS / "which_judge.csv")
    return {
        "networks": of_networks(),
        "floors": of_floors(read_csv(RESULTS / "fid_floor.csv")),
        "bias": of_bias(read_csv(RESULTS / "fid_bias.csv")),
        "speed": of_speed(read_json("fid_speed")),
        "sets": of_sets(judged),
        "orders": of_orders(judged),
    }
