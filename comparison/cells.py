"""The cells of the comparison: one method and seed each, its command, its folder, its budget."""

import importlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from common import checkpoint, cli, sampling_only
from common.data import fingerprint
from common.errors import read_json
from common.locate import ROOT
from common.run import forward_passes
from common.training import EmaRule
from comparison.jobs import Job, slug
from comparison.scales import BILEVEL, EXACT, METHODS, NEW_SEED, SCALES, merge

SCRIPTS = {
    "train": "train_mnist",
    "bilevel": "train_mnist_bilevel_ZO",
    "frozen": "train_mnist_bilevel_ZO",
    "search": "train_mnist_bayesian",
}
# in a cell's folder: the row of another whose schedule it trains with, and for the script that
LENT_ROW, LENT_SCHEDULE = "lent_row.json", "lent_schedule.json"
NETWORK = "network.json"  # in a frozen run's: which network it leaves as it is


@dataclass(frozen=True)
class Places:
    """What differs between machines and leaves the comparison the same."""

    device: str = "auto"
    data_dir: str = "data"
    runs_dir: str = "runs/reproduce"
    threads: int | None = None  # None: the scale's


@dataclass(frozen=True)
class Budget:
    """What is equal in all rows: what the bilevel run's forward passes pay for, and the average."""

    trials: int
    epochs: int
    ema_memory: float  # steps, those of `default`


class Cell(Job):
    """One method and seed: its flags and its folder."""

    def __init__(self, scale: str, places: Places, method: str, seed: int, flags: list[str]):
        self.scale, self.places, self.method, self.seed = scale, places, method, seed
        self.flags = flags
        super().__init__(Path(places.runs_dir) / scale / f"{slug(method)}-seed{seed}")
        self.source: Cell | None = None  # the cell whose schedule this one trains with
        self.offered: dict[str, str] | None = None  # its row, where its run is not to be made
        self.network: Cell | None = None  # the cell whose network this one leaves as it is

    @property
    def kind(self) -> str:
        return METHODS[self.method].kind

    @property
    def source_row(self) -> dict[str, str] | None:
        """The row whose schedule it trains with, in place of a run of `source`.

        Once it has begun, its folder says so, whatever rows there are by then.
        """
        if not self.folder:
            return self.offered
        lent = self.root / LENT_ROW
        return read_json(lent) if lent.exists() else None

    @property
    def begins_with(self) -> list["Cell"]:
        """The cells whose runs it needs, for a schedule or a network."""
        source = None if self.source_row else self.source
        return [cell for cell in (source, self.network) if cell]

    @property
    def place_flags(self) -> list[str]:
        """Flags that a resumed run takes too."""
        threads = self.places.threads
        flags = ["--device", self.places.device, "--runs_dir", str(self.root)]
        return flags if threads is None else [*flags, "--threads", str(threads)]

    def parsed(self):
        """The arguments as the script itself reads them; of a frozen run with another network."""
        script = script_of(self.kind)
        argv = [*self.flags, *self.place_flags, "--data_dir", self.places.data_dir]
        if self.network:  # its own may not be trained yet
            argv += ["--freeze_network", "--ckpt", str(ROOT / "assets" / "mnist.pt")]
        return cli.parse(script.make_parser(), self.kind, script.check, argv)

    def argv(self) -> list[str]:
        """The script and its flags: a new run, or the one that was interrupted."""
        script = str(ROOT / f"{SCRIPTS[self.kind]}.py")
        places = [*self.place_flags, "--data_dir", self.places.data_dir]
        if self.folder and not self.network:  # a frozen run has no checkpoint: it begins anew
            return [script, "--resume", "latest", *places]
        flags = [*self.flags, *places]
        if self.source:
            lent = self.root / LENT_SCHEDULE
            file = lent if self.source_row else self.source.folder / "schedule.json"
            flags += ["--schedule_from", str(file)]
        if self.network:
            flags += ["--freeze_network", "--ckpt", str(checkpoint.newest(self.network.folder))]
        return [script, *flags]

    def prepare(self) -> None:
        if self.network:
            checkpoint.write_json(self.root / NETWORK, self.network_now)
        elif self.folder:
            return
        elif self.offered:
            schedule = json.loads(self.offered["schedule"])
            checkpoint.write_json(self.root / LENT_SCHEDULE, schedule)
            checkpoint.write_json(self.root / LENT_ROW, self.offered)
        else:
            (self.root / LENT_ROW).unlink(missing_ok=True)  # of a run that was moved away

    @property
    def network_now(self) -> dict[str, str]:
        """The network that it leaves as it is, to know it again."""
        weights = checkpoint.load(checkpoint.newest(self.network.folder))["ema"].values()
        return {"weights": fingerprint(torch.cat([w.flatten().float() for w in weights]))}

    @property
    def command(self) -> str:
        """The command to paste into a shell, without the places of this machine."""
        flags = list(self.flags)
        if self.source:
            # among the assets once `python -m assets.make --schedules` has shipped it
            name = f"{self.source.scale}-{self.source.root.name}.json"
            flags += ["--schedule_from", f"assets/schedules/{name}"]
        if self.network:
            flags += ["--freeze_network", "--ckpt", left_by(self.network)]
        return shlex.join(["python", f"{SCRIPTS[self.kind]}.py", *flags])

    def made_by(self, command: str) -> bool:
        """Whether a row's command is the cell's, on however many threads it ran."""
        return without_threads(command) == without_threads(self.command)

    @property
    def chosen(self) -> Path:
        """The folder of the run that counts: a search's best trial."""
        if self.kind != "search":
            return self.folder
        return self.folder / "trials" / f"{self.summary['best']:03d}"

    def cost(self, images) -> dict[str, int]:
        """Images through the network, as the flags say."""
        args = self.parsed()
        if self.network:
            return sampling_only.planned(args)
        if self.kind != "search":
            return script_of(self.kind).planned(args, images)
        one, trials = script_of("train").planned(args, images), script_of("search").trials_of(args)
        return {name: trials * count for name, count in one.items()}


def script_of(kind: str):
    """The module of a script; its parser and its plan are the cell's."""
    return importlib.import_module(SCRIPTS[kind])


def without_threads(command: str) -> str:
    return re.sub(r" --threads \d+", "", command)


def left_by(cell: Cell) -> str:
    """The folder of a cell's run where the comparison is made with its default flags."""
    return f"runs/reproduce/{cell.scale}/{cell.root.name}/00000-{cell.kind}-seed{cell.seed}"


def memory_of(cell: Cell) -> float:
    """The steps that the average of its network looks back over."""
    return round(EmaRule.from_flags(**vars(cell.parsed())).memory, 9)


def make_cell(
    scale: str, places: Places, name: str, seed: int, budget: Budget | None = None
) -> Cell:
    """The cell of a method; `budget` is needed by those that spend as much as the bilevel run."""
    method, sizes = METHODS[name], SCALES[scale]
    trained = "train" if method.kind == "search" else method.kind  # a trial is a training
    parts = [sizes.shared, getattr(sizes, trained)]
    parts += [sizes.coupled if EXACT in method.flags else "", sizes.late if method.late else ""]
    parts.append(method.flags)
    if budget and method.kind == "search":
        n_initial = max(2, budget.trials // 3)
        parts.append(f"--n_calls {budget.trials} --n_initial {n_initial}")
    if method.kind == "search":
        parts.append(f"--search_seed {seed + 42}")
    if budget and method.equal == "passes":
        parts.append(f"--epochs {budget.epochs}")
    of_search = method.schedule_from and METHODS[method.schedule_from].kind == "search"
    # the seed of the search would make the chosen trial again
    own_seed = seed + NEW_SEED if of_search else seed
    cell = Cell(scale, places, name, seed, merge(*parts, f"--seed {own_seed}"))
    trains = method.kind in ("train", "bilevel")
    if budget and trains and memory_of(cell) != budget.ema_memory:
        cell.flags = merge(*cell.flags, f"--ema_memory {budget.ema_memory:g}")
    if method.schedule_from:
        cell.source = make_cell(scale, places, method.schedule_from, seed, budget)
    if method.network_from:
        cell.network = make_cell(scale, places, method.network_from, seed, budget)
    return cell


def budget_of(scale: str, places: Places, images) -> Budget:
    """Trials and epochs for the forward passes of the bilevel run, less those of its log."""
    bilevel, default = (make_cell(scale, places, name, 0) for name in (BILEVEL, "default"))
    bilevel.flags = merge(*bilevel.flags, "--fid_samples 0")
    passes = forward_passes(bilevel.cost(images))
    whole = forward_passes(default.cost(images))
    epochs, doubled = default.parsed().epochs, make_cell(scale, places, "default", 0)
    doubled.flags = merge(*default.flags, f"--epochs {2 * epochs}")
    an_epoch = (forward_passes(doubled.cost(images)) - whole) / epochs
    evaluation = whole - epochs * an_epoch  # at the end, however many epochs there are
    return Budget(
        trials=SCALES[scale].trials or max(2, round(passes / whole)),
        epochs=max(1, round((passes - evaluation) / an_epoch)),
        ema_memory=memory_of(default),
    )


def make_cells(
    scale: str, places: Places, methods: Iterable[str], seeds: Iterable[int], images
) -> list[Cell]:
    """All cells, a seed after the other."""
    budget = budget_of(scale, places, images)
    return [make_cell(scale, places, name, seed, budget) for seed in seeds for name in methods]
