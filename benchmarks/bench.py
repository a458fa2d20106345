"""What is fast, measured: our paths beside the plain ones of plain.py, in turn in one process.

python -m benchmarks.bench --threads 2     prints the table, writes docs/results/bench.json
python -m benchmarks.bench --quick         small, in a few minutes; writes nothing
python -m benchmarks.bench --threads 2 --amp         our side in bfloat16; bench_bfloat16.json
python -m benchmarks.bench --threads 2 --compile     what torch.compile brings; compiled.json
python -m benchmarks.page                  writes the tables of the three into docs/speed.md

Images and reference are drawn: nothing is read or downloaded. InceptionV3 has random weights, which
cost what the official ones cost.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import plain
from common.extractors import Extractor, FidInception, load_extractor
from common.fast_layers import frozen
from common.fast_unet import FastUNet
from common.judging import Judge
from common.machine import keep_freed_memory, peak_memory, stream
from common.networks import compiled
from common.sampling import Sampler, SamplerSettings
from common.schedule_optimizer import ScheduleOptimizer
from common.training import denoising_step, make_optimizer
from common.upper_level import UpperLevel, UpperSettings
from common.weights import evaluating, flat
from metrics import FeatureStatistics, Reference, frechet_distance
from model import Diffusion
from scheduler import Schedule
from train_mnist_bilevel_ZO import loss_difference
from unet import UNet

RESULTS = ROOT / "docs" / "results"
INNER_LOOP = 10  # of the published command
SIZES = ("device", "threads", "base", "batch_size", "images")
PEAKS = ("plain training", "our training", "our bilevel iteration")
SETUP = """
import sys
sys.argv = ["train_mnist.py", "--cpu", "--dataset", "digits"]
import train_mnist as script
from common import cli, data, judging, machine, networks
args = cli.parse(script.make_parser(), "train", script.check, sys.argv[1:])
device = machine.setup(args.device, args.cpu, args.threads)
images = data.load_images(args.dataset, args.data_dir, "train").to(device)
judging.Judge.from_flags(device, **vars(args))
net = networks.make_network(args.model_base_dim, args.timesteps, device)
script.make_optimizer(net.parameters(), args.lr), script.Average(net, 0.9, 10, 100)
"""

TINY_SEARCH = """--dataset digits --model_base_dim 4 --timesteps 10 --backward_steps 2 --epochs 1
    --limit_batches 1 --n_samples 4 --fid_samples 0 --eval_samples 20 --cpu --threads 1"""


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=1, help="CPU threads")
    add("--repeats", type=int, default=3, help="measurements of each side, in turn")
    add("--base", type=int, default=64, help="channels of the network")
    add("--batch_size", type=int, default=128, help="images a training step")
    add("--steps", type=int, default=100, help="DDIM steps of a sampling")
    add("--images", type=int, default=36, help="images of a sampling")
    add("--extractor", default="inception", choices=["inception", "mnist"], help="of the FIDs")
    add("--quick", action="store_true", help="base 8, batch 16, 3 steps, the mnist extractor")
    add("--compile", action="store_true", help="only what torch.compile brings, minutes")
    add("--amp", action="store_true", help="our side in bfloat16, where that changes anything")
    add("--peak", choices=PEAKS, help="print one peak of memory in bytes, and stop")
    args = parser.parse_args()
    if args.quick:
        args.base, args.batch_size, args.steps, args.extractor = 8, 16, 3, "mnist"
    return args


class Bench:
    """One network for each side and everything around it, and the rows that were measured."""

    def __init__(self, args):
        torch.manual_seed(0)
        d = self.device = torch.device(args.device)
        self.args, self.rows = args, []
        self.ours, self.plain = FastUNet(args.base).to(d), UNet(args.base).to(d)
        self.plain.load_state_dict(self.ours.state_dict())
        self.optimizers = {
            self.ours: make_optimizer(self.ours.parameters(), 1e-3),
            self.plain: torch.optim.AdamW(self.plain.parameters(), lr=1e-3, foreach=False),
        }
        self.schedule = Schedule("cosine", 1000, learned=True).to(d)
        self.process = Diffusion(self.schedule, device=d)
        self.flags = argparse.Namespace(
            seed=0, timesteps=1000, backward_steps=args.steps, sampler="ddim", tau_type="linear",
            no_clip=False, amp=args.amp, compile="off", zo_samples=args.images, zo_directions=1,
            ZO_type="two", delta=0.01, noise="common", upper_gradient="zo", truncation=1.0,
            batch_size=args.batch_size,
        )  # fmt: skip
        self.sampler = Sampler(
            self.process, SamplerSettings.from_flags(**vars(self.flags)), (1, 28, 28)
        )
        self.extractor = make_extractor(args.extractor, d)
        self.plain_extractor = deepcopy(self.extractor).to(memory_format=torch.contiguous_format)
        self.reference = drawn_reference(self.extractor.dim, d, self.extractor.name)
        settings = UpperSettings.from_flags(**vars(self.flags))
        judge = Judge(self.extractor, self.reference)
        self.upper = {
            kind: UpperLevel(
                self.sampler, judge, self.schedule, replace(settings, upper_gradient=kind)
            )
            for kind in ("zo", "forward", "exact")
        }
        self.x0 = torch.rand(args.batch_size, 1, 28, 28, device=d) * 2 - 1
        self.noise = self.sampler.noise(args.images, 0, "bench")
        with torch.no_grad():
            self.levels = self.process.levels()

    def row(self, what, ours, plain=None, scale=1.0, repeats=None, warm_up=True):
        """Measure both sides in turn; seconds are of `scale` calls.

        Each comes after a call that is not timed, since only our side keeps freed memory; unless
        it is long enough to warm up in its first part.
        """
        sides = {"ours": ours} | ({"plain": plain} if plain else {})
        times = {name: [] for name in sides}
        for _ in range(repeats or self.args.repeats):
            for name, call in sides.items():
                keep_freed_memory(name == "ours" or self.args.compile)
                if warm_up:
                    call()
                times[name].append(self.seconds(call) * scale)
        self.add({"what": what} | {name: summary(found) for name, found in times.items()})
        return self.rows[-1]

    def seconds(self, call):
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def add(self, row):
        if "plain" in row:
            row["ratio"] = row["ours"]["median"] / row["plain"]["median"]
        self.rows.append(row)
        print(line(row), flush=True)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def train(self, net, extra=None):
        """A training step, always on the same images."""
        random = stream(self.device, 0, "bench")
        more = {"amp": self.amp(net), "levels": self.levels, "extra": extra}
        denoising_step(self.process, net, self.optimizers[net], self.x0, random, **more)

    def amp(self, net):
        return self.args.amp and net is not self.plain

    def precision(self, net):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp(net))

    @contextmanager
    def passes(self, *nets):
        """Around single passes: what a sampling does once for all of its own."""
        with torch.inference_mode(), evaluating(*nets), ExitStack() as stack:
            for net in nets:
                stack.enter_context(self.precision(net))
                stack.enter_context(frozen(net))
            yield

    def forward(self, net):
        """One pass of a sampling."""
        with self.precision(net):
            net(self.noise, torch.tensor([500], device=self.device))

    def sample(self, net):
        with torch.inference_mode(), evaluating(net):
            if net is self.ours:
                self.sampler(net, self.noise, levels=self.levels)
            else:
                self.process.sample(net, self.noise, self.args.steps, levels=self.levels)

    def plain_sides(self):
        """Both sides of a zeroth-order difference."""
        fixed = self.sampler, self.levels, self.plain_extractor, self.reference, self.noise
        with evaluating(self.plain):
            for _ in range(2):
                plain.side(self.plain, *fixed)

    def slope_of_schedule(self, kind):
        return self.upper[kind].slope_of_schedule(self.ours, 0)

    def slope_of_weights(self):
        return self.upper["zo"].slope_of_weights(self.ours, 0)

    def measure(self):
        """All rows; a study of another kind adds its own here."""
        args, ours, theirs = self.args, self.ours, self.plain
        print(line(None))
        self.row(
            f"training step, {args.batch_size} images",
            lambda: self.train(ours),
            lambda: self.train(theirs),
            repeats=args.repeats + 2,
        )
        with self.passes(ours, theirs):
            self.row(
                f"forward of {args.images} images, as in a sampling",
                lambda: self.forward(ours),
                lambda: self.forward(theirs),
                repeats=4 * args.repeats + 1,
            )
        self.row(
            f"sampling an image, {args.steps} steps",
            lambda: self.sample(ours),
            lambda: self.sample(theirs),
            1 / args.images,
            warm_up=args.quick,
        )
        self.iteration()
        self.memory_rows()
        if not args.amp:
            self.fid_rows()
            self.setup_row()
            self.search_row()

    def compiled_rows(self):
        """Both passes compiled, beside themselves uncompiled, and the first call of each."""
        net, theirs = compiled(deepcopy(self.ours), "fused"), self.ours
        self.optimizers[net] = make_optimizer(net.parameters(), 1e-3)
        print(line(None))
        self.compiled_row("training step", self.train, net, theirs)
        with self.passes(net, theirs):
            self.compiled_row("forward", self.forward, net, theirs)

    def compiled_row(self, what, call, net, theirs):
        first = self.seconds(lambda: call(net))
        self.add({"what": f"{what}: the first call", "ours": summary([first])})
        self.row(f"{what}, compiled and not", lambda: call(net), lambda: call(theirs))

    def fid_rows(self):
        """From features to the distance."""
        dim = self.extractor.dim
        for n in (36, 1000 if self.args.quick else 10000):
            features = torch.randn(n, dim, dtype=torch.float64, device=self.device)

            def ours(features=features):
                statistics = FeatureStatistics()
                for part in features.split(500):
                    statistics.update(part)
                return statistics.fid(self.reference)

            def theirs(features=features):
                return plain.fid(features.mean(0), features.mT.cov(), self.reference)

            if n == 36:
                ours = lambda x=features: frechet_distance(x, self.reference)  # noqa: E731
            self.row(f"FID, n = {n}, {dim} features", ours, theirs)

    def iteration(self):
        """The phases of a bilevel iteration with the published flags, and their sum."""
        args, ours, theirs, first = self.args, self.ours, self.plain, len(self.rows)
        twins = {net: deepcopy(net) for net in (ours, theirs)}
        extra = torch.zeros_like(flat(ours))
        q = ScheduleOptimizer(self.schedule, [0.0] * 4, 1000)
        gradient = torch.full((4,), 1e-3, dtype=torch.float64, device=self.device)

        def difference(net):
            return loss_difference(self.process, net, twins[net], self.x0, 0, 0)

        def move():
            q.step(gradient)

        def row(what, *sides, **options):
            return self.row(f"bilevel: {what}", *sides, **options)

        def shared(what, **ours):
            """The plain version samples two sides for three phases; they are timed once."""
            self.add({"what": f"bilevel: {what}", **ours, "plain": two_sides["plain"]})

        steps = lambda: self.train(ours), lambda: self.train(theirs)
        row(f"{INNER_LOOP} theta_y steps", *steps, scale=INNER_LOOP)
        long = {"warm_up": self.args.quick}  # a hundred forward passes warm up in their first
        two_sides = row(
            "dFID/dtheta, zeroth-order", self.slope_of_weights, self.plain_sides, **long
        )
        row("theta_z step", lambda: self.train(ours, extra), steps[1])
        keep_freed_memory()
        of_q = [self.seconds(lambda: self.slope_of_schedule("zo")) for _ in range(args.repeats)]
        shared("dFID/dq, zeroth-order", ours=summary(of_q))
        row("difference of losses", lambda: difference(ours), lambda: difference(theirs))
        row("schedule step", move, move)
        shared("FIDs only to log", ours=summary([0.0]))
        phases = self.rows[first:]
        total = {
            side: {k: sum(r[side][k] for r in phases) for k in ("median", "least", "most")}
            for side in ("ours", "plain")
        }
        self.add({"what": "bilevel iteration, the sum", **total})
        if not args.amp:  # forward mode is float32
            forward = lambda: self.slope_of_schedule("forward")  # noqa: E731
            self.row("or: dFID/dq in forward mode", forward, repeats=1, **long)

    def memory_rows(self):
        """Peaks of processes of their own that do one thing twice, with the mnist extractor."""
        for what in PEAKS:
            same = {k: v for k, v in vars(self.args).items() if k in SIZES} | {"steps": 2}
            words = [w for k, v in same.items() for w in (f"--{k}", str(v))]
            words += ["--amp"] * self.args.amp
            here = [sys.executable, __file__, "--peak", what, "--extractor", "mnist", *words]
            found = subprocess.run(here, capture_output=True, text=True, check=True)
            self.rows.append({"what": f"peak memory, {what}", "GiB": int(found.stdout) / 2**30})
            print(line(self.rows[-1]), flush=True)

    def peak(self, what):
        """What `what` needs, in bytes."""
        keep_freed_memory()
        net = self.plain if "plain" in what else self.ours
        twin = deepcopy(net) if "bilevel" in what else None
        for _ in range(2):
            self.train(net)
            if twin:
                extra = self.slope_of_weights().gradient
                self.train(net, extra)
                self.slope_of_schedule("zo")
                loss_difference(self.process, net, twin, self.x0, 0, 0)
        if self.device.type == "cuda":
            return peak_memory()["cuda"]
        # not ru_maxrss, which a process inherits from the one that started it
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def setup_row(self):
        """A first run up to its first step, statistics cached: a process from start to end."""
        times = []
        for _ in range(self.args.repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", SETUP], cwd=ROOT, check=True)
            times.append(time.perf_counter() - start)
        self.add({"what": "set-up of a first run, digits", "ours": summary(times)})

    def search_row(self):
        """What a search of the published 15 trials adds to a trial's own training: its process,
        its ledger, the Gaussian process, and a share of the search's start and figures."""
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            words = [*TINY_SEARCH.split(), "--runs_dir", folder]
            words += ["--n_calls", "6" if self.args.quick else "15"]
            here = [sys.executable, str(ROOT / "train_mnist_bayesian.py"), *words]
            subprocess.run(here, check=True, capture_output=True)
            seconds = time.perf_counter() - start
            (ledger,) = Path(folder).glob("*/search.jsonl")
            rows = [json.loads(line) for line in ledger.read_text().splitlines()]
        each = (seconds - sum(row["seconds"] for row in rows)) / len(rows)
        self.add({"what": "a search trial beside its training", "ours": summary([each])})

    def work(self):
        """Operations and bytes of a training step of each side, and what the machine can do."""
        found = {}
        for name, net in (("ours", self.ours), ("plain", self.plain)):
            with FlopCounterMode(display=False) as flops, torch.inference_mode():
                net(self.x0, torch.ones(len(self.x0), dtype=torch.long, device=self.device))
            with Traffic() as traffic:
                self.train(net)
            found[name] = {
                "GFLOP": 3 * flops.get_total_flops() / 1e9,  # forward, and two products back
                "GB": traffic.bytes / 1e9,
                "operators": traffic.calls,
            }
        a = torch.randn(2048, 2048, device=self.device)
        b = torch.randn(2**26, device=self.device)
        c = torch.empty_like(b)
        found["product, GFLOP/s"] = 2 * 2048**3 / self.fastest(lambda: a @ a) / 1e9
        found["copy, GB/s"] = 2 * 4 * 2**26 / self.fastest(lambda: c.copy_(b)) / 1e9
        return found

    def fastest(self, call):
        return min(self.seconds(call) for _ in range(9))


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write; a view moves none."""

    bytes = calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view and not any(n in func.name() for n in ("empty", "detach", "_view")):
            tensors = torch.utils._pytree.tree_leaves((args, kwargs, out))
            self.bytes += sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))
            self.calls += 1
        return out


def make_extractor(name, device):
    if name == "mnist":
        return load_extractor(name, device)
    with mock.patch.object(torch.nn.Module, "load_state_dict"):
        return Extractor(name, FidInception({}), "random weights").to(device)


def drawn_reference(dim, device, name):
    """A Gaussian of falling variances, with what is made of it once."""
    x = torch.randn(5 * dim, dim, dtype=torch.float64) * torch.arange(1, dim + 1) ** -0.5
    reference = Reference(x.mean(0).to(device), x.mT.cov().to(device), 5 * dim, "drawn", name)
    assert reference.root.shape == (dim, dim)
    return reference


def summary(times):
    return {"median": median(times), "least": min(times), "most": max(times)}


def line(row):
    """A line of the printed table; None is its head."""
    if row is None:
        return (
            f"{'seconds':38s} {'ours':>9s} {'least':>9s} {'most':>9s} {'plain':>9s} {'ratio':>6s}"
        )
    if "GiB" in row:
        return f"{row['what']:38s} {row['GiB']:9.3f} GiB"
    ours = [row["ours"][k] for k in ("median", "least", "most")]
    text = f"{row['what']:38s} " + " ".join(f"{v:9.4f}" for v in ours)
    return text + (f" {row['plain']['median']:9.4f} {row['ratio']:6.3f}" if "ratio" in row else "")


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    if args.peak:
        print(bench.peak(args.peak))
        return
    work = {}
    if args.compile:
        bench.compiled_rows()
    else:
        bench.measure()
        work = {} if args.amp else bench.work()  # the floors are those of float32
        print(json.dumps(work, indent=1))
    if not args.quick:
        name = "compiled" if args.compile else "bench_bfloat16" if args.amp else "bench"
        (RESULTS / f"{name}.json").write_text(
            json.dumps(record(args, bench, work), indent=1) + "\n"
        )


def record(args, bench, work) -> dict:
    """What was measured, and on what."""
    cuda = args.device != "cpu"
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    precision = "our side in bfloat16" if args.amp else "float32"
    machine = (
        f"torch {torch.__version__}, {where}, {args.threads} threads, {precision}; median, "
        f"least and most of {args.repeats} measurements or more (one, where these agree), the "
        f"sides in turn; the machine's load at the end {os.getloadavg()[0]:.1f}"
    )
    return {
        "command": " ".join(["python -m benchmarks.bench", *sys.argv[1:]]),
        "machine": machine,
        "extractor": f"{args.extractor}, random weights" if args.extractor != "mnist" else "mnist",
        "rows": bench.rows,
        "work": work,
    }


if __name__ == "__main__":
    main()
