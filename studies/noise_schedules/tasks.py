"""The runs of the study: a task is a command of train_mnist.py with a folder of its own."""

import shlex
from collections.abc import Iterable
from pathlib import Path

import train_mnist
from common import cli
from common.data import Source
from common.locate import ROOT
from comparison.cells import Places
from comparison.jobs import Job, slug
from comparison.scales import merge
from studies.noise_schedules.plan import CROSSED, RECIPES, SHARED

Key = tuple[str, ...]  # data set, size, seed and recipe, as text


class Task(Job):
    """One training, which is judged by its own schedule and by cosine."""

    def __init__(self, places: Places, dataset: str, size: int, recipe: str, seed: int):
        self.places, self.dataset, self.size = places, dataset, size
        self.recipe, self.seed = recipe, seed
        self.method = f"{dataset} {size}, {recipe}"
        super().__init__(Path(places.runs_dir) / f"{slug(self.method)}-seed{seed}")
        about = f"--dataset {dataset} --image_size {size}"
        self.flags = merge(about, SHARED, RECIPES[recipe].flags, f"--seed {seed}")

    @property
    def key(self) -> Key:
        return self.dataset, str(self.size), str(self.seed), self.recipe

    @property
    def sampled_by(self) -> tuple[str, ...]:
        """The sampling schedules by which it is judged, one row each."""
        return ("own", "cosine") if self.recipe in CROSSED else ("own",)

    @property
    def place_flags(self) -> list[str]:
        """Flags that a resumed run takes too."""
        places = self.places
        flags = ["--device", places.device, "--data_dir", places.data_dir]
        return [*flags, "--threads", str(places.threads), "--runs_dir", str(self.root)]

    def argv(self) -> list[str]:
        """The script and its flags: a new run, or the one that was interrupted."""
        flags = ["--resume", "latest"] if self.folder else self.flags
        return [str(ROOT / "train_mnist.py"), *flags, *self.place_flags]

    @property
    def command(self) -> str:
        """The command to paste into a shell, without the places of this machine."""
        return shlex.join(["python", "train_mnist.py", *self.flags])

    def parsed(self):
        """The arguments as the script itself reads them."""
        argv = [*self.flags, *self.place_flags]
        return cli.parse(train_mnist.make_parser(), "train", train_mnist.check, argv)

    def cost(self) -> dict[str, int]:
        """Images through the network, with those of the judging by cosine."""
        args = self.parsed()
        cost = train_mnist.planned(args, Source.from_flags(**vars(args)).planned_images())
        again = (len(self.sampled_by) - 1) * args.eval_samples * args.backward_steps
        return cost | {"sampling": cost["sampling"] + again}


def tasks_of(
    places: Places,
    datasets: Iterable[str],
    sizes: Iterable[int],
    recipes: Iterable[str],
    seeds: Iterable[int],
) -> list[Task]:
    """All tasks: a seed after the other, in each MNIST first, and small images first."""
    order = [name for name in RECIPES if name in set(recipes)]
    return [
        Task(places, dataset, size, recipe, seed)
        for seed in seeds
        for dataset in datasets
        for size in sorted(sizes)
        for recipe in order
    ]
