"""What bfloat16 does to the FID and to the upper level's slopes.

python -m benchmarks.bfloat16     trains on the 8x8 digits, writes docs/results/bfloat16.json

Networks are trained in either precision, and each is sampled in both. The slopes are zeroth-order
ones of the networks trained in float32, with the same noise and directions in both precisions.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
from common.checkpoint import load, newest
from common.judging import Judge, evaluate
from common.sampling import load_sampler
from common.upper_level import UpperLevel, UpperSettings
from common.weights import evaluating
from scheduler import Schedule

RESULT = ROOT / "docs" / "results" / "bfloat16.json"
WORDS = """--cpu --dataset digits --model_base_dim 32 --batch_size 64 --timesteps 100 --lr 0.03
    --backward_steps 20 --fid_samples 0 --eval_samples 0"""
CPU, PRECISIONS = torch.device("cpu"), ("float32", "bfloat16")
SLOPES = UpperSettings(backward_steps=20, samples=36)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--images", type=int, default=2000, help="of each FID")
    parser.add_argument("--directions", type=int, default=24, help="slopes of each network")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="one short run; writes nothing")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.images, args.directions = 1, 1, 60, 2
    return args


def trained(folder: Path, args, precision: str, seed: int) -> Path:
    """A network's checkpoint after a training in that precision."""
    folder = folder / f"{precision}-{seed}"
    words = [*WORDS.split(), "--epochs", args.epochs, "--seed", seed, "--threads", args.threads]
    words += ["--runs_dir", folder] + ["--amp"] * (precision == "bfloat16")
    command = [sys.executable, ROOT / "train_mnist.py", *words]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return newest(next(folder.iterdir()))


def fids(checkpoint: Path, judge: tuple, images: int) -> dict:
    """The FID of one network's images, sampled in either precision from the same noise."""
    net, sampler = load_sampler(checkpoint, CPU)
    found = {}
    for precision in PRECISIONS:
        sampler.settings = replace(sampler.settings, amp=precision == "bfloat16")
        found[precision] = evaluate(sampler, net, images, judge, "evaluation")["fid"]
    return found


def slopes(checkpoint: Path, judge: tuple, directions: int) -> dict:
    """How far bfloat16 moves the zeroth-order slopes: root mean squares over directions."""
    net, sampler = load_sampler(checkpoint, CPU)
    schedule = Schedule("cosine", sampler.process.schedule.timesteps, learned=True)
    found = {"schedule": [], "weights": []}
    for precision in PRECISIONS:
        settings = replace(SLOPES, amp=precision == "bfloat16")
        upper = UpperLevel(sampler, judge, schedule, settings)
        with evaluating(net):
            of_q = [upper.slope_of_schedule(net, i) for i in range(directions)]
            of_z = [upper.slope_of_weights(net, i) for i in range(directions)]
        for name, each in (("schedule", of_q), ("weights", of_z)):
            found[name].append(torch.stack([slope.gradient for slope in each]).double())
    return {
        name: {
            "size": rms(exact),
            "moved": rms(rough - exact),
            "correlation": torch.corrcoef(torch.stack([exact, rough]).flatten(1))[0, 1].item(),
        }
        for name, (exact, rough) in found.items()
    }


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    rows, moved = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for precision in PRECISIONS:
                checkpoint = trained(Path(folder), args, precision, seed)
                judge = Judge.from_flags(CPU, **load(checkpoint)["args"])
                sampled = fids(checkpoint, judge, args.images)
                rows.append({"seed": seed, "trained": precision, "fid": sampled})
                print(json.dumps(rows[-1]), flush=True)
                if precision == "float32":
                    moved.append({"seed": seed, **slopes(checkpoint, judge, args.directions)})
                    print(json.dumps(moved[-1]), flush=True)
    if args.quick:
        return
    record = {
        "command": " ".join(["python -m benchmarks.bfloat16", *sys.argv[1:]]),
        "run": " ".join(["train_mnist.py", *WORDS.split(), f"--epochs {args.epochs}"]),
        "machine": f"torch {torch.__version__}, {platform.machine()} CPU, {args.threads} thread",
        "images": args.images,
        "directions": args.directions,
        "fids": rows,
        "slopes": moved,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
