"""Guide a pre-trained diffusion model towards a reward r2, as far as another reward r1 grows.

python finetune_reward.py                         the shipped digits, lambda by the bilevel method
python finetune_reward.py --method bayesian       the same budget, a search over guided runs
python finetune_reward.py --method fixed --lambda0 0.5
python finetune_reward.py --pipeline PATH --lower_reward m:r2 --upper_reward m:r1
python finetune_reward.py --resume latest         resume an interrupted run

The lower level samples from p_data exp(r2/lambda); the upper level chooses lambda for the mean r1.
"""

from common import cli
from studies.reward.options import KIND, SEARCHES, check, make_parser

if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), KIND, check)

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from common import estimate, figures
from common.data import Source
from common.errors import guarded
from common.judging import Judge
from common.machine import setup
from common.processes import refuse
from common.run import Run
from common.sampling import SamplerSettings
from common.tables import write_csv
from studies.reward import estimator, pipelines, upper
from studies.reward.drawing import DigitModel, Model, Sampling
from studies.reward.guidance import LowerLevel
from studies.reward.rewards import Weighted
from studies.reward.search import Trial, search
from studies.reward.setting import JUDGE, Rewards, bank, rewards_of, scores
from studies.reward.upper import Descent, Steps

CURVE_POINTS = 60  # of curve.csv
TIMED = 16  # images, for a plan


@dataclass(frozen=True)
class Chosen:
    """What the upper level chose, and what that took."""

    lam: float | None  # None: no guidance
    weight: float = 0.0  # of r1 in the lower level
    evaluations: int = 0
    cpu_seconds: float = 0.0
    facts: dict | None = None


def load_model(args, device: torch.device) -> Model:
    if args.pipeline:
        return pipelines.load(
            args.pipeline, args.prompt or "", args.guidance_scale, args.backward_steps,
            args.pipeline_size, device,
        )  # fmt: skip
    settings = SamplerSettings(args.backward_steps, args.tau_type, clip=not args.no_clip)
    return DigitModel(args.ckpt, settings, device)


def fine_tune(args, run: Run, model: Model) -> dict:
    """Choose lambda by the method that was asked for, then sample and judge with it."""
    lower_level = LowerLevel(args.lower, args.passes, args.target, args.beta)
    folder = Path(args.cache_dir) / "reward"
    sampling = Sampling(
        model, lower_level, args.seed, args.eval_chunk, folder, run.poll, run.log
    )  # fmt: skip
    rewards = rewards_of(
        sampling, args.lower_reward, args.upper_reward, args.target_class, args.direction,
        args.n_directions, args.choice_samples, args.min_ess, args.lambda_max,
    )  # fmt: skip
    if rewards.target_class is not None:
        run.log(f"r1: log-probability of class {rewards.target_class}")
    if pair := rewards.pair:
        run.log(f"r2: direction {pair.direction}")
        if not pair.inside:
            run.log("warning: the weighted mean of r1 has no maximum well inside lambda's range")
    chosen = choose(args, run, sampling, rewards)
    return conclude(args, run, sampling, rewards, chosen)


def choose(args, run: Run, sampling: Sampling, rewards: Rewards) -> Chosen:
    """lambda, or the weight, by --method."""
    if args.method == "unguided":
        return Chosen(None)
    if args.method == "fixed":
        return Chosen(args.lambda0)
    if args.method == "bilevel" and args.estimator == "guided":
        return descend_by_guided_runs(args, run, sampling, rewards)
    if args.method == "bilevel":
        return descend_by_weights(args, run, sampling, rewards)
    return by_search(args, run, sampling, rewards)


def descend_by_weights(args, run: Run, sampling: Sampling, rewards: Rewards) -> Chosen:
    """The inference-only upper level: every step reads the same pre-trained samples."""
    r1, r2, drawing = bank(sampling, rewards, args.bank_samples)
    upper.refuse_constant(r1, "upper", "no lambda is better than another")
    low, high = upper.bounds(r2, args.min_ess, args.lambda0, args.lambda_max)
    run.log(f"lambda from {low:.4g}, where {args.min_ess:g} effective samples are left")
    grid = estimator.grid(low, high, CURVE_POINTS)
    descent = Descent(Steps(args.lambda0, args.iterations, args.step, args.max_step, low, high))
    run.take_up({"descent": descent}, lambda: {"step": descent.iteration})
    write_csv(run.folder / "curve.csv", estimator.curve(r1, r2, grid))
    pairs = zip(r1.tolist(), r2.tolist(), strict=True)
    write_csv(run.folder / "bank.csv", [{"r1": a, "r2": b} for a, b in pairs])
    spent = args.bank_samples * sampling.model.passes
    look = upper.from_bank(args.estimator, r1, r2, args.gamma)
    lam = upper.descend(run, descent, look, lambda _: spent, args.log_freq)
    best = estimator.best_lambda(r1, r2, low, high)
    facts = {"lambda_low": low, "best_of_curve": best, "best_of_curve_r1": look(best)["r1"]}
    facts["ends_on_bound"] = descent.at_bound or None
    facts |= {f"weighted_{k}": look(lam)[k] for k in ("r1", "r2", "ess", "kl")}
    return Chosen(lam, 0.0, spent, drawing + descent.cpu_seconds, facts)


def descend_by_guided_runs(args, run: Run, sampling: Sampling, rewards: Rewards) -> Chosen:
    """The published estimator from guided runs: a pair of them at every step, from one noise."""
    model, (low, high) = sampling.model, args.lambda_range
    noise = sampling.noise(args.guided_samples, "trial")
    penalised = Weighted(rewards.lower, rewards.upper, 1 / args.gamma)

    def look(lam):
        sizes = []
        for reward in (penalised, rewards.lower):
            model.sizes.clear()
            images = sampling.guided(noise, reward, lam)
            sizes.append(sum(size * n for size, n in model.sizes) / len(noise))
        row = scores(images, rewards, None)
        gradient = estimator.guided_gradient(*sizes, args.gamma)
        return {"gradient": gradient, "ess": None, "r1": row["r1"], "r2": row["r2"], "kl": None}

    descent = Descent(Steps(args.lambda0, args.iterations, args.step, args.max_step, low, high))
    run.take_up({"descent": descent}, lambda: {"step": descent.iteration})

    def cost(steps):
        return steps * 2 * args.guided_samples * sampling.cost

    lam = upper.descend(run, descent, look, cost, args.log_freq)
    facts = {"ends_on_bound": descent.at_bound or None}
    return Chosen(lam, 0.0, cost(args.iterations), descent.cpu_seconds, facts)


def by_search(args, run: Run, sampling: Sampling, rewards: Rewards) -> Chosen:
    """Grid, random or Bayesian search over lambda, or a grid over the weight of r1."""
    noise = sampling.noise(args.guided_samples, "trial")

    def images(lam, weight):
        reward = Weighted(rewards.lower, rewards.upper, weight) if weight else rewards.lower
        return sampling.guided(noise, reward, lam)

    trial_cost = args.guided_samples * sampling.cost
    n_calls = planned_calls(args, sampling.model.passes, trial_cost)
    limits = args.weight_range if args.method == "weighted_sum" else args.lambda_range
    trial = Trial(images, rewards.upper, rewards.lower, args.guided_samples, trial_cost)
    best, seconds = search(run, args.method, limits, n_calls, args.seed, trial, args.lambda0)
    facts = {"trials": n_calls, "trial_samples": args.guided_samples}
    return Chosen(best["lambda"], best["weight"], n_calls * trial_cost, seconds, facts)


def planned_calls(args, passes: int, trial_cost: int) -> int:
    """--n_calls, or what the bank's network evaluations pay for."""
    return args.n_calls or max(2, args.bank_samples * passes // trial_cost)


def conclude(args, run: Run, sampling: Sampling, rewards: Rewards, chosen: Chosen) -> dict:
    """Final images from held-out noise, before and after, their scores, pictures and summary."""
    judge = None
    if sampling.model.draws_digits:
        source = Source("mnist", args.data_dir)
        judge = Judge.load(JUDGE, source, run.device, args.cache_dir)
    before = after = sampling.samples(args.eval_samples, "evaluation")[0].to(run.device)
    if chosen.lam is not None:
        reward = rewards.lower
        if chosen.weight:
            reward = Weighted(rewards.lower, rewards.upper, chosen.weight)
        noise = sampling.noise(args.eval_samples, "evaluation")
        after = sampling.guided(noise, reward, chosen.lam)
    for name, images in (("before", before), ("after", after)):
        figures.save_grid(run.folder / "samples" / f"{name}.png", images[: args.n_samples])
    first, row = scores(before, rewards, judge), scores(after, rewards, judge)
    run.log(f"without guidance r1 {first['r1']:.4f}, r2 {first['r2']:.4f}")
    run.evaluations["choosing"] = chosen.evaluations
    guided = 0 if chosen.lam is None else sampling.cost
    pair = rewards.pair
    summary = {
        "method": args.method,
        "estimator": args.estimator if args.method == "bilevel" else None,
        "target_class": rewards.target_class,
        "direction": pair.direction if pair else None,
        "choice_lambda": pair.best if pair else None,
        "choice_gain": pair.gain if pair else None,
        "lambda": chosen.lam,
        "weight": chosen.weight or None,
        **row,
        **(chosen.facts or {}),
        "choosing_evaluations": chosen.evaluations,
        "choosing_cpu_seconds": round(chosen.cpu_seconds, 3),
        "cpu_seconds": round(time.process_time(), 3),  # of this process, from its start
        "before": first,
    }
    return run.finish(summary, drawn=args.eval_samples * (sampling.model.passes + guided))


def planned(args) -> dict[str, int]:
    """Forward passes by what they are for, a backward pass counted as two."""
    passes = args.backward_steps * (2 if args.pipeline and args.guidance_scale > 1 else 1)
    image = LowerLevel(args.lower, args.passes).evaluations(passes)
    trial = args.guided_samples * image
    costs = {}
    if not args.lower_reward:
        costs["choice of class and direction, once"] = args.choice_samples * passes
    if args.method in SEARCHES:
        calls = planned_calls(args, passes, trial)
        costs[f"{calls} trials of {args.guided_samples:,} images"] = calls * trial
    if args.method == "bilevel" and args.estimator == "guided":
        costs[f"{args.iterations} steps of two guided runs"] = 2 * args.iterations * trial
    elif args.method == "bilevel":
        costs[f"{args.bank_samples:,} samples without guidance"] = args.bank_samples * passes
    guided = 0 if args.method == "unguided" else image
    costs[f"{args.eval_samples:,} final images, before and after"] = args.eval_samples * (
        passes + guided
    )
    return costs


def print_plan(args, device: torch.device) -> None:
    """What would be done, its forward passes and, of digits, its time if nothing is cached."""
    # a pipeline would have to be loaded, or even downloaded, to be timed
    model = None if args.pipeline else load_model(args, device)
    costs = planned(args)
    print(f"{args.method}, {args.lower} guidance, forward passes:")
    for purpose, count in costs.items():
        print(f"{count:>10,}  {purpose}")
    if model is None:
        return
    noise = model.noise(TIMED, args.seed, "timed")

    def draw(_: int) -> None:
        model.draw(noise, None, 1.0, lambda: None).sum().item()

    rates = estimate.Rates(0.0, estimate.seconds_of(draw) / (TIMED * model.passes))
    print(estimate.text({"sampling": sum(costs.values())}, rates, device))


def main(args) -> None:
    refuse("finetune_reward.py")
    device = setup(args.device, args.cpu, args.threads)
    if args.dry_run:
        print_plan(args, device)
        return
    model = load_model(args, device)
    with Run.open(KIND, vars(args), device, model=model.identity) as run:
        if run.finished:
            run.log(f"{run.folder} is complete: nothing to resume")
            return
        run.log(f"{run.folder}: {args.method} on {device}")
        fine_tune(args, run, model)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "finetune_reward.py"))
