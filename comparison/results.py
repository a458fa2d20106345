"""The results of finished cells: rows for the CSV files, and the points of the curves."""

import json
import math
from collections import Counter
from pathlib import Path

from torch import Tensor

from common import checkpoint
from common.errors import Stop, first_line, parse_json, read_json
from common.families import NAMES, among
from common.judging import Judges, judge_checkpoint
from common.machine import progress_bar, setup
from common.run import forward_passes
from common.sampling import SamplerSettings, load_sampler
from common.scores import COLUMNS, JUDGES_COLUMNS
from common.tables import read_text_csv
from comparison.cells import NETWORK, Cell
from comparison.jobs import check_flags
from comparison.scales import SCALES
from search.ledger import Ledger

COSTS = ("training", "upper", "sampling")
SCHEDULE = ("timesteps", "start", "end", "tau", "epsilon")  # columns of the learned schedule
TERMS = tuple(f"{term}_{name}" for name in NAMES for term in ("direct", "implicit"))
AVERAGES = tuple(f"{part}_{name}" for name in NAMES for part in ("grad", "spread"))
SCORES = (*COLUMNS, *JUDGES_COLUMNS)
FROZEN_SAMPLER = "tau_type", "eps_scale"  # what else a frozen run may change for all its regimes
JUDGED = ("steps", "clip", "n", "extractor", "reference")  # a row of judged.json beside its scores


def regimes(scale: str, steps: int) -> list[tuple[int, bool, int]]:
    """In which DDIM steps, with clipping or not, and on how many images a network is judged."""
    sizes = SCALES[scale]
    pairs = [(steps, sizes.judged), *((chain, sizes.chain_images) for chain in sizes.chains)]
    return [(chain, clip, n) for chain, n in pairs for clip in (True, False)]


def judged(cell: Cell) -> list[dict]:
    """What all judges say of a cell's network in every regime, from noise that no run has seen.

    Each regime's scores are kept beside the checkpoint as soon as they are there.
    """
    path = cell.folder / "judged.json"
    known = known_scores(path) if path.exists() else []
    network, arguments, changes = network_of(cell)
    wanted = regimes(cell.scale, arguments["backward_steps"])
    missing = [regime for regime in wanted if regime not in map(regime_of, known)]
    if missing:
        device = setup(arguments["device"], arguments["cpu"], arguments["threads"])
        judges = Judges.from_flags(device, **arguments)
    for steps, clip, n in missing:
        settings = SamplerSettings.from_flags(
            **arguments | {"backward_steps": steps, "no_clip": not clip}
        )
        scores = judge_checkpoint(network, judges, device, n, settings, "report", **changes)
        known.append({"steps": steps, "clip": clip, **scores})
        checkpoint.write_json(path, known)
    return [row for row in known if regime_of(row) in wanted]


def known_scores(path: Path) -> list[dict]:
    """The scores in a judged.json; a Stop names the file where it is damaged."""
    try:
        rows = parse_json(path.read_bytes())
        if not isinstance(rows, list):
            raise ValueError("holds no list")
        for row in rows:
            for name in JUDGED:
                row[name]
    except (ValueError, TypeError, LookupError) as error:
        raise Stop(
            f"{path}: damaged ({first_line(error)}); delete it to judge the run anew"
        ) from None
    return rows


def regime_of(row: dict) -> tuple[int, bool, int]:
    return row["steps"], row["clip"], row["n"]


def network_of(cell: Cell) -> tuple[Path, dict, dict]:
    """A cell's checkpoint, the arguments that judge it, and what a frozen run samples with."""
    trained = cell.network or cell
    folder, places = trained.chosen, cell.places
    arguments = read_json(folder / "args.json")["arguments"]
    # not the cache of a run's folder, which does not say where to write
    arguments |= {"device": places.device, "data_dir": places.data_dir, "cache_dir": "cache"}
    if not cell.network:
        return checkpoint.newest(folder), arguments, {}
    how = read_json(cell.folder / "args.json")["arguments"]
    arguments |= {name: how[name] for name in FROZEN_SAMPLER if name in how}
    learned = read_json(cell.folder / "schedule.json")
    changes = {"sampling_schedule": learned, "told": learned["told"]}
    return checkpoint.newest(folder), arguments, changes


def samples_of(cell: Cell, clip: bool) -> Tensor:
    """A cell's first 36 images by one sampler, from the noise that every picture begins with."""
    network, arguments, changes = network_of(cell)
    settings = SamplerSettings.from_flags(**arguments | {"no_clip": not clip})
    net, sampler = load_sampler(network, "cpu", settings, **changes)
    return sampler.all_of(net, 36, "picture")


def drawn_with(cell: Cell) -> tuple[bool, ...]:
    """By which samplers a figure shows a cell: both, or the one that it was optimised for."""
    return (True, False) if cell.kind == "train" else (not cell.parsed().no_clip,)


def check_same(cell: Cell) -> dict:
    """The content of a run's args.json; a Stop if its flags are no longer the cell's."""
    about, asked = read_json(cell.folder / "args.json"), vars(cell.parsed())
    from_elsewhere = {*among(asked), "schedule_from", "scheduler_type"} if cell.source else set()
    from_elsewhere |= {"ckpt", "image_size"} if cell.network else set()  # the network's
    from_elsewhere |= {"frozen_updates"} if cell.kind == "bilevel" else set()  # not read there
    asked = {name: value for name, value in asked.items() if name not in from_elsewhere}
    check_flags(cell.folder, asked, about["arguments"])
    for earlier in cell.begins_with:
        if earlier.done:
            check_same(earlier)
    if (row := cell.source_row) and not cell.source.made_by(row["command"]):
        raise Stop(
            f"{cell.folder}: trained with the schedule of a row that was made with other flags; "
            "move it away, and the same command makes it anew"
        )
    noted = cell.root / NETWORK
    if cell.network and noted.exists() and read_json(noted) != cell.network_now:
        raise Stop(
            f"{cell.folder}: learned for another network than {cell.network.folder} has; move it "
            "away, and the same command makes it anew"
        )
    if cell.source and cell.source.done:  # which may have been made anew since
        trained, learned = (read_json(c.folder / "schedule.json") for c in (cell, cell.source))
        if trained != learned:
            raise Stop(
                f"{cell.folder}: trained with another schedule than {cell.source.folder} has; move "
                "it away, and the same command makes it anew"
            )
    return about


def spent_of(cell: Cell) -> dict:
    """Seconds, evaluations and steps of a cell's run, with those of the run it begins with."""
    summary = cell.summary
    cost = Counter(summary.get("network_evaluations", {}))
    # theta_y's, or those of all trials
    steps = summary.get("steps") or cost["training"] // cell.parsed().batch_size
    spent = {"seconds": summary["seconds"], "cost": cost, "steps": steps}
    before = [spent_of(earlier) for earlier in cell.begins_with]
    before += [spent_in(cell.source_row)] if cell.source_row else []
    for earlier in before:
        spent = {name: value + earlier[name] for name, value in spent.items()}
    return spent


def spent_in(row: dict[str, str]) -> dict:
    """The same of a run that is not at hand, from its row."""
    cost = Counter({name: int(row[name]) for name in COSTS})
    return {"seconds": float(row["seconds"]), "cost": cost, "steps": int(row["gradient_steps"])}


def run_row(cell: Cell) -> dict:
    """What a cell's run cost, what it learned and where it ran."""
    about, summary, spent = check_same(cell), cell.summary, spent_of(cell)
    peak = {k.removeprefix("trials_peak_"): v for k, v in summary.items() if "_peak_" in k}
    peak = peak or summary["peak_memory"]
    schedule = read_json(cell.folder / "schedule.json")
    versions = about.get("versions", {})
    return {
        "method": cell.method, "seed": cell.seed, "seconds": spent["seconds"],
        "forward_passes": forward_passes(spent["cost"]),
        **{name: spent["cost"].get(name, 0) for name in COSTS},
        "gradient_steps": spent["steps"], "trials": summary.get("trials"),
        "peak_bytes": peak.get("cuda", peak["host"]),
        **{name: schedule.get(name) for name in SCHEDULE},
        "schedule": json.dumps(schedule, separators=(",", ":")),
        "host": about.get("host"), "device": about["device"], "threads": about["threads"],
        "processor": about.get("processor"), "python": versions.get("python"),
        "torch": versions.get("torch"), "commit": about["commit"], "command": cell.command,
    }  # fmt: skip


def rows_of(cells: list[Cell]) -> tuple[list[dict], list[dict]]:
    """A row a cell, and a row a cell and regime, in their order."""
    runs, scores = [], []
    with progress_bar(total=len(cells), desc="judging") as bar:
        for cell in cells:
            runs.append(run_row(cell))
            for row in judged(cell):
                place = {"method": cell.method, "seed": cell.seed}
                measured = {name: row.get(name) for name in SCORES}
                scores.append(place | {name: row[name] for name in JUDGED} | measured)
            bar.update()
    return runs, scores


def curves(cells: list[Cell]) -> list[dict]:
    """FID against forward passes: a search's best so far, a bilevel run's after each epoch."""
    points = []
    for cell in cells:
        track = {"search": _track_of_search, "bilevel": _track_of_bilevel}.get(cell.kind)
        for passes, fid in track(cell.folder) if track else ():
            point = {"method": cell.method, "seed": cell.seed}
            points.append({**point, "forward_passes": passes, "fid": fid})
    return points


def _track_of_search(folder: Path):
    passes, best = 0, math.inf
    for _, row in sorted(Ledger(folder / "search.jsonl").rows.items()):
        passes += forward_passes(row["network_evaluations"])
        best = min(best, row["objective"] if row["objective"] is not None else math.inf)
        yield passes, best


def _track_of_bilevel(folder: Path):
    for row in read_text_csv(folder / "scores.csv"):
        yield int(row["evaluations"]), float(row["fid"] or "nan")


def slopes(cells: list[Cell]) -> list[dict]:
    """Both terms of dF/dq of bilevel runs with exact gradients, a logged row where they are new."""
    rows = []
    for cell in cells:
        path, last = cell.folder / "iterations.csv", None
        if cell.kind != "bilevel" or not path.exists():
            continue
        for row in read_text_csv(path):
            terms = {name: row.get(name) for name in TERMS}
            if all(terms.values()) and terms != last:
                place = {"method": cell.method, "seed": cell.seed, "iteration": row["iteration"]}
                rows.append(place | terms | {name: row.get(name) for name in AVERAGES})
                last = terms
    return rows


def beside_noise(cells: list[Cell]) -> list[dict]:
    """What bilevel runs learned, and from where to where noise alone would have taken it."""
    rows = []
    for cell in cells:
        path = cell.folder / "null_band.json"
        if cell.kind != "bilevel" or not path.exists():
            continue
        band, learned = read_json(path), read_json(cell.folder / "schedule.json")
        for name in (name for name in NAMES if f"{name}_low" in band):
            ends = {end: band[f"{name}_{end}"][-1] for end in ("low", "high")}
            place = {"method": cell.method, "seed": cell.seed, "parameter": name}
            rows.append(place | {"learned": learned[name]} | ends)
    return rows
