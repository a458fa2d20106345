"""The runs of the study: every method and seed, two starts, and the guided curves.

A task is a command of finetune_reward.py with a folder of its own; comparison/running.py runs what
is missing, several at once.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from common import cli
from common.locate import ROOT
from comparison.jobs import Job, slug
from comparison.scales import merge
from studies.reward.options import KIND, check, make_parser

SPENT = "spent.csv"  # beside the runs: what each call of the study ran, and how long it took
BILEVEL, GRID, GUIDED = "bilevel", "grid", "bilevel, guided estimator"
LINEARISED = "guided curve, linearised"
# A row of the page's table each, in its order; all have the same budget of network evaluations.
METHODS = {
    "unguided": "--method unguided",
    GRID: "--method grid",  # its trials are the guided curve too
    "random": "--method random",
    "bayesian": "--method bayesian",
    "weighted sum": "--method weighted_sum --lambda0 1",
    BILEVEL: "--method bilevel --lambda0 5",
    "bilevel, published estimator": "--method bilevel --estimator published --lambda0 5",
    GUIDED: (
        "--method bilevel --estimator guided --lambda0 5 "
        "--iterations 42 --guided_samples 16"  # what the bank's evaluations pay for
    ),
}
FEW = " --eval_samples 16 --n_samples 16"  # where the final numbers are not what is wanted
STARTS = {  # of the traces, seed 0 alone
    "bilevel, other start": "--method bilevel --lambda0 0.7" + FEW,
    "published, other start": "--method bilevel --estimator published --lambda0 0.7" + FEW,
}
CURVES = {
    LINEARISED: (
        "--method grid --lower linearised --n_calls 4 --guided_samples 16 --lambda_range 0.5 100"
        " --eval_samples 2 --n_samples 2"
    ),
}
# Where the costly ones come, after the rows of all seeds that no guided run chooses: an interrupted
# study soon has both curves.
PLACE = {GRID: 1, "random": 2, "bayesian": 2, "weighted sum": 2, GUIDED: 2, LINEARISED: 2}
# As the bank grows so do a trial's images, so that the searches keep their number of trials.
SHARED = {
    "page": "--bank_samples 4096 --choice_samples 2048 --guided_samples 64 --eval_samples 64 "
    "--eval_chunk 64 --iterations 600 --log_freq 100",
    "first": "--bank_samples 256 --choice_samples 512 --min_ess 20 --guided_samples 16 "
    "--eval_samples 32 --n_samples 16 --eval_chunk 32 --log_freq 100 --n_calls 3",
}


class Task(Job):
    """One command, its folder, and the tasks that must be done before it."""

    def __init__(
        self, root: Path, name: str, seed: int, flags: list[str], places: list[str],
        earlier: Sequence["Task"] = (),
    ):  # fmt: skip
        super().__init__(root / f"{slug(name)}-seed{seed}")
        self.method, self.seed, self.places = name, seed, places
        self.flags, self.earlier = [*flags, "--seed", str(seed)], earlier

    @property
    def begins_with(self) -> Sequence["Task"]:
        return self.earlier

    def argv(self) -> list[str]:
        """The script and its flags: a new run, or the one that was interrupted."""
        script, places = str(ROOT / "finetune_reward.py"), ["--runs_dir", str(self.root)]
        if self.folder:
            # its places again: a run's folder does not say where its samples are cached
            return [script, "--resume", "latest", *self.places, *places]
        return [script, *self.flags, *self.places, *places]

    @property
    def command(self) -> str:
        """The command without the places of a machine."""
        return shlex.join(["python", "finetune_reward.py", *self.flags])

    def parsed(self):
        """The arguments as the script itself reads them."""
        return cli.parse(make_parser(), KIND, check, [*self.flags, *self.places])


def tasks_of(
    scale: str, folder: Path, seeds: int, methods: list[str], places: list[str]
) -> list[Task]:
    """All tasks. Those that draw the shared samples come first, and the others wait for them."""
    tasks: list[Task] = []

    def add(name: str, seed: int, method_flags: str, earlier: Sequence[Task]) -> None:
        # its own, then those that it does not replace
        flags = merge(method_flags, SHARED[scale], method_flags)
        tasks.append(Task(folder / scale, name, seed, flags, places, earlier))

    for seed in range(seeds):
        add(BILEVEL, seed, METHODS[BILEVEL], tasks[:1])
        leader = tasks[-1:]
        others = {name: METHODS[name] for name in methods if name != BILEVEL}
        if scale == "page":
            others |= CURVES if seed else STARTS | CURVES
        for name, method_flags in others.items():
            add(name, seed, method_flags, leader)
    return sorted(tasks, key=lambda task: PLACE.get(task.method, 0))
