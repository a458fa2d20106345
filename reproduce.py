"""Run the paper's comparison with one command: default, grid, random, Bayesian search, bilevel.

python reproduce.py --scale quick               run what is missing, evaluate it, write the results
python reproduce.py --scale cpu --dry_run       list the runs and their cost
python reproduce.py --scale quick --collect     write the results of the finished runs
python reproduce.py --scale quick --report      rewrite table and figures from the CSV file

Every cell is a run's folder below runs/reproduce/SCALE, made by the three scripts themselves; what
was interrupted goes on where it stopped. A search gets as many trials as the zeroth-order bilevel
run pays for. Every network is judged on noise that chose nothing, with and without clipping.
"""

from common import cli

# the flags of a scale: shared by all, a baseline's and a trial's, the bilevel method's
SCALES = {
    "quick": {
        "what": "8x8 digits, a small network",
        "seeds": 3,
        "all": """--dataset digits --model_base_dim 8 --batch_size 64 --timesteps 100 --lr 0.03
            --backward_steps 5 --eval_samples 500 --threads 1""",
        "train": "--epochs 4 --fid_samples 0",
        "bilevel": """--epochs 6 --initial_epoch 4 --fid_samples 500 --zo_samples 64
            --lr_beta 0.02 0.02 0.1 0.002""",
    },
    "demo": {
        "what": "MNIST, 8 channels, 360 steps: what the learned schedule does, in minutes a run",
        "seeds": 2,
        "all": """--model_base_dim 8 --batch_size 64 --timesteps 200 --limit_batches 60 --lr 0.02
            --backward_steps 6 --fid_samples 500 --eval_samples 2000 --threads 1""",
        "train": "--epochs 6",
        "bilevel": """--epochs 6 --initial_epoch 4 --zo_samples 32 --lr_z 0.0001
            --lr_beta 0.01 0.01 0.05 0.002 --log_freq 5""",
    },
    "cpu": {
        "what": "MNIST, a network of 16 channels, hours on two cores",
        "seeds": 3,
        "all": """--model_base_dim 16 --batch_size 64 --timesteps 200 --lr 0.01 --limit_batches 150
            --backward_steps 10 --eval_samples 2000""",
        "train": "--epochs 4 --fid_samples 0",
        "bilevel": """--epochs 6 --initial_epoch 4 --fid_samples 2000 --lr_z 0.0001
            --lr_beta 0.01 0.01 0.05 0.002""",
    },
    "gpu": {
        "what": "MNIST, the whole network, fewer epochs than the paper; hours on a GPU",
        "seeds": 3,
        "all": "",
        "train": "--epochs 20 --fid_samples 0",
        "bilevel": """--epochs 3 --initial_epoch 2 --inner_loop 10 --fid_samples 10000
            --lr_beta 0.05 0.05 1 0.05""",
    },
    "paper": {
        "what": "MNIST, the published epochs and flags; days on a GPU",
        "seeds": 3,
        "all": "",
        "train": "--fid_samples 0",
        "trials": 15,  # the published number, whatever the bilevel run costs
        "bilevel": """--inner_loop 10 --inner_loop_z 1 --gamma 1 --gamma_end 1
            --lr_beta 0.05 0.05 1 0.05 --initial_epoch 2 --epochs 3 --fid_samples 10000""",
    },
}

# method -> (kind of run, its flags beside the scale's)
METHODS = {
    "default": ("train", ""),
    "bilevel zo": ("bilevel", ""),
    "bilevel forward": ("bilevel", "--upper_gradient forward --truncation 1"),
    "grid": ("search", "--strategy grid"),
    "random": ("search", "--strategy random"),
    "bayesian": ("search", "--strategy bayesian"),
    "default, zo's steps": ("train", ""),
    "default, zo's budget": ("train", ""),
    "zo's schedule, anew": ("train", ""),
    "forward's schedule, anew": ("train", ""),
}
ABLATION = {
    "recipe paper": ("bilevel", "--recipe paper --zo_samples 36"),
    "recipe paper, the scale's n": ("bilevel", "--recipe paper"),
    "independent noise": ("bilevel", "--noise independent"),
    "theta_z recopied": ("bilevel", "--theta_z recopied"),
    "forward, theta_z recopied": (
        "bilevel",
        "--upper_gradient forward --truncation 1 --theta_z recopied",
    ),
    "forward, longer steps": (
        "bilevel",
        "--upper_gradient forward --truncation 1 --lr_beta 0.1 0.1 0.5 0.01",
    ),
    "36 images": ("bilevel", "--zo_samples 36"),
    "schedule held": ("bilevel", "--lr_beta 0 0 0 0"),
}
INTERRUPTED = (130, 143, -2, -15)  # exit codes
LEARNED = {"zo's schedule, anew": "bilevel zo", "forward's schedule, anew": "bilevel forward"}


def make_parser() -> cli.Parser:
    parser = cli.Parser("Run the paper's comparison and write its table.")
    add = cli.adder(parser)
    text = "; ".join(f"{name}: {scale['what']}" for name, scale in SCALES.items())
    add("scale", "quick", f"size of the comparison. {text}", choices=list(SCALES))
    text = "number of seeds, counted from 0 (default: set by --scale)"
    add("seeds", None, text, type=cli.count)
    text = "also run the ablation: the bilevel method with one improvement turned off at a time"
    add("ablation", False, text, action="store_true")
    text = "run only these methods (default: all except those of --ablation); one or more of: "
    rows = [*METHODS, *ABLATION]
    text += "; ".join(rows)
    add("methods", None, text, nargs="+", choices=rows, metavar="METHOD")
    add("jobs", 1, "runs in parallel", type=cli.count)
    add("device", "auto", "device of every run: auto, cpu, mps, cuda or cuda:N", type=cli.device)
    add("data_dir", "data", "folder that contains MNIST/raw; MNIST is downloaded if it is missing")
    add("runs_dir", "runs/reproduce", "folder for the runs of the comparison")
    text = "folder for the CSV file; the page and the figures are written next to it"
    add("results_dir", "docs/results", text)
    add("dry_run", False, "list the runs and their cost, then exit", action="store_true")
    text = "start no run; evaluate the finished ones and write the results"
    add("collect", False, text, action="store_true")
    text = "start no run and evaluate nothing; write table and figures from the CSV file"
    add("report", False, text, action="store_true")
    return parser


if __name__ == "__main__":
    ARGS = make_parser().parse_args()

import importlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import train_mnist
from common import checkpoint
from common.data import images_to_plan, to_unit
from common.errors import Stop, guarded
from common.families import NAMES
from common.judging import Judge, judge_checkpoint
from common.machine import progress_bar, setup, stream
from common.networks import make_network
from common.run import forward_passes
from common.sampling import SamplerSettings
from common.training import denoising_step, make_optimizer
from comparison import report
from model import Diffusion
from search.ledger import Ledger

ROOT = Path(__file__).resolve().parent
SCRIPTS = {
    "train": "train_mnist", "bilevel": "train_mnist_bilevel_ZO", "search": "train_mnist_bayesian"
}  # fmt: skip


class Cell:
    """One method and seed: its flags, its folder, its row."""

    def __init__(self, args, method: str, seed: int, trials: int = 0, epochs: int = 0):
        """`trials` and `epochs` are what a search and the default get for zo's forward passes."""
        self.method, self.seed, self.scale = method, seed, SCALES[args.scale]
        self.kind, own = {**METHODS, **ABLATION}[method]
        name = re.sub(r"\W+", "-", method)
        self.root = Path(args.runs_dir) / args.scale / f"{name}-seed{seed}"
        self.after = None  # the cell whose schedule this one trains with
        base = "train" if self.kind == "search" else self.kind
        words = f"{self.scale['all']} {self.scale[base]}".split()
        if self.kind == "search":
            words += f"--n_calls {trials} --n_initial {max(2, trials // 3)}".split()
            words += ["--search_seed", str(seed + 42)]
        words += [*own.split(), "--seed", str(seed)]
        self.places = ["--device", args.device, "--data_dir", args.data_dir]
        self.places += ["--runs_dir", str(self.root)]
        if method == "default, zo's steps":  # those of both copies
            bilevel = Cell(args, "bilevel zo", seed).parsed()
            moved = max(0, bilevel.epochs - bilevel.initial_epoch)
            epochs = bilevel.epochs * bilevel.inner_loop + moved * bilevel.inner_loop_z
            words += ["--epochs", str(epochs)]
        if method == "default, zo's budget":
            words += ["--epochs", str(epochs)]
        if method in LEARNED:
            self.after = Cell(args, LEARNED[method], seed)
        self.words = words

    def parsed(self):
        """The arguments as the script itself reads them."""
        module = importlib.import_module(SCRIPTS[self.kind])
        return cli.parse(module.make_parser(), self.kind, module.check, self.words + self.places)

    @property
    def command(self) -> str:
        """The command without the places of this machine."""
        more = f" --schedule_from {self.after.method}'s schedule.json" if self.after else ""
        return f"python {SCRIPTS[self.kind]}.py {' '.join(self.words)}{more}"

    @property
    def folder(self) -> Path | None:
        """The run's folder, once it is there."""
        found = sorted(self.root.glob("[0-9]*/args.json"))
        return found[-1].parent if found else None

    @property
    def done(self) -> bool:
        return bool(self.folder and (self.folder / "summary.json").exists())

    @property
    def chosen(self) -> Path:
        """The folder of the run that counts: a search's best trial."""
        if self.kind != "search":
            return self.folder
        summary = json.loads((self.folder / "summary.json").read_text())
        return self.folder / "trials" / f"{summary['best']:03d}"

    def cost(self, images) -> dict[str, int]:
        """Images through the network, as the flags say."""
        args = self.parsed()
        if self.kind != "search":
            return importlib.import_module(SCRIPTS[self.kind]).planned(args, images)
        one = importlib.import_module(SCRIPTS["train"]).planned(args, images)
        return {name: args.n_calls * count for name, count in one.items()}

    def run(self) -> int:
        """The script itself, in a process of its own; the exit code."""
        script = str(ROOT / f"{SCRIPTS[self.kind]}.py")
        words = ["--resume", "latest", "--runs_dir", str(self.root)]
        if not self.folder:
            words = [*self.words, *self.places]
            if self.after:
                words += ["--schedule_from", str(self.after.folder / "schedule.json")]
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "output.txt", "a") as output:
            command = [sys.executable, script, *words]
            return subprocess.run(command, stdout=output, stderr=output, check=False).returncode


def cells_of(args, images) -> list[Cell]:
    """All cells, a seed after the other; searches with the budget of the bilevel run."""
    methods = args.methods or [*METHODS, *(ABLATION if args.ablation else ())]
    seeds = range(args.seeds or SCALES[args.scale]["seeds"])
    budget = budget_of(args, images)
    return [Cell(args, method, seed, **budget) for seed in seeds for method in methods]


def budget_of(args, images) -> dict[str, int]:
    """What the forward passes of the zeroth-order bilevel run pay for."""
    passes = forward_passes(Cell(args, "bilevel zo", 0).cost(images))
    default, costs = Cell(args, "default", 0), {}
    flags, planned = default.parsed(), importlib.import_module(SCRIPTS["train"]).planned
    for epochs in (0, flags.epochs):  # without any, there is still the final evaluation
        costs[epochs] = forward_passes(
            planned(SimpleNamespace(**vars(flags) | {"epochs": epochs}), images)
        )
    an_epoch = (costs[flags.epochs] - costs[0]) / flags.epochs
    trials = SCALES[args.scale].get("trials") or max(2, round(passes / costs[flags.epochs]))
    return {"trials": trials, "epochs": max(1, round((passes - costs[0]) / an_epoch))}


def run_all(args, cells: list[Cell], images) -> None:
    """What is missing, in order; a run that fails is left out and said."""
    costs = {cell: forward_passes(cell.cost(images)) for cell in cells}
    began, spent = time.monotonic(), 0
    with progress_bar(total=sum(costs.values()), unit="eval", unit_scale=True) as bar:
        bar.update(sum(costs[cell] for cell in cells if cell.done))
        waiting = [cell for cell in cells if not cell.done]
        while waiting:
            ready = [c for c in waiting if c.after is None or c.after.done]
            if not ready:
                print(f"left out, for want of a schedule: {len(waiting)} runs", file=sys.stderr)
                break
            batch, waiting = ready, [c for c in waiting if c not in ready]
            with ThreadPoolExecutor(args.jobs) as pool:  # its threads wait for processes
                for cell, code in zip(batch, pool.map(Cell.run, batch), strict=True):
                    if code in INTERRUPTED:
                        pool.shutdown(cancel_futures=True)
                        raise Stop("interrupted; the same command goes on", code=130)
                    spent += costs[cell]
                    bar.update(costs[cell])
                    left = sum(costs[c] for c in cells if not c.done)
                    hours = (time.monotonic() - began) * left / spent / 3600
                    said = "done" if code == 0 else f"FAILED, see {cell.root}/output.txt"
                    bar.write(f"{cell.method}, seed {cell.seed}: {said}; {hours:.2f} hours left")


def judged(folder: Path, fallback: dict) -> dict:
    """FID with and without clipping, on noise that chose nothing; kept beside the checkpoint."""
    path = folder / "judged.json"
    if not path.exists():
        args = json.loads((folder / "args.json").read_text())["arguments"]
        found = {}
        for name, no_clip in (("clip", False), ("no_clip", True)):
            flags = {**args, "no_clip": no_clip, **fallback}
            device = setup(flags["device"], flags["cpu"], flags["threads"])
            judge, settings = (
                Judge.from_flags(device, **flags),
                SamplerSettings.from_flags(**flags),
            )
            n, path_of_net = flags["eval_samples"], checkpoint.newest(folder)
            found[name] = judge_checkpoint(path_of_net, judge, device, n, settings, "report")
        checkpoint.write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    return json.loads(path.read_text())


def best_within(folder: Path, seconds: float) -> Path | None:
    """The trial that a search would have chosen after so many seconds."""
    rows = [row for row in Ledger(folder / "search.jsonl").whole() if row["at"] <= seconds]
    best = min(rows, key=lambda row: row["objective"], default=None)
    return best and folder / "trials" / f"{best['trial']:03d}"


def check_same(cell: Cell) -> dict:
    """What is known of a cell's run; a Stop if its flags are no longer the cell's."""
    about = json.loads((cell.folder / "args.json").read_text())
    asked, ran = json.loads(json.dumps(vars(cell.parsed()))), about["arguments"]
    places = {"device", "data_dir", "runs_dir", "resume", "dry_run"}
    learned = {*NAMES, "schedule_from", "scheduler_type"} if cell.after else set()
    for name in sorted(set(asked) - places - learned):
        if asked[name] != ran.get(name, asked[name]):  # a run may be older than a flag
            raise Stop(f"{cell.folder}: ran with --{name} {ran[name]}, now it is {asked[name]}")
    return about


def spent_of(cell: Cell) -> dict:
    """Seconds, evaluations and steps of a cell's run, with those of the run it learned from."""
    args, summary = cell.parsed(), json.loads((cell.folder / "summary.json").read_text())
    cost = Counter(summary["network_evaluations"])
    steps = summary.get("steps") or cost["training"] // args.batch_size  # theta_y's, or all trials'
    if cell.kind == "bilevel":
        iterations = steps // (args.epochs * args.inner_loop)
        steps += max(0, args.epochs - args.initial_epoch) * iterations * args.inner_loop_z
    found = {"seconds": summary["seconds"], "cost": cost, "steps": steps}
    if cell.after:
        before = spent_of(cell.after)
        found = {name: value + before[name] for name, value in found.items()}
    return found


def row_of(args, cell: Cell, seconds: float) -> dict:
    """A cell's row of the results; `seconds` is the wall-clock of the bilevel run of its seed."""
    folder, where = cell.folder, {"device": args.device, "data_dir": args.data_dir}
    summary, about = json.loads((folder / "summary.json").read_text()), check_same(cell)
    scores, spent = judged(cell.chosen, where), spent_of(cell)
    in_time = folder if spent["seconds"] <= seconds else None
    if cell.kind == "search":
        in_time = best_within(folder, seconds)
    peak = {k.removeprefix("trials_peak_"): v for k, v in summary.items() if "_peak_" in k}
    peak = peak or summary["peak_memory"]
    schedule = json.loads((folder / "schedule.json").read_text())
    return {
        "method": cell.method, "seed": cell.seed, "fid": scores["clip"]["fid"],
        "fid_no_clip": scores["no_clip"]["fid"], "is_mean": scores["clip"]["is_mean"],
        "fid_in_time": judged(in_time, where)["clip"]["fid"] if in_time else None,
        "n": scores["clip"]["n"], "extractor": scores["clip"]["extractor"],
        "reference": scores["clip"]["reference"], "seconds": spent["seconds"],
        "forward_passes": forward_passes(spent["cost"]),
        **{name: spent["cost"].get(name, 0) for name in report.COSTS},
        "gradient_steps": spent["steps"], "trials": summary.get("trials"),
        "peak_bytes": peak.get("cuda", peak["host"]),
        **{name: schedule.get(name) for name in ("timesteps", *NAMES)},
        "device": about["device"], "threads": about["threads"], "jobs": args.jobs,
        "commit": about["commit"], "command": cell.command,
    }  # fmt: skip


def main(args) -> None:
    scale, path = SCALES[args.scale], Path(args.results_dir) / f"reproduce_{args.scale}.csv"
    if not args.report:
        first = Cell(args, "default", 0).parsed()
        images = images_to_plan(first.dataset)
        cells = cells_of(args, images)
        if args.dry_run:
            costs = [(c.method, c.seed, forward_passes(c.cost(images))) for c in cells]
            report.print_plan(costs, rate_of(first, images))
            return
        if not args.collect:
            run_all(args, cells, images)
        write_results(args, path, [cell for cell in cells if cell.done])
    elif not path.exists():
        raise Stop(f"{path}: no results yet; run without --report first", code=2)
    report.write(args.scale, scale, path)
    rows = [row for row in report.read_csv(path) if row["method"] in METHODS]
    whole = len(rows) == len(METHODS) * scale["seeds"]
    if whole and path.parent.resolve() == ROOT / "docs" / "results":
        report.into_readme(ROOT / "README.md", path.stem, rows)


def rate_of(args, images) -> float:
    """Forward passes a second, from a few training steps of the baseline."""
    device = setup(args.device, args.cpu, args.threads)
    net = make_network(args.model_base_dim, args.timesteps, device)
    process = Diffusion(train_mnist.fixed_schedules(args)[0], device=device)
    optimizer = make_optimizer(net.parameters(), args.lr)
    x0 = to_unit(images[: args.batch_size].to(device))
    for step in range(4):
        if step == 1:  # the first one allocates
            began = time.monotonic()
        denoising_step(process, net, optimizer, x0, stream(device, 0, step))
    return 9 * len(x0) / (time.monotonic() - began)


def write_results(args, path: Path, cells: list[Cell]) -> None:
    """A row a cell, a row a point of the curves, and the pictures of one seed side by side."""
    times = {
        cell.seed: json.loads((cell.folder / "summary.json").read_text())["seconds"]
        for cell in cells
        if cell.method == "bilevel zo"
    }
    if not cells:
        raise Stop(f"no run came to its end; see {args.runs_dir}/{args.scale}/*/output.txt")
    rows = []
    with progress_bar(total=len(cells), desc="judging") as bar:
        for cell in cells:
            rows.append(row_of(args, cell, times.get(cell.seed, 0.0)))
            bar.update()
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write_csv(path, rows)
    if points := report.curves(cells):
        report.write_csv(path.with_name(f"{path.stem}_curves.csv"), points)
    if shown := {c.method: c.chosen for c in cells if c.seed == 0 and c.method in report.DRAWN}:
        report.plot_samples(report.figure_of(path, "samples"), shown)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "reproduce.py"))
