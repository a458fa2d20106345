"""Export a trained network and its noise schedule for other programs.

python -m common.export runs/00003 exported             safetensors, diffusers' scheduler, a card
python -m common.export schedule.json --steps 10        print the times and noise levels of 10 steps
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        "Export a run for other programs: its weights as safetensors, its schedule for diffusers, "
        "the sampler's times and noise levels, and a model card."
    )
    parser.prog = "python -m common.export"
    text = "run (folder or number), a checkpoint, or a schedule.json, which has no network"
    parser.add_argument("run", metavar="RUN", help=text)
    text = "folder to write; without it, only the times and noise levels are printed"
    parser.add_argument("folder", metavar="DIR", nargs="?", help=text)
    add = cli.adder(parser)
    text = "sampling steps to list (default: the run's own, or 20 for a schedule.json)"
    add("steps", None, text, type=cli.count)
    text = "spacing of the steps (default: the run's own, or linear)"
    add("tau_type", None, text, choices=["linear", "quadratic"])
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import importlib.metadata
import sys
from pathlib import Path

from common import portable
from common.card import card
from common.errors import Stop, guarded, read_json
from common.locate import ROOT
from common.sampling import SamplerSettings, load_any, path_of, process_of
from model import Diffusion
from scheduler import Schedule

DEFAULT_STEPS = 20
STEPS = "sampling.json"  # which every export has
DISTRIBUTION = "mnist-noise-schedules"


def main(args) -> None:
    if args.folder:
        check_folder(Path(args.folder))
    if Path(args.run).suffix == ".json":
        export_schedule(args)
    else:
        export_network(args)


def check_folder(folder: Path) -> None:
    """A Stop where an export would overwrite what is none."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STEPS).exists():
        raise Stop(f"{folder}: holds files that are no export; name another folder", code=2)


def export_schedule(args) -> None:
    """Of a schedule alone: the list of steps, and diffusers' scheduler."""
    try:
        schedule = Schedule.load(args.run)
    except ValueError as error:
        raise Stop(str(error), code=2) from None
    if args.folder and (Path(args.folder) / portable.CONFIG).exists():
        raise Stop(f"{args.folder}: the export of a network; name another folder", code=2)
    settings = args.steps or min(DEFAULT_STEPS, schedule.timesteps), args.tau_type or "linear"
    write_steps(args.folder, Diffusion(schedule), *settings, clip=True)


def export_network(args) -> None:
    """All of it, of a run or a checkpoint."""
    net, state = load_any(args.run, "cpu")
    process, settings = process_of(state, "cpu"), SamplerSettings.from_flags(**state["args"])
    steps = args.steps or settings.steps
    write_steps(args.folder, process, steps, args.tau_type or settings.tau_type, settings.clip)
    if args.folder:
        folder = Path(args.folder)
        portable.write_network(folder, net, state)
        about, summary = provenance(path_of(args.run))
        parameters = sum(p.numel() for p in net.parameters())
        plain = portable.fits_diffusers(process) and settings.tau_type == "linear"
        plain = plain and settings.eps_scale == 1
        plain = plain and process.sampling_schedule.timesteps % settings.steps == 0
        text = card(folder.name, state, settings, parameters, about, summary, plain)
        (folder / "README.md").write_text(text)
        (folder / "LICENSE").write_text(licence())
        print(f"wrote {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def write_steps(folder: str | None, process: Diffusion, steps: int, tau_type: str, clip: bool):
    """Print the list of steps; into a folder, also as JSON and as diffusers' scheduler."""
    if steps > (most := process.sampling_schedule.timesteps):
        raise Stop(f"--steps {steps} exceeds T = {most}", code=2)
    visited = portable.sampling_steps(process, steps, tau_type)
    print(portable.sampling_table(visited))
    if folder:
        betas = process.sampling_schedule.betas().detach()
        portable.write_json(Path(folder) / STEPS, visited)
        path = Path(folder) / "scheduler" / "scheduler_config.json"
        portable.write_json(path, portable.scheduler_config(betas, clip))


def licence() -> str:
    """This project's licence, beside the code or in the installed package."""
    path = ROOT / "LICENSE"
    if path.exists():
        return path.read_text()
    return importlib.metadata.distribution(DISTRIBUTION).read_text("licenses/LICENSE") or ""


def provenance(run: Path) -> tuple[dict, dict]:
    """args.json and summary.json of a run; of a checkpoint, the record that lies beside it."""
    if run.is_file():
        about = read_if_there(run.with_suffix(".json"))
        return about, about
    return read_if_there(run / "args.json"), read_if_there(run / "summary.json")


def read_if_there(path: Path) -> dict:
    """The content of a JSON file; empty if there is none."""
    return read_json(path) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "export"))
