"""Run the three first commands of the README and record the last line that each prints.

python -m docs.first_runs            writes docs/results/first_runs.json and the README, 2 minutes
python -m docs.first_runs --report   writes the README from the JSON file
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common.tables import fill_file

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "first_runs.json"
MARK = "first_runs"
DIGITS = """--dataset digits --model_base_dim 8 --batch_size 64 --timesteps 100 --lr 0.03
    --backward_steps 5 --eval_samples 500 --threads 1"""
COMMANDS = [
    f"python train_mnist.py {DIGITS} --epochs 9",
    f"python train_mnist_bayesian.py {DIGITS} --epochs 2 --n_calls 4 --n_initial 2",
    f"python train_mnist_bilevel_ZO.py {DIGITS} --epochs 3 --settle_steps 10 --update_every 2",
]


def run(command: str, folder: str) -> dict[str, str]:
    """A command's last line, from a run in `folder`."""
    _, *arguments = command.split()
    started = [sys.executable, *arguments, "--runs_dir", folder]
    done = subprocess.run(started, cwd=ROOT, check=True, capture_output=True, text=True)
    return {"command": " ".join(command.split()), "last_line": done.stdout.splitlines()[-1]}


def wrapped(command: str, width: int = 100) -> str:
    """A command as lines that a shell continues."""
    lines = [""]
    for part in command.split(" "):
        if len(lines[-1]) + len(part) > width:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)


def render(results: list[dict[str, str]]) -> str:
    """The commands and their last lines as Markdown."""
    blocks = []
    for result in results:
        blocks += ["```sh", wrapped(result["command"]), "```", ""]
        blocks += ["```text", result["last_line"], "```", ""]
    return "\n".join(blocks)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m docs.first_runs", description=__doc__.splitlines()[0]
    )
    text = "run nothing; write the README from the JSON file"
    parser.add_argument("--report", action="store_true", help=text)
    return parser


def main() -> None:
    if not make_parser().parse_args().report:
        with tempfile.TemporaryDirectory() as folder:
            results = [run(command, folder) for command in COMMANDS]
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    fill_file(ROOT / "README.md", {MARK: render(json.loads(RESULTS.read_text()))})


if __name__ == "__main__":
    main()
