"""How far are estimates of dFID/dq on a trained network from the truth, for how many evaluations?

python -m benchmarks.estimators --ckpt CHECKPOINT --data_dir data     measures and draws
python -m benchmarks.estimators --figure                              only draws again

One schedule (the checkpoint's), one network, many draws of each estimate: two points with
independent noise, with common noise, with several directions, one point, and forward mode. The
truth at n images is forward mode averaged over other draws, at the largest n for the bias. Writes
docs/results/estimators.csv, a row an estimate and parameter, and docs/figures/estimators.png.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.estimators"
    add = cli.adder(parser)
    text = "checkpoint of a run: its network and its schedule; needed to measure"
    add("ckpt", None, text, metavar="FILE")
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("n", 36, "images of an FID", type=cli.count)
    add("n_true", 2048, "images of the FID whose gradient counts as true", type=cli.count)
    add("draws", 24, "draws of each estimate", type=cli.count)
    add("true_draws", 2, "draws with --n_true images", type=cli.count)
    add("backward_steps", 10, "DDIM steps per sampled image", type=cli.count)
    add("delta", 0.01, "size of the perturbation", type=cli.positive)
    add("directions", 8, "directions of the estimate with several", type=cli.count)
    add("threads", 0, "CPU threads; 0: as many as torch takes", type=cli.threads)
    add("figure", False, "only draw what is in the CSV file", action="store_true")
    return parser


def parse_arguments():
    parser = make_parser()
    args = parser.parse_args()
    if not (args.ckpt or args.figure):
        parser.error("--ckpt is needed to measure; --figure only draws")
    return args


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = parse_arguments()

import torch
from torch import Tensor, nn

from benchmarks.record import RESULTS, ROOT
from benchmarks.timing import seconds
from common import figures
from common.families import NAMES
from common.judging import Judge
from common.networks import load_network
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings, process_of
from common.tables import read_csv, rounded, write_csv
from common.upper_level import UpperLevel
from scheduler import Schedule

TABLE = RESULTS / "estimators.csv"
FIGURE = ROOT / "docs" / "figures" / "estimators.png"


def estimates(directions: int) -> dict[str, dict]:
    """Label -> what is set of UpperSettings."""
    return {
        "one point": {"zo_type": "one"},
        "two points, independent noise": {"noise": "independent"},
        "two points, common noise": {},
        f"two points, {directions} directions": {"directions": directions},
        "forward mode": {"upper_gradient": "forward"},
    }


class Estimator:
    """The upper level of one checkpoint, with settings to vary."""

    def __init__(self, net: nn.Module, sampler: Sampler, judge: Judge, delta: float):
        self.net, self.sampler, self.judge, self.delta = net, sampler, judge, delta
        self.schedule = sampler.process.schedule

    @classmethod
    def load(cls, ckpt: str, data_dir: str, backward_steps: int, delta: float) -> "Estimator":
        """From a run's checkpoint, its schedule with a gradient, sampled by DDIM in float32."""
        net, state = load_network(ckpt, "cpu")
        saved = dict(state["schedule"])
        family, timesteps = saved.pop("family"), saved.pop("timesteps")
        process = process_of(state, "cpu")
        process.schedule = Schedule(family, timesteps, learned=True, **saved)
        process.sampling_schedule = process.schedule
        flags = state["args"] | {"data_dir": data_dir, "backward_steps": backward_steps}
        settings = SamplerSettings.from_flags(**flags | {"amp": False, "sampler": "ddim"})
        # a shipped checkpoint names no place on a machine
        judge = Judge.from_flags("cpu", **{"cache_dir": "cache", **flags})
        return cls(net, Sampler(process, settings, state["shape"]), judge, delta)

    def draw(self, options: dict, n: int, draws: int, seed: int) -> tuple[Tensor, float, float]:
        """Gradients (draws,p), network evaluations a draw, seconds a draw."""
        settings = UpperSettings(
            self.sampler.steps, n, seed, delta=self.delta, truncation=1.0, **options
        )
        upper = UpperLevel(self.sampler, self.judge, self.schedule, settings)
        spoilt = settings.zo_type == "one"  # the first residual has nothing to subtract
        gradients = []

        def draw_all():
            for step in range(draws + spoilt):
                gradients.append(upper.slope_of_schedule(self.net, step).gradient)

        each = seconds(draw_all) / (draws + spoilt)
        evaluations = upper.evaluations["upper"] / (draws + spoilt)
        return torch.stack(gradients[spoilt:]), evaluations, each


def measure(args) -> None:
    """Write a row an estimate and parameter."""
    if args.threads:
        torch.set_num_threads(args.threads)
    estimator = Estimator.load(args.ckpt, args.data_dir, args.backward_steps, args.delta)
    labels, rows = estimates(args.directions), []
    forward = labels["forward mode"]
    largest, cost, each = estimator.draw(forward, args.n_true, args.true_draws, seed=1)
    print(f"n {args.n_true}: {cost:,.0f} evaluations, {each:.1f} s a draw", flush=True)
    # what an estimate at n images is an estimate of: other draws than those it is judged on
    truth, full_cost, _ = estimator.draw(forward, args.n, args.draws, seed=3)
    fixed = {
        "n_true": args.n_true,
        "true_draws": args.true_draws,
        "backward_steps": args.backward_steps,
        "delta": args.delta,
    }
    for label, options in labels.items():
        gradients, cost, each = estimator.draw(options, args.n, args.draws, seed=2)
        for i, name in enumerate(estimator.schedule.q):
            key = {"estimate": label, "parameter": name, "n": args.n, "draws": args.draws}
            true = truth[:, i].mean(), largest[:, i].mean()
            cells = row(gradients[:, i], *true, cost, cost / full_cost, each)
            rows.append(key | cells | fixed)
            print(line(rows[-1]), flush=True)
    write_csv(TABLE, [rounded(cells, 5) for cells in rows])


def row(
    gradient: Tensor, truth: Tensor, truth_at_n_true: Tensor, cost: float, share: float, each: float
) -> dict:
    """What one parameter's draws (draws,) say; `share` is the cost over that of forward mode."""
    std = gradient.std().item()
    return {
        "mean": gradient.mean().item(),
        "std": std,
        "standard_error": std / len(gradient) ** 0.5,
        "truth": truth.item(),
        "truth_at_n_true": truth_at_n_true.item(),
        "error": (gradient - truth).square().mean().sqrt().item(),
        "evaluations": round(cost),
        "seconds": each,
        "std_at_equal_evaluations": std * share**0.5,
    }


def line(r: dict) -> str:
    """A row as it is printed."""
    return (
        f"{r['estimate']:32s} {r['parameter']:8s} mean {r['mean']:9.1f} std {r['std']:9.1f} "
        f"at equal evaluations {r['std_at_equal_evaluations']:9.1f}; "
        f"n {r['n_true']}: {r['truth_at_n_true']:9.1f}; "
        f"{r['evaluations']:,} in {r['seconds']:.2f} s"
    )


def draw_figure() -> None:
    """A plot a parameter: each estimate's mean and spread, at equal evaluations, and the truth."""
    table = read_csv(TABLE)
    names = [name for name in NAMES if any(r["parameter"] == name for r in table)]
    figure, axes = figures.axes_of(len(names))
    for axis, name in zip(axes, names, strict=True):
        rows = [r for r in table if r["parameter"] == name]
        mean, std = ([float(r[k]) for r in rows] for k in ("mean", "std_at_equal_evaluations"))
        axis.errorbar(mean, range(len(rows)), xerr=std, fmt="o", capsize=3)
        axis.axvline(float(rows[0]["truth_at_n_true"]), ls=":", color="gray")
        axis.set(title=f"dFID/d {name}, n = {rows[0]['n']} (dots: {rows[0]['n_true']})")
        axis.set(xlabel="mean and standard deviation")
        labels = [r["estimate"] if axis is axes[0] else "" for r in rows]
        axis.set_yticks(range(len(rows)), labels)
    figures.save(figure, FIGURE)


if __name__ == "__main__":
    if not ARGS.figure:
        measure(ARGS)
    draw_figure()
