"""The runs of the study: every method and seed, two starts, and the guided curves.

A task is a command of finetune_reward.py with a folder of its own; comparison/running.py runs what
is missing, several at once.
"""

import json
import re
import shlex
from pathlib import Path

from common import cli
from studies.reward.options import KIND, check, make_parser

ROOT = Path(__file__).resolve().parent.parent.parent
BILEVEL, CURVE, LINEARISED = "bilevel", "guided curve", "guided curve, linearised"
# A row of the page's table each, in its order; all have the same budget of network evaluations.
METHODS = {
    "unguided": "--method unguided",
    "grid": "--method grid",
    "random": "--method random",
    "bayesian": "--method bayesian",
    "weighted sum": "--method weighted_sum --lambda0 1",
    BILEVEL: "--method bilevel --lambda0 5",
    "bilevel, published estimator": "--method bilevel --estimator published --lambda0 5",
    "bilevel, guided estimator": (
        "--method bilevel --estimator guided --lambda0 5 --max_step 0.4 --step 0.4 "
        "--iterations 10 --guided_samples 16"  # what the bank's evaluations pay for
    ),
}
FIRST_SEED_ALONE = {"bilevel, guided estimator"}  # a descent for the optima, not for the table
FEW = " --eval_samples 16 --n_samples 16"  # where the final numbers are not what is wanted
OTHERS = {  # of the traces and the curves, seed 0 alone
    "bilevel, other start": "--method bilevel --lambda0 0.7" + FEW,
    "published, other start": "--method bilevel --estimator published --lambda0 0.7" + FEW,
    CURVE: "--method grid --n_calls 7 --guided_samples 48 --lambda_range 0.2 10" + FEW,
    LINEARISED: (
        "--method grid --lower linearised --n_calls 3 --guided_samples 24 --lambda_range 0.7 5"
        + FEW
    ),
}
# seconds on one core count: few images and steps
SHARED = {
    "page": "--bank_samples 1024 --choice_samples 2048 --guided_samples 32 --eval_samples 64 "
    "--eval_chunk 64 --iterations 600 --log_freq 100",
    "first": "--bank_samples 256 --choice_samples 512 --min_ess 20 --guided_samples 16 "
    "--eval_samples 32 --n_samples 16 --eval_chunk 32 --log_freq 100 --n_calls 3",
}


class Task:
    """One command, its folder, and the tasks that must be done before it."""

    def __init__(self, root: Path, name: str, seed: int, flags: str, places: list[str]):
        slug = re.sub(r"\W+", "-", name)
        self.method, self.seed = name, seed
        self.root, self.places = root / f"{slug}-seed{seed}", places
        self.flags = [*flags.split(), "--seed", str(seed)]
        self.begins_with: list[Task] = []

    def argv(self) -> list[str]:
        """The script and its flags: a new run, or the one that was interrupted."""
        script, places = str(ROOT / "finetune_reward.py"), ["--runs_dir", str(self.root)]
        if self.folder:
            return [script, "--resume", "latest", *places]
        return [script, *self.flags, *self.places, *places]

    @property
    def command(self) -> str:
        """The command without the places of a machine."""
        return shlex.join(["python", "finetune_reward.py", *self.flags])

    @property
    def folder(self) -> Path | None:
        begun = sorted(self.root.glob("[0-9]*/args.json"))
        return begun[-1].parent if begun else None

    @property
    def done(self) -> bool:
        return bool(self.folder and (self.folder / "summary.json").exists())

    @property
    def ready(self) -> bool:
        return all(task.done for task in self.begins_with)

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def parsed(self):
        """The arguments as the script itself reads them."""
        return cli.parse(make_parser(), KIND, check, [*self.flags, *self.places])


def tasks_of(
    scale: str, folder: Path, seeds: int, methods: list[str], places: list[str]
) -> list[Task]:
    """All tasks. Those that draw the shared samples come first, and the others wait for them."""
    root = folder / scale
    flags = merged_flags(SHARED[scale])
    tasks: list[Task] = []
    for seed in range(seeds):
        leader = Task(root, BILEVEL, seed, flags(METHODS[BILEVEL]), places)
        leader.begins_with = tasks[:1]
        tasks.append(leader)
        for name in methods:
            if name != BILEVEL and not (seed and name in FIRST_SEED_ALONE):
                task = Task(root, name, seed, flags(METHODS[name]), places)
                task.begins_with = [leader]
                tasks.append(task)
        for name, own in OTHERS.items() if scale == "page" and not seed else ():
            task = Task(root, name, 0, flags(own), places)
            task.begins_with = [leader]
            tasks.append(task)
    return tasks


def merged_flags(shared: str):
    """A function that puts a method's own flags before the shared ones it does not replace."""

    def merge(own: str) -> str:
        pairs = re.findall(r"(--\w+)((?: (?!--)\S+)*)", shared)
        kept = [name + value for name, value in pairs if f"{name} " not in f"{own} "]
        return " ".join([own, *kept])

    return merge
