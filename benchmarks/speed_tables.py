"""The tables of docs/speed.md."""

from benchmarks.record import read_json
from common.tables import markdown

# name of the table -> file in docs/results, names of the sides
TIMES = {
    "float32": ("bench", ("ours", "plain")),
    "bfloat16": ("bench_bfloat16", ("ours", "plain")),
    "compiled": ("compiled", ("compiled", "not compiled")),
}


def all_tables() -> dict[str, str]:
    """Every table of the page by the name of its marks, for the files that are there."""
    tables = {}
    for name, (file, sides) in TIMES.items():
        if record := read_json(file):
            tables[name] = of_times(record, sides)
            if record["work"]:
                tables[f"{name}, floors"] = of_floors(record["work"])
    if record := read_json("bfloat16"):
        tables["bfloat16, FID"] = of_fids(record)
        tables["bfloat16, slopes"] = of_slopes(record)
    return tables


def of_times(record: dict, sides: tuple[str, str]) -> str:
    """A record's times and its peaks of memory, under the command that measured them."""
    rows, memory = [], []
    for row in record["rows"]:
        if "GiB" in row:
            name = row["what"].removeprefix("peak memory, ")
            memory.append(f"{name} {row['GiB']:.2f} GiB")
            continue
        cells = [row["what"]]
        for side in ("ours", "plain"):
            s = row.get(side)
            cells += [f"{s['median']:.3g}", f"{s['least']:.3g}–{s['most']:.3g}"] if s else ["", ""]
        rows.append([*cells, f"{row['ratio']:.2f}" if "ratio" in row else ""])
    ours, theirs = sides
    head = ["", f"{ours}, s", "spread", f"{theirs}, s", "spread", "ratio"]
    text = f"`{record['command']}`: {record['machine']}.\n\n{markdown(head, rows)}"
    return text + (f"\n\nPeak memory: {'; '.join(memory)}." if memory else "")


def of_floors(work: dict) -> str:
    """A training step's work, and how long it would take at the machine's speeds."""
    product, copy = work["product, GFLOP/s"], work["copy, GB/s"]
    rows = [
        [
            side,
            f"{work[side]['GFLOP']:.1f}",
            f"{work[side]['GFLOP'] / product:.2f}",
            f"{work[side]['GB']:.1f}",
            f"{work[side]['GB'] / copy:.2f}",
            work[side]["operators"],
        ]
        for side in ("ours", "plain")
    ]
    head = ["", "GFLOP", f"floor at {product:.0f} GFLOP/s, s", "GB through operators"]
    return markdown([*head, f"floor at {copy:.1f} GB/s, s", "operators"], rows)


def of_fids(record: dict) -> str:
    """The FIDs of networks trained and sampled in both precisions."""
    rows = [
        [
            row["seed"],
            row["trained"],
            f"{row['fid']['float32']:.2f}",
            f"{row['fid']['bfloat16']:.2f}",
        ]
        for row in record["fids"]
    ]
    text = f"`{record['command']}`: `{record['run']}` for each seed and precision; "
    text += f"FID of {record['images']:,} images, extractor `mnist`; {record['machine']}."
    head = ["seed", "trained in", "sampled in float32", "sampled in bfloat16"]
    return f"{text}\n\n{markdown(head, rows)}"


def of_slopes(record: dict) -> str:
    """How far bfloat16 moves the zeroth-order slopes."""
    rows = []
    for row in record["slopes"]:
        for of in ("schedule", "weights"):
            s = row[of]
            numbers = [f"{s['size']:.4g}", f"{s['moved']:.3g}", f"{s['correlation']:.4f}"]
            rows.append([row["seed"], of, *numbers, record["directions"]])
    head = ["seed", "of", "size (rms)", "moved by bfloat16 (rms)", "correlation", "directions"]
    return markdown(head, rows)
