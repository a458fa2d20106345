"""Run the commands that two pages show and record what they print.

python -m docs.first_runs                       both pages, docs/results/*_runs.json, the picture
python -m docs.first_runs --pages README.md     its three first commands, 3 minutes
python -m docs.first_runs --report              writes the pages from the JSON files
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import read_json
from common.tables import fill_file

ROOT = Path(__file__).resolve().parent.parent
SMALL = """--dataset digits --model_base_dim 8 --batch_size 64 --timesteps 100 --lr 0.03
    --backward_steps 5 --eval_samples 500 --threads 1"""
FIRST = """--dataset digits --model_base_dim 16 --batch_size 128 --timesteps 10 --lr 0.1
    --backward_steps 10 --fid_samples 0 --eval_samples 500 --threads 1"""
COMMANDS = [
    f"python train_mnist.py {FIRST} --epochs 24",
    f"python train_mnist_bayesian.py {SMALL} --epochs 2 --n_calls 4 --n_initial 2",
    f"""python train_mnist_bilevel_ZO.py {SMALL} --epochs 3 --settle_steps 10 --exact_every 2
    --update_every 2""",
]
SLOWER = SMALL.replace("--lr 0.03", "--lr 0.01")  # theta_z and theta_y stay together
TUNED = f"""python train_mnist_bilevel_ZO.py {SLOWER} --epochs 12 --initial_epoch 6
    --settle_steps 10 --exact_every 4 --update_every 4 --zo_samples 128"""
KNOBS = ["--lr_beta 0 0 0 0", "", "--gamma 100000", "--lr_beta 0.03 0.03 0.3 0.003"]
SEEDS = 0, 1
OWN_FOLDER = "--runs_dir runs/tuning"  # so that the numbers of the runs begin at 0
PICTURE = ROOT / "docs" / "figures" / "first_run.png"  # what the first command draws
LEARNED = 1  # of KNOBS: the run whose last lines are shown
MADE_BY = "commit", "versions", "processor", "threads"
SCORES = "fid", "fid_first", "fid_second", "fid_pixels"


class Page(NamedTuple):
    """Commands, what is recorded of them, and what a page shows of that between its marks."""

    path: Path
    file: Path
    record: Callable[[str], Any]
    render: Callable[[Any], dict[str, str]]


def one_line(command: str) -> str:
    return " ".join(command.split())


def printed(command: str) -> list[str]:
    """The lines that a command prints."""
    _, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def record_last_lines(folder: str) -> dict:
    """Each first command and its last line, and what they ran on; keeps the first one's images."""
    lines = [printed(f"{command} --runs_dir {folder}")[-1] for command in COMMANDS]
    pairs = zip(COMMANDS, lines, strict=True)
    runs = [{"command": one_line(command), "last_line": line} for command, line in pairs]
    about = read_json(next(Path(folder).glob("*/args.json")))
    shutil.copyfile(max(Path(folder).glob("00000-*/samples/*.png")), PICTURE)
    picture = hashlib.sha256(PICTURE.read_bytes()).hexdigest()
    return {**{name: about[name] for name in MADE_BY}, "runs": runs, "picture": picture}


def tuning_commands(seed: int) -> list[str]:
    """One command a knob."""
    return [one_line(f"{TUNED} {knob} --seed {seed}") for knob in KNOBS]


def record_tuning(folder: str) -> dict[str, list[str]]:
    """The runs, a seed after the other: the comparison's scores, the last lines of one log."""
    commands = [command for seed in SEEDS for command in tuning_commands(seed)]
    logs = [printed(f"{command} --runs_dir {folder}") for command in commands]
    numbers = " ".join(map(str, range(len(commands))))
    places = f"--runs_dir {folder} --out {folder}/compared --n_samples 0 --threads 1"
    lines = printed(f"python -m common.compare {numbers} {places}")
    return {"commands": commands, "compared": chosen(lines), "log": ending(logs[LEARNED])}


def chosen(lines: list[str]) -> list[str]:
    """Of what common.compare prints: the scores over seeds, and their differences."""
    table = lines[lines.index("over seeds:") :]
    names = [""] + [f"{name}{part}" for name in SCORES for part in ("", ", difference")]
    width = table[1].index("0")  # the head begins with the number of the first run
    rows = [line for line in table[1 : table.index("")] if line[: width - 2].strip() in names]
    return [table[0], *rows]


def ending(lines: list[str]) -> list[str]:
    """Of a run's log: the last line of an iteration, and what is said of noise."""
    last = [line for line in lines if "implicit" in line][-1]
    return [last, *(line for line in lines if "noise alone" in line)]


def wrapped(command: str) -> str:
    """A command as lines that a shell continues."""
    lines = [""]
    for part in re.split(" (?=--)", command):  # a flag and its values stay together
        if len(lines[-1]) + len(part) > 100:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)


def block(kind: str, text: str) -> str:
    return f"```{kind}\n{text}\n```\n"


def abridged(line: str) -> str:
    """A last line without the scores beside the FID."""
    line = re.sub(r", fid_first.*(, seconds)", r", ...\1", line)
    return re.sub(r", is_mean.*?(, n )", r"\1", line)


def render_last_lines(results: dict) -> dict[str, str]:
    """The commands and their last lines as Markdown."""
    blocks = [
        block("sh", wrapped(run["command"])) + "\n" + block("text", abridged(run["last_line"]))
        for run in results["runs"]
    ]
    picture = PICTURE.relative_to(ROOT)
    blocks[0] += f'\n<img src="{picture}" width="250" alt="36 images that it drew">\n'
    return {"first_runs": "\n".join(blocks)}


def render_tuning(results: dict[str, list[str]]) -> dict[str, str]:
    """The commands of one seed, the comparison and the log as Markdown."""
    commands = results["commands"]
    shown = [wrapped(f"{command} {OWN_FOLDER}") for command in commands[: len(KNOBS)]]
    compare = f"python -m common.compare {' '.join(map(str, range(len(commands))))} {OWN_FOLDER}"
    return {
        "tuning_compare": block("sh", compare),
        "tuning_commands": block("sh", "\n".join(shown)),
        "tuning_compared": block("text", "\n".join(results["compared"])),
        "tuning_log": block("text", "\n".join(results["log"])),
    }


PAGES = {
    page.path.name: page
    for page in (
        Page(
            ROOT / "README.md",
            ROOT / "docs" / "results" / "first_runs.json",
            record_last_lines,
            render_last_lines,
        ),
        Page(
            ROOT / "docs" / "tuning.md",
            ROOT / "docs" / "results" / "tuning_runs.json",
            record_tuning,
            render_tuning,
        ),
    )
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m docs.first_runs", description=__doc__.splitlines()[0]
    )
    text = "pages whose commands are run (default: all)"
    parser.add_argument("--pages", nargs="+", default=list(PAGES), choices=list(PAGES), help=text)
    text = "run nothing; write the pages from the JSON files"
    parser.add_argument("--report", action="store_true", help=text)
    return parser


def main() -> None:
    args = make_parser().parse_args()
    for page in (PAGES[name] for name in args.pages):
        if not args.report:
            with tempfile.TemporaryDirectory() as folder:
                page.file.write_text(json.dumps(page.record(folder), indent=2) + "\n")
        fill_file(page.path, page.render(json.loads(page.file.read_text())))


if __name__ == "__main__":
    main()
