"""What does bfloat16 do to the FID and to the slopes of the upper level?

python -m benchmarks.bfloat16            writes docs/results/bfloat16.json
python -m benchmarks.bfloat16 --quick    one short run, writes nothing

Networks are trained on the 8x8 digits in either precision, and each is sampled in both. The slopes
are zeroth-order ones of the networks trained in float32, with the same noise and directions.
"""

from common import cli

QUICK = {"seeds": 1, "epochs": 1, "images": 60, "directions": 2}


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.bfloat16"
    add = cli.adder(parser)
    add("seeds", 3, "number of seeds, counted from 0", type=cli.count)
    add("epochs", 9, "epochs of each training", type=cli.count)
    add("images", 2000, "images of each FID", type=cli.count)
    add("directions", 24, "slopes of each network", type=cli.count)
    add("threads", 1, "CPU threads", type=cli.threads_given)
    add("quick", False, "measure one short run and write nothing", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.record import ROOT, command_line, machine, write_json
from common.checkpoint import load, newest
from common.judging import Judge, evaluate
from common.objective import UpperSettings
from common.sampling import load_sampler
from common.upper_level import UpperLevel
from common.weights import evaluating
from scheduler import Schedule

FLAGS = """--cpu --dataset digits --model_base_dim 32 --batch_size 64 --timesteps 100 --lr 0.03
    --backward_steps 20 --fid_samples 0 --eval_samples 0""".split()
CPU, PRECISIONS = torch.device("cpu"), ("float32", "bfloat16")
SLOPES = UpperSettings(backward_steps=20, samples=36)


def trained(folder: Path, precision: str, seed: int, epochs: int, threads: int) -> Path:
    """A network's checkpoint after a training in that precision."""
    folder = folder / f"{precision}-{seed}"
    flags = [*FLAGS, "--epochs", epochs, "--seed", seed, "--threads", threads]
    flags += ["--runs_dir", folder] + ["--amp"] * (precision == "bfloat16")
    command = [sys.executable, ROOT / "train_mnist.py", *flags]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    return newest(next(folder.iterdir()))


def fids(checkpoint: Path, judge: Judge, images: int) -> dict[str, float]:
    """The FID of one network's images, sampled in either precision from the same noise."""
    net, sampler = load_sampler(checkpoint, CPU)
    scores = {}
    for precision in PRECISIONS:
        sampler.settings = replace(sampler.settings, amp=precision == "bfloat16")
        scores[precision] = evaluate(sampler, net, images, judge, "evaluation")["fid"]
    return scores


def slopes(checkpoint: Path, judge: Judge, directions: int) -> dict[str, dict]:
    """How far bfloat16 moves the zeroth-order slopes: root mean squares over directions."""
    net, sampler = load_sampler(checkpoint, CPU)
    schedule = Schedule("cosine", sampler.process.schedule.timesteps, learned=True)
    gradients = {"schedule": [], "weights": []}
    for precision in PRECISIONS:
        settings = replace(SLOPES, amp=precision == "bfloat16")
        upper = UpperLevel(sampler, judge, schedule, settings)
        with evaluating(net):
            of_q = [upper.slope_of_schedule(net, i) for i in range(directions)]
            of_z = [upper.slope_of_weights(net, i) for i in range(directions)]
        for name, each in (("schedule", of_q), ("weights", of_z)):
            gradients[name].append(torch.stack([slope.gradient for slope in each]).double())
    return {
        name: {
            "size": rms(exact),
            "moved": rms(rough - exact),
            "correlation": torch.corrcoef(torch.stack([exact, rough]).flatten(1))[0, 1].item(),
        }
        for name, (exact, rough) in gradients.items()
    }


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


def measure(
    folder: Path, seeds: int, epochs: int, images: int, directions: int, threads: int
) -> tuple[list[dict], list[dict]]:
    """A row of FIDs for each network, a row of slopes for each that was trained in float32."""
    of_fids, of_slopes = [], []
    for seed in range(seeds):
        for precision in PRECISIONS:
            checkpoint = trained(folder, precision, seed, epochs, threads)
            judge = Judge.from_flags(CPU, **load(checkpoint)["args"])
            row = {"seed": seed, "trained": precision, "fid": fids(checkpoint, judge, images)}
            of_fids.append(row)
            print(json.dumps(row), flush=True)
            if precision == "float32":
                of_slopes.append({"seed": seed, **slopes(checkpoint, judge, directions)})
                print(json.dumps(of_slopes[-1]), flush=True)
    return of_fids, of_slopes


def main(args) -> None:
    names = ("seeds", "epochs", "images", "directions", "threads")
    sizes = {name: getattr(args, name) for name in names} | (QUICK if args.quick else {})
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        of_fids, of_slopes = measure(Path(folder), **sizes)
    if args.quick:
        return
    record = {
        "command": command_line("bfloat16"),
        "run": " ".join(["train_mnist.py", *FLAGS, f"--epochs {args.epochs}"]),
        "machine": machine(threads=args.threads),
        "images": args.images,
        "directions": args.directions,
        "fids": of_fids,
        "slopes": of_slopes,
    }
    write_json("bfloat16", record)


if __name__ == "__main__":
    main(ARGS)
