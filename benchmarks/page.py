"""The tables of bench.py's records as the last part of docs/speed.md: python -m benchmarks.page"""

import json
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PAGE = DOCS / "results", DOCS / "speed.md"
COMPILED = "Our own network compiled"
RECORDS = {
    "Measured in float32": "bench",
    "Measured in bfloat16": "bench_bfloat16",
    COMPILED: "compiled",
}
MARK = "<!-- what follows is written by benchmarks/page.py -->\n"


def table(record, sides=("ours", "plain")):
    """A record's times as a table, and its peaks of memory; `sides` is what to call them."""
    rows = [
        "| | {}, s | spread | {}, s | spread | ratio |".format(*sides),
        "|---|---|---|---|---|---|",
    ]
    memory = []
    for row in record["rows"]:
        if "GiB" in row:
            memory.append(f"{row['what'].removeprefix('peak memory, ')} {row['GiB']:.2f} GiB")
            continue
        cells = [row["what"]]
        for side in ("ours", "plain"):
            s = row.get(side)
            cells += [f"{s['median']:.3g}", f"{s['least']:.3g}–{s['most']:.3g}"] if s else ["", ""]
        cells.append(f"{row['ratio']:.2f}" if "ratio" in row else "")
        rows.append(f"| {' | '.join(cells)} |")
    return f"`{record['command']}`: {record['machine']}.\n\n" + "\n".join(rows) + "\n", memory


def floors(work):
    """A training step's work as a table."""
    speed, copy = work["product, GFLOP/s"], work["copy, GB/s"]
    text = "| | GFLOP | floor, s | GB through operators | floor, s | operators |\n"
    text += "|---|---|---|---|---|---|\n"
    for side in ("ours", "plain"):
        w = work[side]
        text += f"| {side} | {w['GFLOP']:.1f} | {w['GFLOP'] / speed:.2f} | {w['GB']:.1f} "
        text += f"| {w['GB'] / copy:.2f} | {w['operators']} |\n"
    return f"at {speed:.0f} GFLOP/s (a matrix product) and {copy:.1f} GB/s (a copy):\n\n{text}"


def precision(record):
    """FIDs and slopes in both precisions."""
    text = f"`{record['command']}`: `{record['run']}` for each seed and precision; "
    text += f"FID of {record['images']:,} images, extractor `mnist`; {record['machine']}.\n\n"
    text += "| seed | trained in | sampled in float32 | in bfloat16 |\n|---|---|---|---|\n"
    for row in record["fids"]:
        both = " | ".join(f"{row['fid'][kind]:.2f}" for kind in ("float32", "bfloat16"))
        text += f"| {row['seed']} | {row['trained']} | {both} |\n"
    text += "\nZeroth-order slopes, with the same noise and directions in both, "
    text += f"{record['directions']} directions a network:\n\n"
    text += "| seed | of | size (rms) | moved by bfloat16 (rms) | correlation |\n"
    text += "|---|---|---|---|---|\n"
    for row in record["slopes"]:
        for of in ("schedule", "weights"):
            s = row[of]
            text += f"| {row['seed']} | {of} | {s['size']:.4g} | {s['moved']:.3g} "
            text += f"| {s['correlation']:.4f} |\n"
    return text


def whole() -> str:
    """All tables of the files that are there."""
    text = ""
    for title, name in RECORDS.items():
        record = read(name)
        if not record:
            continue
        sides = ("compiled", "as it is") if title == COMPILED else ("ours", "plain")
        rows, memory = table(record, sides)
        text += f"\n## {title}\n\n{rows}"
        if memory:
            text += f"\nPeak memory: {'; '.join(memory)}.\n"
        if record["work"]:
            text += f"\nA training step's work, and its floors {floors(record['work'])}"
    record = read("bfloat16")
    return text + f"\n## What bfloat16 does\n\n{precision(record)}" if record else text


def read(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().split(MARK)[0] + MARK + whole())
