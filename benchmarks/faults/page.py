"""What docs/reliability.md shows of the campaign, and of the protections that were removed."""

from removals import removals

from benchmarks.faults.row import Row
from benchmarks.record import ROOT, read_json
from common.tables import markdown

PAGE = ROOT / "docs" / "reliability.md"


def held(result: dict | None) -> str:
    if not result or not result["n"]:
        return "not measured"
    return f"{result['held']:,} of {result['n']:,}"


def noticed() -> str:
    """Of the protections that are removed today, how many removals a test noticed."""
    record = (read_json("sabotage") or {"removals": {}})["removals"]
    names = [removal.name for removal in removals()]
    results = [record[name] for name in names if name in record]
    text = held({"n": len(results), "held": sum(result["noticed"] for result in results)})
    return f"{text}; {len(names) - len(results)} not tried" if len(results) < len(names) else text


def seconds_of_all(rows: list[Row], record: dict) -> tuple[float, int]:
    """What all cases take, at the pace of those that were tried; and the cases not tried yet."""
    total, left = 0.0, 0
    for row in rows:
        result = record["rows"].get(row.name, {"i": 0, "seconds": 0.0})
        total += result["seconds"] * (row.whole / result["i"] if result["i"] else 0)
        left += max(0, row.whole - result["i"])
    return total, left


def times(rows: list[Row], record: dict) -> str:
    """How long the campaign takes, in a sentence."""
    total, left = seconds_of_all(rows, record)
    took = f"All cases take {total / 60:.0f} minutes"
    if left:
        took += f" at the pace of those that were tried; not yet tried: {left:,}"
    if quick := record.get("quick"):
        took += f". `--quick` took {quick['seconds']:.0f} seconds for {quick['n']:,} cases"
        took += f", of which {quick['held']:,} held"
    return f"{took}. The machine had other work at the time."


def tables(rows: list[Row], record: dict) -> dict[str, str]:
    """By the name of their place on the page."""
    cells = [[row.fault, row.promise, held(record["rows"].get(row.name))] for row in rows]
    cells.append(["each protection removed", "at least one test fails", noticed()])
    return {
        "faults": markdown(["fault", "promise", "held"], cells),
        "time of the faults": times(rows, record),
    }
