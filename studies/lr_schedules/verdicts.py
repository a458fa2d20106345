"""The words of the learning-rate report. Every number and every verdict comes from the data."""

import statistics

from scipy.stats import spearmanr

from scheduler import Schedule
from studies.lr_schedules.report import NAMES, PAPER, Numbers, table
from studies.lr_schedules.together import TIMESTEPS

NEAR = 1.25  # a KL within this factor of the constant rate's counts as equal
FIGURES = """## Figures

![generated points](figures/lr_points.png)

Generated points: a row a schedule, a column a data set.

![training loss](figures/lr_losses.png)

Training loss of the first seed, a running mean of five recorded batches.

![generated points a schedule](figures/lr_points_schedule.png)

A panel a schedule, in colour over the points of the constant rate in grey."""


def head(numbers: Numbers) -> str:
    count = len(numbers.seeds)
    seeds = f"{count} seeds (mean ± standard deviation)" if count > 1 else "one seed (no ±)"
    steps, drawn = (", ".join(f"{n:,}" for n in ns) for ns in (numbers.steps, numbers.drawn))
    return f"""# Learning-rate schedules on 2-D data

A study after *Optimizing Diffusion Models: A Comparative Study of Learning Rate Schedules*: DDPM on
2-D points, five courses of AdamW's learning rate. This page is written by
`python -m studies.lr_schedules --report` from `docs/results/lr_*.csv`.

Here: {seeds}, {steps} steps a run. All runs of a seed share first weights, batches, times and
noise: they differ in their learning rate alone. The evaluation loss is that of the averaged network
on held-out points, the KL divergence is KL(real ‖ generated) by five nearest neighbours on points
that nobody trained on. The paper does not say its step sizes and decay rates; ours are the flags'
defaults (StepLR: × 0.1 after each third; ExponentialLR: to 1 % at the end; ReduceLROnPlateau: × 0.5
after 2 passes without a lower loss; CosineAnnealingLR: to 0).

Tables 1 to 4 hold one of the paper's metrics each, Table 5 all of them. Runs of a data set are
trained together, so a run's training time is an equal part of what they took, plus what its own
schedule took; its inference time is measured alone, for {drawn} points. Times depend on the machine
and on what else it did; the paper's come from another."""


def of_the_process(numbers: Numbers) -> str:
    """How much of the divergence no learning rate can mend."""
    alpha_bar = Schedule("ddpm_unscaled", TIMESTEPS).alpha_bar()[-1].item()
    rows = [
        [name, *(numbers.cell(metric, "constant", name, ".3f") for metric in ("kl", "kl_matched"))]
        for name in numbers.sets
        if "constant" in numbers.schedules
    ]
    if not rows:
        return ""
    head = ["", "from normal noise", "from noised data"]
    return f"""## What the noise schedule costs

Betas from 1e-4 to 0.02 were made for 1,000 steps. Over {TIMESTEPS} they leave
alpha_bar = {alpha_bar:.3f}: at the end of training's time {alpha_bar**0.5:.0%} of the signal's
amplitude is still there, yet sampling starts from pure noise. KL of the constant rate, sampled as
the paper does, and from held-out points noised to that last step:

{table(head, rows)}

The difference between the two columns belongs to the noise schedule, whatever the learning rate
does."""


def of_the_paper(numbers: Numbers) -> str:
    """Which of the paper's conclusions our numbers repeat."""
    if set(numbers.schedules) != set(NAMES):
        return ""
    caution = (
        "These are verdicts on means; read a small gap, and any gap of a single seed, with care."
    )
    claims = [_best(numbers), _worst(numbers), _faster(numbers), _inference(numbers)]
    listed = "\n".join(f"* {claim}" for claim in claims)
    return f"## Which conclusions stand\n\n{caution}\n\n{listed}"


def _best(numbers):
    def two_best(value):
        return {name: set(sorted(NAMES, key=lambda s: value(s, name))[:2]) for name in numbers.sets}

    ours = two_best(lambda s, name: numbers.mean("kl", s, name))
    paper = two_best(lambda s, name: PAPER[s, name][3])
    same = [name for name in numbers.sets if ours[name] == paper[name]]
    verdict = _verdict(len(same), len(numbers.sets))
    if len(numbers.seeds) == 1:
        verdict = "one seed cannot tell"  # the best schedules lie close together
    return (
        "**The constant rate and cosine annealing have the two lowest divergences** (in the paper "
        f"on all four sets): {verdict}; here on {len(same)} of "
        f"{len(numbers.sets)} sets{' (' + ', '.join(same) + ')' if same else ''}."
    )


def _worst(numbers):
    parts, held = [], 0
    for schedule in ("step", "exponential", "plateau"):
        ours, theirs = (
            statistics.geometric_mean(
                value(schedule, s) / value("constant", s) for s in numbers.sets
            )
            for value in (lambda a, s: numbers.mean("kl", a, s), lambda a, s: PAPER[a, s][3])
        )
        held += ours > 2
        parts.append(f"{NAMES[schedule]} × {ours:.2f} (paper × {theirs:.1f})")
    return (
        "**The decaying schedules diverge several times more than the constant rate**: "
        f"{_verdict(held, len(parts))}. KL over the constant rate's, geometric mean over the sets: "
        f"{', '.join(parts)}."
    )


def _faster(numbers):
    share = max(
        numbers.mean("own", schedule, name) / numbers.mean("training", schedule, name)
        for schedule in numbers.schedules
        for name in numbers.sets
    )
    return (
        "**Every schedule trains faster than the constant rate** (in the paper by a seventh): "
        "does not stand. A schedule multiplies one number a step; its own time is at most "
        f"{share:.2%} of a run's, and nothing else differs. What is left is the order of the runs "
        "and the machine."
    )


def _inference(numbers):
    means = [numbers.mean("sampling", schedule) for schedule in numbers.schedules]
    spread = max(means) / min(means) - 1
    return (
        "**Inference times differ by schedule**: cannot stand. The networks have the same shape "
        f"and take the same steps; the {spread:.0%} between the slowest and the fastest mean here "
        "are the machine's."
    )


def _verdict(held, of):
    return "stands" if held == of else "does not stand" if held == 0 else "stands in part"


def of_the_sweep(sweep: list[dict]) -> str:
    """A schedule, or a rate that died too early?"""
    if not sweep:
        return ""
    parts = [
        _sweep_of([row for row in sweep if row["set"] == name])
        for name in sorted({row["set"] for row in sweep})
    ]
    steps = ", ".join(f"{n:,}" for n in sorted({row["steps"] for row in sweep}))
    intro = f"""## The schedule, or a rate that died too early?

`--sweep` gives each schedule longer and shorter lives ({steps} steps a run). The mean rate is the
sum of the rates over the steps, over the first rate: how far the weights could move at all.
`step 1/10 x0.5` halves the rate after each tenth of the run.

![sweep](figures/lr_sweep.png)"""
    return "\n\n".join([intro, *parts])


def _sweep_of(rows):
    first = max(row["lr_mean"] for row in rows)
    everything = len(rows)  # a plateau that never came is the constant rate again
    rows = [r for r in rows if r["schedule"] == "constant" or r["lr_last"] < first]
    rows.sort(key=lambda row: -row["lr_mean"])
    idle = everything - len(rows)
    lines = [
        [
            row["schedule"],
            f"{row['lr_mean'] / first:.3f}",
            f"{row['lr_last'] / first:.1e}",
            f"{row['loss']:.4f}",
            f"{row['kl']:.3f}",
        ]
        for row in rows
    ]
    constant = next(row["kl"] for row in rows if row["schedule"] == "constant")
    by_mean, by_last = (
        spearmanr([row[key] for row in rows], [row["kl"] for row in rows]).statistic
        for key in ("lr_mean", "lr_last")
    )
    ranges = []
    for kind in ("step", "exponential", "plateau"):
        if kls := [row["kl"] for row in rows if row["schedule"].startswith(kind)]:
            ranges.append(f"{NAMES[kind]} from {min(kls):.3f} to {max(kls):.3f}")
    left_out = f" {idle} courses that never left the constant rate are left out." if idle else ""
    alive = [row for row in rows if row["kl"] <= NEAR * constant]
    least = min(row["lr_mean"] for row in alive) / first
    head = ["schedule", "mean rate", "last rate", "evaluation loss", "KL"]
    return f"""### {rows[0]["set"]}

{table(head, lines)}

The same schedule gives a KL of: {"; ".join(ranges)} nats,
by its step size and decay alone (constant {constant:.3f}). Rank correlation of KL with the mean
rate {by_mean:.2f}, with the last rate {by_last:.2f}. Of {len(rows)} courses {len(alive)} are within
{NEAR - 1:.0%} of the constant rate's KL; the least mean rate among them is {least:.3f} of the
first.{left_out}"""


def of_the_digits(rows: list[dict]) -> str:
    if not rows:
        return ""
    lines = [
        [NAMES.get(r["lr_schedule"], r["lr_schedule"]), f"{r['fid']:.2f}", f"{r['loss']:.4f}"]
        for r in rows
    ]
    r = rows[0]
    head = ["schedule", "FID", "training loss, last epoch"]
    return f"""## The same schedules on digits

`train_mnist.py` on scikit-learn's 8×8 digits: base {r["model_base_dim"]}, {r["epochs"]} epochs
({r["steps"]} steps), rate {r["lr"]:g}, seed {r["seed"]}; FID of {r["n"]:,} images, extractor
`{r["extractor"]}`, reference {r["reference"]}. One seed of a short training: read large gaps only.

{table(head, lines)}"""


def of_the_speed(speed: dict | None, numbers: Numbers) -> str:
    """Together beside one after another, and both beside what the processor could do."""
    if not speed:
        return ""
    rows = [
        [label, f"{speed[key] * 1e3:.0f} ms", f"{speed[key] * max(numbers.steps) / 60:.0f} min"]
        for label, key in (
            ("one run after another, plain PyTorch", "plain"),
            ("together", "together"),
            ("the matrix products alone", "floor"),
        )
    ]
    head = ["", f"a step of all {speed['runs']} runs", f"{max(numbers.steps):,} steps"]
    threads = f"{speed['threads']} thread" + "s" * (speed["threads"] > 1)
    reached, possible = (speed["plain"] / speed[key] for key in ("together", "floor"))
    return f"""## Time

{table(head, rows)}

`python -m benchmarks.lr_study`: medians of {speed["turns"]} turns of {speed["steps"]} steps in one
process, {threads}, load average {speed["load"]:.1f} on the machine. Together is
{speed["ratio"]:.2f} times as fast ({speed["ratio_lowest"]:.2f} to {speed["ratio_highest"]:.2f} over
the turns). A step is {speed["gflop_per_step"]:.1f} GFLOP of matrix products in float32; a large
product ran at {speed["gflops_per_second"]:.0f} GFLOP/s. Plain PyTorch takes {possible:.1f} times
the floor, so no arrangement of the same products can gain more than that; together takes
{possible / reached:.1f} times the floor."""
