"""Make what lies in assets/ beside the classifier, from a run and from the results.

python -m assets.make --run runs/00003-train-seed0    its network, its GIF and how it was trained
python -m assets.make --schedules                     the learned schedules of docs/results
python -m assets.make --gif                           the GIF of the network that is shipped
python -m assets.make                                 only the hashes in SHA256SUMS
"""

import sys
from pathlib import Path

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m assets.make"
    parser.add_argument(
        "--run", type=Path, help="finished run of train_mnist.py whose network is shipped"
    )
    parser.add_argument("--gif", action="store_true", help="draw denoising.gif anew")
    parser.add_argument(
        "--schedules",
        action="store_true",
        help="write schedules/ anew from the tables of reproduce.py in docs/results",
    )
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import hashlib
import json
import shlex

import torch

import train_mnist
from common import checkpoint, figures, portable
from common.errors import Stop, guarded
from common.sampling import load_sampler
from common.tables import fill_file, markdown, read_text_csv
from comparison.jobs import slug
from comparison.scales import METHODS, SCALES
from scheduler import Schedule

ASSETS = Path(__file__).resolve().parent
RESULTS = ASSETS.parent / "docs" / "results"
NETWORK = "mnist.pt"
# what drawing needs of a checkpoint
KEPT = ("kind", "args", "schedule", "shape", "step", "ema")
PLACES = portable.PLACES - {"ckpt"}  # which says with what the training began
FACTS = ("commit", "versions", "device", "threads")
SCORES = ("epochs", "steps", "seconds", "fid", "n", "extractor", "reference")
SCORES += ("fid_by_epoch", "fid_n", "seconds_by_epoch")
EARLIER = ("command", *FACTS, *SCORES, "began_with")  # of the run that a run went on from
GIF_IMAGES, GIF_COLUMNS, GIF_FRAMES = 40, 10, 40
SHIPPED_METHODS = {m.schedule_from for m in METHODS.values() if m.schedule_from}
EPS_SCALE = 1.15  # of the shipped network; docs/network.md has the sweep
SEALED = (".pt", ".json", ".png", ".gif")


def ship(run: Path, assets: Path) -> None:
    """A run's averaged network as a checkpoint of its own, and how it was made."""
    path = checkpoint.newest(run)
    if not (run / "summary.json").exists():
        raise Stop(f"--run {run}: not the folder of a finished run", code=2)
    state = checkpoint.load(path)
    about = json.loads((run / "args.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    state["args"] = {k: v for k, v in state["args"].items() if k not in PLACES}
    checkpoint.save(assets / NETWORK, {name: state[name] for name in KEPT})
    parser = train_mnist.make_parser()
    args = parser.parse_args([])
    vars(args).update(state["args"])  # the flags that this version does not know are left out
    flags = cli.to_argv(parser, args)
    record = {"command": " ".join(["python train_mnist.py", *flags])}
    path = (assets / NETWORK).with_suffix(".json")
    if args.ckpt:  # the run went on from the network that was shipped before
        earlier = json.loads(path.read_text())
        record["began_with"] = {name: earlier[name] for name in EARLIER if name in earlier}
    record |= {name: about[name] for name in FACTS} | summary
    rows = [row for row in read_text_csv(run / "scores.csv") if row["fid"]]
    times = {row["step"]: row["seconds"] for row in read_text_csv(run / "timing.csv")}
    record["fid_by_epoch"] = [round(float(row["fid"]), 2) for row in rows]
    record["seconds_by_epoch"] = [round(float(times[row["step"]])) for row in rows]
    record["fid_n"] = max((int(row["fid_n"]) for row in rows), default=0)
    path.write_text(json.dumps(record, indent=2) + "\n")


def draw_gif(assets: Path) -> None:
    """The shipped network's way from noise to digits, drawn as README's command draws."""
    drawn = {"eta": 1.0, "eps_scale": EPS_SCALE, "amp": False}
    net, sampler = load_sampler(assets / NETWORK, torch.device("cpu"), **drawn)
    frames = sampler.film(net, GIF_IMAGES, frames=GIF_FRAMES)
    figures.save_gif(assets / "denoising.gif", frames, columns=GIF_COLUMNS)


def stages_of(record: dict) -> list[dict]:
    """The trainings one after the other, the first one first."""
    stages = [record]
    while "began_with" in stages[0]:
        stages.insert(0, stages[0]["began_with"])
    return stages


def flags_of(stage: dict):
    """The arguments of its command, but for those that this version does not know."""
    argv = shlex.split(stage["command"])[2:]
    return train_mnist.make_parser().parse_known_args(argv)[0]


def with_noise(args) -> str:
    """What differs from plain DDIM in the steps of samples, if anything."""
    eta = f", eta {args.eta:g}" if args.eta else ""
    return eta + (f", eps_scale {args.eps_scale:g}" if args.eps_scale != 1 else "")


def training_table(record: dict) -> str:
    """A row a training: its flags, what it took, and the FID of its end."""
    lines = []
    for number, stage in enumerate(stages_of(record), 1):
        args = flags_of(stage)
        steps = f"{args.backward_steps} steps{with_noise(args)}"
        drawn = f"{stage['n']:,} images, {steps}, by `{stage['extractor']}`"
        score = f"{stage['fid']:.1f} ({drawn})"
        line = [number, args.batch_size, args.lr, args.loss_weighting, stage["epochs"]]
        lines.append([*line, f"{stage['steps']:,}", f"{stage['seconds'] / 3600:.1f}", score])
    head = ["stage", "batch", "rate", "loss weighting", "epochs", "steps", "hours", "FID"]
    return markdown(head, lines)


def draw_training(record: dict, path: Path) -> None:
    """FID after each epoch against hours, of all trainings one after the other."""
    figure, (axis,) = figures.axes_of(1, width=6)
    begun = 0.0
    for number, stage in enumerate(stages_of(record), 1):
        fids = stage["fid_by_epoch"]
        even = [stage["seconds"] * (i + 1) / len(fids) for i in range(len(fids))]
        seconds = stage.get("seconds_by_epoch", even)
        label = f"stage {number}: {stage['epochs']} epochs{with_noise(flags_of(stage))}"
        axis.plot([(begun + s) / 3600 for s in seconds], fids, marker=".", label=label)
        begun += stage["seconds"]
    axis.set(xlabel="hours on one core", ylabel="FID", yscale="log")
    axis.set_yticks(ticks := [20, 50, 100, 200, 500], list(map(str, ticks)))
    axis.minorticks_off()
    axis.legend()
    figures.save(figure, path)


def write_training(assets: Path, docs: Path) -> None:
    """How the shipped network was trained, in docs/network.md."""
    record = json.loads((assets / NETWORK).with_suffix(".json").read_text())
    draw_training(record, docs / "figures" / "shipped_network.png")
    fill_file(docs / "network.md", {"the shipped network": training_table(record)})


def write_schedules(results: Path, assets: Path) -> None:
    """schedules/SCALE-METHOD-seedN.json, each to be given to --schedule_from."""
    folder = assets / "schedules"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for scale in SCALES:
        path = results / f"reproduce_{scale}_runs.csv"
        for row in read_text_csv(path) if path.exists() else ():
            if row["method"] in SHIPPED_METHODS:
                schedule = Schedule.from_dict(json.loads(row["schedule"]))
                method = slug(row["method"])
                schedule.save(folder / f"{scale}-{method}-seed{row['seed']}.json")


def write_sampling_schedule(results: Path, assets: Path) -> None:
    """What was learned for the shipped network with clipping, to be given to --sampling_schedule.

    It is the row of the benchmark `frozen`, and holds the times that the network receives.
    """
    shipped = {
        "network": "U-Net, 32 channels",
        "size": "28",
        "seed": "1",
        "clip": "True",
        "steps": "10",
        "schedule": "learned",
    }
    (row,) = (row for row in read_text_csv(results / "frozen.csv") if row | shipped == row)
    text = json.dumps(json.loads(row["visited"]), indent=2)
    (assets / "mnist_10_steps.json").write_text(text + "\n")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(assets: Path) -> None:
    """SHA256SUMS over all of it, as sha256sum writes it."""
    files = [p for p in sorted(assets.rglob("*")) if p.suffix in SEALED]
    lines = [f"{digest(p)}  {p.relative_to(assets)}" for p in files]
    (assets / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def main(args, assets: Path = ASSETS, docs: Path = RESULTS.parent) -> None:
    if args.run:
        ship(args.run, assets)
        write_training(assets, docs)
    if args.run or args.gif:
        draw_gif(assets)
    if args.schedules:
        write_schedules(docs / "results", assets)
        write_sampling_schedule(docs / "results", assets)
    seal(assets)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "make"))
