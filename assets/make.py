"""What lies in assets/ beside the classifier, made from a run and from the results.

python -m assets.make --run runs/00003-train-seed0    its network and its GIF
python -m assets.make --schedules                     the learned schedules of docs/results
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parent

import torch

from common import checkpoint, cli, figures
from common.errors import guarded
from common.families import NAMES
from common.sampling import load_sampler
from comparison import report
from reproduce import SCALES
from scheduler import Schedule
from train_mnist import make_parser

NETWORK, SUMS = ASSETS / "mnist.pt", ASSETS / "SHA256SUMS"
KEPT = ("kind", "args", "schedule", "shape", "step", "ema")  # what drawing needs of a checkpoint
PLACES = {"data_dir", "runs_dir", "cache_dir", "schedule_from", "resume"}  # of a machine
SHOWN = 40  # images, in rows of ten
SHIPPED = ("bayesian", "bilevel zo", "bilevel forward")


def ship(folder: Path) -> None:
    """A run's averaged network as a checkpoint of its own, and how it was made."""
    state = checkpoint.load(checkpoint.newest(folder))
    about = json.loads((folder / "args.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    state["args"] = {k: v for k, v in state["args"].items() if k not in PLACES}
    checkpoint.save(NETWORK, {name: state[name] for name in KEPT})
    words = cli.words(make_parser(), argparse.Namespace(**state["args"]))
    facts = {k: about[k] for k in ("commit", "versions", "device", "threads")}
    text = json.dumps(
        {"command": " ".join(["python train_mnist.py", *words]), **facts} | summary, indent=2
    )
    NETWORK.with_suffix(".json").write_text(text + "\n")


def draw() -> None:
    """The shipped network's way from noise to digits."""
    net, sampler = load_sampler(NETWORK, torch.device("cpu"))
    frames = sampler.film(net, SHOWN, frames=40)
    figures.save_gif(ASSETS / "denoising.gif", frames, columns=10)


def write_schedules(results: Path) -> None:
    """schedules/SCALE-METHOD-seedN.json, each to be given to --schedule_from."""
    folder = ASSETS / "schedules"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for scale in SCALES:
        path = results / f"reproduce_{scale}.csv"
        for row in report.read_csv(path) if path.exists() else ():
            if row["method"] in SHIPPED:
                values = {name: float(row[name]) for name in NAMES}
                schedule = Schedule("cosine", int(row["timesteps"]), **values)
                method = row["method"].replace(" ", "-")
                schedule.save(folder / f"{scale}-{method}-seed{row['seed']}.json")


def seal() -> None:
    """SHA256SUMS over all of it, as sha256sum writes it."""
    files = [p for p in sorted(ASSETS.rglob("*")) if p.suffix in (".pt", ".json", ".png", ".gif")]
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(ASSETS)}" for p in files
    ]
    SUMS.write_text("\n".join(lines) + "\n")


def main(args) -> None:
    if args.run:
        ship(args.run)
        draw()
    if args.schedules:
        write_schedules(ASSETS.parent / "docs" / "results")
    seal()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="the run whose network is shipped")
    parser.add_argument("--schedules", action="store_true", help="write schedules/")
    sys.exit(guarded(main, parser.parse_args(), "make.py"))
