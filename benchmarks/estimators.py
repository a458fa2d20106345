"""Estimates of dFID/dq on a trained network: how far from the truth, for how many evaluations.

    python -m benchmarks.estimators --ckpt CHECKPOINT --data_dir data     measures and draws
    python -m benchmarks.estimators --figure                              only draws again

One schedule (the checkpoint's), one network, many draws of each estimate: two points with
independent noise, with common noise, with several directions, one point, and forward mode. The
truth at n images is forward mode averaged over other draws, at the largest n for the bias. Writes
docs/results/estimators.csv, a row an estimate and parameter, and docs/figures/estimators.png.
"""

import csv
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
from common import cli

RESULTS = ROOT / "docs" / "results" / "estimators.csv"
FIGURE = ROOT / "docs" / "figures" / "estimators.png"


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.add_argument("--ckpt", help="a run's checkpoint: its network and its schedule")
    parser.add_argument("--data_dir", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--n", type=cli.count, default=36, help="images of an FID")
    parser.add_argument("--n_true", type=cli.count, default=2048, help="images of the truth's FID")
    parser.add_argument("--draws", type=cli.count, default=24, help="draws of each estimate")
    parser.add_argument("--true_draws", type=cli.count, default=2, help="draws at --n_true")
    parser.add_argument("--backward_steps", type=cli.count, default=10, help="DDIM steps")
    parser.add_argument("--delta", type=cli.positive, default=0.01, help="perturbation")
    parser.add_argument("--directions", type=cli.count, default=8, help="of the estimate with many")
    parser.add_argument("--threads", type=cli.count_or_none, default=0, help="CPU threads")
    parser.add_argument("--figure", action="store_true", help="only draw what is in the CSV file")
    return parser


if __name__ == "__main__":
    ARGS = make_parser().parse_args()


import torch

from common import figures
from common.families import NAMES
from common.judging import Judge
from common.networks import load_network
from common.sampling import Sampler, SamplerSettings, process_of
from common.upper_level import UpperLevel, UpperSettings
from scheduler import Schedule


def estimates(args) -> dict[str, dict]:
    """Label -> what is set of UpperSettings."""
    return {
        "one point": {"zo_type": "one"},
        "two points, independent noise": {"noise": "independent"},
        "two points, common noise": {},
        f"two points, {args.directions} directions": {"directions": args.directions},
        "forward mode": {"upper_gradient": "forward"},
    }


class Bench:
    """The upper level of one checkpoint, with flags to vary."""

    def __init__(self, args):
        self.args, device = args, torch.device("cpu")
        net, state = load_network(args.ckpt, device)
        self.net, of_run = net, SimpleNamespace(**{**state["args"], "data_dir": args.data_dir})
        of_run.backward_steps, of_run.amp, of_run.sampler = args.backward_steps, False, "ddim"
        saved = dict(state["schedule"])
        family, timesteps = saved.pop("family"), saved.pop("timesteps")
        self.schedule = Schedule(family, timesteps, learned=True, **saved)
        process = process_of(state, device)
        process.schedule = process.sampling_schedule = self.schedule
        self.sampler = Sampler(process, SamplerSettings.from_flags(**vars(of_run)), state["shape"])
        self.judge = Judge.from_flags(device, **vars(of_run))

    def draw(self, flags: dict, n: int, draws: int, seed: int):
        """Gradients (draws,p), network evaluations a draw, seconds a draw."""
        settings = UpperSettings(
            self.args.backward_steps, n, seed, delta=self.args.delta, truncation=1.0, **flags
        )
        upper = UpperLevel(self.sampler, self.judge, self.schedule, settings)
        spoilt = settings.zo_type == "one"  # the first residual has nothing to subtract
        found, began = [], time.perf_counter()
        for step in range(draws + spoilt):
            slope = upper.slope_of_schedule(self.net, step)
            found.append(slope.gradient)
        seconds = (time.perf_counter() - began) / len(found)
        return torch.stack(found[spoilt:]), upper.evaluations["upper"] / len(found), seconds


def measure(args) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    bench, rows = Bench(args), []
    forward = estimates(args)["forward mode"]
    largest, cost, seconds = bench.draw(forward, args.n_true, args.true_draws, seed=1)
    print(f"n {args.n_true}: {cost:,.0f} evaluations, {seconds:.1f} s a draw", flush=True)
    # what an estimate at n images is an estimate of: other draws than those it is judged on
    truth, full_cost, _ = bench.draw(forward, args.n, args.draws, seed=3)
    truth = truth.mean(0)
    for label, flags in estimates(args).items():
        found, cost, seconds = bench.draw(flags, args.n, args.draws, seed=2)
        for i, name in enumerate(bench.schedule.q):
            error = (found[:, i] - truth[i]).square().mean().sqrt()
            rows.append({
                "estimate": label, "parameter": name, "n": args.n, "draws": args.draws,
                "mean": found[:, i].mean().item(), "std": found[:, i].std().item(),
                "standard_error": found[:, i].std().item() / args.draws**0.5,
                "truth": truth[i].item(), "truth_at_n_true": largest[:, i].mean().item(),
                "n_true": args.n_true, "true_draws": args.true_draws,
                "error": error.item(), "evaluations": round(cost), "seconds": seconds,
                "std_at_equal_evaluations": found[:, i].std().item() * (cost / full_cost) ** 0.5,
                "backward_steps": args.backward_steps, "delta": args.delta,
            })  # fmt: skip
            r = rows[-1]
            print(
                f"{label:32s} {name:8s} mean {r['mean']:9.1f} std {r['std']:9.1f} "
                f"at equal evaluations {r['std_at_equal_evaluations']:9.1f}; "
                f"n {args.n_true}: {r['truth_at_n_true']:9.1f}; {cost:,.0f} in {seconds:.2f} s",
                flush=True,
            )
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if type(v) is float else v for k, v in row.items()})


def picture() -> None:
    """A plot a parameter: each estimate's mean and spread, at equal evaluations, and the truth."""
    with open(RESULTS) as file:
        rows = list(csv.DictReader(file))
    names = [name for name in NAMES if any(r["parameter"] == name for r in rows)]
    figure, axes = figures.axes_of(len(names))
    for axis, name in zip(axes, names, strict=True):
        mine = [r for r in rows if r["parameter"] == name]
        mean, std = ([float(r[k]) for r in mine] for k in ("mean", "std_at_equal_evaluations"))
        axis.errorbar(mean, range(len(mine)), xerr=std, fmt="o", capsize=3)
        axis.axvline(float(mine[0]["truth_at_n_true"]), ls=":", color="gray")
        axis.set(title=f"dFID/d {name}, n = {mine[0]['n']} (dots: {mine[0]['n_true']})")
        axis.set(xlabel="mean and standard deviation")
        labels = [r["estimate"] if axis is axes[0] else "" for r in mine]
        axis.set_yticks(range(len(mine)), labels)
    figures.save(figure, FIGURE)


if __name__ == "__main__":
    if not ARGS.figure:
        measure(ARGS)
    picture()
