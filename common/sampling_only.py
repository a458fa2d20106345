"""A sampling schedule for a network that is trained already: minutes, and no weight moves.

The FID is that of one fixed sample of noises, so its exact gradient in q has no noise that a step
rule would have to bear. The network is told the visited time, or the training time nearest in
noise: the latter jumps as q moves, which no gradient sees.
"""

import time

import torch
from torch import nn

from common import estimate
from common.bilevel_figures import leave_frozen_figures
from common.errors import NotFinite
from common.exact_gradients import samplings_of_gradient
from common.judging import Judge, Judges, evaluate
from common.objective import UpperSettings
from common.portable import sampling_steps
from common.run import Run
from common.sampling import Sampler
from common.schedule_optimizer import ScheduleOptimizer
from common.tables import counted
from common.upper_level import UpperLevel
from scheduler import Schedule

FROZEN = {"sampler": "ddim", "eta": 0.0, "amp": False}  # how it draws, whatever it was trained with


def planned(args) -> dict[str, int]:
    """Images through the network; the backward pass of a gradient counts as two samplings."""
    samplings = args.frozen_updates * samplings_of_gradient(args.zo_samples, args.batch_size)
    counts = {"upper": samplings * args.zo_samples, "sampling": 2 * args.eval_samples}
    return {name: count * args.backward_steps for name, count in counts.items()}


def print_frozen_plan(args, shape: tuple[int, ...], device: torch.device) -> None:
    """What the flags would do, what it costs in images through the network, and how long here."""
    cost = planned(args)
    print(
        f"{counted(args.frozen_updates, 'update')} of the schedule, by the exact gradient of the "
        f"FID of {args.zo_samples} images in {args.backward_steps} DDIM steps; "
        f"{args.eval_samples} images are judged before and after"
    )
    for name, count in cost.items():
        print(f"{name}: {count:,} images through the network")
    image = torch.zeros(1, *shape, dtype=torch.uint8)
    size = args.model_base_dim, args.timesteps, args.batch_size
    print(estimate.text(cost, estimate.measure(image, *size, device, amp=False), device))


def first_of(base: Schedule, given: dict[str, float | None], knots: int | None) -> Schedule:
    """Where the descent begins: a network's own schedule but for the given values, maybe as knots.

    A ValueError says which of the values cannot be.
    """
    changed = {name: value for name, value in given.items() if value is not None}
    base = Schedule.from_dict(base.to_dict() | changed)
    schedule = Schedule.from_dict((base.as_knots(knots) if knots else base).to_dict(), learned=True)
    if not schedule.learned:
        raise ValueError(f"{base.family} has no parameter to learn; --scheduler knots has")
    return schedule


def learn(
    run: Run,
    net: nn.Module,
    sampler: Sampler,
    judge: Judge,
    settings: UpperSettings,
    lr_beta: list[float],
    updates: int,
    log_freq: int = 10,
) -> ScheduleOptimizer:
    """Descend dF/dq on the same noises; the sampler's schedule moves in place.

    Returned is what moved it, `updates` times unless it ended early.
    """
    schedule = sampler.process.sampling_schedule
    upper = UpperLevel(sampler, judge, schedule, settings, run.evaluations)
    q = ScheduleOptimizer(schedule, lr_beta, updates)
    best: tuple[float, dict] = (float("inf"), {})
    for i in range(updates):
        try:
            slope = upper.slope_of_schedule(net, 0)
            end = "" if slope.gradient.any() else "the gradient is 0"
        except NotFinite as error:
            if not best[1]:
                raise
            end = str(error)
        if end:
            run.log(f"update {i + 1}: {end}; the best schedule so far is kept")
            break
        if slope.value < best[0]:
            best = slope.value, schedule.to_dict()
        count, values = settings.samples, schedule.values()
        run.row("iterations.csv", iteration=i, fid=slope.value, fid_n=count, **values)
        q.step(slope.gradient)
        if i % log_freq == 0 or i == updates - 1:
            run.log(f"update {i + 1}: FID {slope.value:.5g} of {settings.samples} images")
        run.poll()
    with torch.no_grad():  # the last steps may have gone past it
        for name, value in best[1].items():
            if name in schedule.q:
                schedule.q[name].fill_(value)
    return q


def steps_table(sampler: Sampler) -> list[dict[str, float]]:
    """The visited times, first the noisiest, and their sigma = noise/signal: what samplers take."""
    drawn = sampler.settings
    steps = sampling_steps(sampler.process, drawn.steps, drawn.tau_type)
    rows = zip(steps["times"], steps["network_times"], steps["sigmas"], strict=False)
    return [{"time": t, "told": k, "sigma": sigma} for t, k, sigma in rows]


def run_frozen(
    run: Run,
    net: nn.Module,
    trained: Sampler,
    schedule: Schedule,
    told: str,
    objective: Judge,
    judges: Judges,
    settings: UpperSettings,
    lr_beta: list[float],
    updates: int,
    eval_samples: int,
    log_freq: int,
) -> None:
    """Judge before and after; leave schedule.json, the table of steps and the summary."""
    run.log(f"{judges}; the schedule descends the FID against {objective.reference.name}")
    process = trained.process.replaced(sampling_schedule=schedule, told=told)
    sampler = Sampler(process, trained.settings, trained.shape)
    before = evaluate(trained, net, eval_samples, judges, "evaluation", run)
    first, began = Schedule.from_dict(schedule.to_dict()), time.monotonic()
    q = learn(run, net, sampler, objective, settings, lr_beta, updates, log_freq)
    seconds = time.monotonic() - began
    fixed = Schedule.from_dict(schedule.to_dict())
    sampler = Sampler(process.replaced(sampling_schedule=fixed), sampler.settings, sampler.shape)
    after = evaluate(sampler, net, eval_samples, judges, "evaluation", run)
    table, pictures = steps_table(sampler), leave_frozen_figures(run, first, fixed)
    run.log(f"pictures: {', '.join(map(str, pictures))}")
    run.write_json("schedule.json", {**fixed.to_dict(), "told": told})
    run.write_json("steps.json", {"told": told, "steps": table})
    for row in table:
        run.log(f"time {row['time']:5d}  told {row['told']:5d}  sigma {row['sigma']:.6g}")
    summary = {"updates": q.count, "told": told, "fid_before": before["fid"], **fixed.values()}
    summary["upper_reference"] = objective.reference.name
    summary["before"] = {name: before[name] for name in judges.columns}
    summary["learning_seconds"] = seconds
    run.finish({**summary, **after}, drawn=2 * eval_samples * sampler.steps)
