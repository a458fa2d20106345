"""Learn the noise schedule while the diffusion model trains: bilevel optimisation by a penalty.

    min over q of FID(samples of schedule q and network theta)  with  theta = argmin L(theta, q)

theta_y follows argmin L(., q); theta_z follows argmin FID/gamma + L(., q); the schedule descends
    (1/gamma) dFID/dq at theta_z  +  dL/dq(theta_z) - dL/dq(theta_y)
as in Algorithm 6 of arXiv 2502.08808. The published command:

    python train_mnist_bilevel_ZO.py --inner_loop 10 --inner_loop_z 1 --gamma 1 --gamma_end 1 \\
        --lr_beta 0.05 0.05 1 0.05 --initial_epoch 2 --epochs 3
"""

from common import bilevel_flags, cli, flags
from common.families import FAMILIES, NAMES, among, complete, knots_table, table_of
from common.flag_checks import check_common, check_knots, check_steps, with_knots


def make_parser() -> cli.Parser:
    parser = cli.Parser("Learn the noise schedule while training: bilevel optimisation.")
    flags.add_data(parser)
    flags.add_network(parser)
    group = parser.add_argument_group("schedule")
    add = cli.adder(group)
    families = ["cosine", "linear", "sigmoid", "knots"]
    add("scheduler", "cosine", "family of the learned noise schedule", choices=families)
    for name in NAMES:
        table = {f: FAMILIES[f][name].default for f in families if name in FAMILIES[f]}
        defaults = ", ".join(f"{family} {value:g}" for family, value in table.items())
        text = f"initial value of {name} (default: {defaults})"
        add(f"initial_{name}", None, text, type=cli.parameter)
    flags.add_knots(add)
    flags.add_process(group)
    text = "epochs; in each, theta_y passes over the training images --inner_loop times"
    flags.add_training(parser, 3, text)
    bilevel_flags.add_bilevel(cli.adder(parser, "bilevel"))
    bilevel_flags.add_frozen(cli.adder(parser, "frozen network"))
    flags.add_evaluation(parser, reference="train")
    flags.add_runtime(parser)
    flags.add_output(parser)
    return parser


def check(args) -> None:
    if args.freeze_network:
        bilevel_flags.check_frozen(args, make_parser().defaults())
    check_common(args)
    check_knots(args.scheduler, args)
    if not args.freeze_network:  # that begins with another schedule's values
        prefix = "initial_"  # of a resumed run there are its knots, too
        given = {n.removeprefix(prefix): v for n, v in vars(args).items() if n.startswith(prefix)}
        given = with_knots(args.scheduler, args.knots, among(given))
        for name, value in complete(args.scheduler, given).items():
            setattr(args, f"initial_{name}", value)
    bilevel_flags.apply_recipe(args)
    if not args.freeze_network:  # whose T is that of --ckpt
        check_steps(args)
    args.timesteps = args.timesteps or flags.TIMESTEPS
    bilevel_flags.check_combinations(args)


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), "bilevel", check)

import math
import sys
import time
from copy import deepcopy
from pathlib import Path

import torch

import train_mnist
from common.bilevel_figures import leave_figures
from common.bilevel_report import Warnings, log_result, report
from common.data import Batches
from common.errors import Stop, at, guarded
from common.judge_files import warn_of_one_judge
from common.judging import JUDGED_BY, Judge, Judges, evaluate
from common.loop import Progress, end_of_epoch, run_script
from common.machine import setup
from common.networks import compiled, facts_of, load_network, make_network, refuse_others
from common.null_band import null_band
from common.objective import UpperSettings
from common.penalty import Penalty, PenaltySettings
from common.processes import one_writes
from common.run import Run
from common.sampling import Sampler, SamplerSettings, process_from_flags, process_of
from common.sampling_only import FROZEN, first_of, print_frozen_plan, run_frozen
from common.schedule_optimizer import ScheduleOptimizer
from common.step_rule import FEWEST, SteadySteps
from common.tables import counted
from common.training import Average, EmaRule, Learner, LRSchedule, make_optimizer
from common.uncoupled import Uncoupled, UncoupledSettings
from common.upper_cost import cost_from_flags
from common.upper_level import UpperLevel
from metrics import float64_home
from scheduler import Schedule


def train(args, run: Run, images: torch.Tensor) -> dict:
    """Algorithm 6 in a run's folder, from wherever it stands; returns the summary."""
    device = images.device
    names = table_of(args.scheduler, knots_table(args.knots))
    initial = {name: getattr(args, f"initial_{name}") for name in names}
    schedule = Schedule(args.scheduler, args.timesteps, learned=True, **initial)
    schedule.to(float64_home(device))
    first = Schedule.from_dict(schedule.to_dict())
    process = process_from_flags(schedule, device, **vars(args))
    sampler = Sampler(process, SamplerSettings.from_flags(**vars(args)), images.shape[1:])
    judges = Judges.from_flags(device, **vars(args))
    objective = Judge.from_flags(device, split=args.reference, **vars(args))
    settings = UpperSettings.from_flags(**vars(args))
    upper = UpperLevel(sampler, objective, schedule, settings, run.evaluations)
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    progress = Progress(args.epochs, batches.steps)
    updates = max(0, args.epochs - args.initial_epoch) * batches.steps
    steps = progress.total * args.inner_loop  # of theta_y

    size = args.model_base_dim, args.timesteps
    net_y = make_network(*size, device, args.seed, args.ckpt, args.compile)
    net_z = compiled(deepcopy(net_y), args.compile)
    optimizer_y = make_optimizer(net_y.parameters(), args.lr)
    optimizer_z = make_optimizer(net_z.parameters(), args.lr_z or args.lr)
    lr_y = LRSchedule(args.lr_schedule, optimizer_y, steps)
    # theta_y takes the steps of train_mnist.py, draw for draw
    passes = {"amp": args.amp, "graphs": args.compile == "graphs"}
    theta_y = Learner(net_y, optimizer_y, batches, args.seed, "step", lr_y, **passes)
    theta_z = Learner(net_z, optimizer_z, batches, args.seed, "step_z", **passes)
    averaging = EmaRule.from_flags(**vars(args))
    ema = Average(net_y, *averaging, steps, args.compile)
    penalty, q = make_penalty(args, theta_y, theta_z, upper, schedule, updates)
    parts = {"progress": progress, "theta_y": theta_y, "theta_z": theta_z, "ema": ema}
    run.take_up(
        parts | {"penalty": penalty, "q": q, "upper": upper},
        lambda: {"step": theta_y.count, "schedule": schedule.to_dict(), "shape": sampler.shape},
    )

    run.log(f"the averaged network looks back over {averaging.memory:.4g} steps")
    run.log(f"{judges}; the upper level descends the FID against {objective.reference.name}")
    log_hints(args, run, upper, q)
    warnings = Warnings(q, args.upper_gradient, first, run.rows("iterations.csv").get("fid", ()))
    whole = Batches(images, args.batch_size, args.seed)  # without --limit_batches

    for epoch in range(progress.epoch, args.epochs):
        with progress.bar() as bar:
            for _ in range(progress.batch, batches.steps):
                began = time.monotonic()
                with at(f"epoch {epoch + 1}, iteration {progress.batch + 1}"):
                    levels = process.levels_of(schedule.log_alpha_bar().detach())
                    moves = epoch >= args.initial_epoch
                    # lower level: theta_y follows argmin L(., q); a coupled theta_z goes beside it,
                    # on argmin F/gamma + L(., q)
                    for _ in range(args.inner_loop):
                        loss_y = (penalty if moves else theta_y).step(process, levels)
                        ema.after_step(net_y, theta_y.count)
                    row = {"loss_y": loss_y}

                    # upper level: q descends (1/gamma) dF/dq at theta_z
                    #              + dL/dq(theta_z) - dL/dq(theta_y), or gamma times that
                    if moves and penalty.due(args.inner_loop):
                        x0s = penalty.batches(whole, progress.iteration)
                        q.step(penalty.slope(process, x0s, args.seed, q.count))
                    row |= penalty.row() if moves else {}

                progress.advance(loss_y)
                steps_of_both = (
                    penalty.training_steps(args.inner_loop) if moves else args.inner_loop
                )
                run.evaluations["training"] += steps_of_both * batches.batch_size
                if progress.is_due(args.log_freq):
                    row["seconds"] = time.monotonic() - began
                    n = args.zo_samples
                    report(run, progress.iteration, row, q, n, warnings, penalty, bar.disable)
                bar.set_postfix(loss=f"{loss_y:.4f}")
                bar.update()
                run.poll()

        counts = args.fid_samples, args.n_samples
        end_of_epoch(
            run, progress, theta_y.count, sampler, ema.model, judges.main, schedule, *counts
        )
        lr_y.after_epoch(progress.mean_loss)
        run.write_json("schedule.json", schedule.to_dict())
        run.poll()

    final = evaluate(sampler, ema.model, args.eval_samples, judges, "evaluation", run)
    band = null_band(q, first, args.lr_beta)
    pictures = leave_figures(run, sampler, ema.model, first, schedule, band)
    began_with = run.record.content["arguments"]["ckpt"]  # a resumed run's args have none
    command = retraining(args, run.folder / "schedule.json", began_with)
    log_result(run, schedule, first, band, pictures, command)
    learned = {"epochs": args.epochs, "steps": theta_y.count, "loss": progress.mean_loss}
    learned |= {"ema_memory": averaging.memory}
    learned |= {"upper_reference": objective.reference.name, **schedule.values()}
    return run.finish({**learned, **final}, drawn=args.eval_samples * sampler.steps)


def make_penalty(
    args, theta_y: Learner, theta_z: Learner, upper: UpperLevel, schedule: Schedule, updates: int
) -> tuple[Penalty | Uncoupled, ScheduleOptimizer | SteadySteps]:
    """theta_z coupled to theta_y or on its own, and the step rule that goes with it."""
    if args.theta_z == "coupled":
        coupled = Penalty(theta_y, theta_z, upper, PenaltySettings.from_flags(**vars(args)))
        updates = coupled.settings.updates(updates, args.inner_loop)
        return coupled, SteadySteps(schedule, args.lr_beta, updates)
    settings = UncoupledSettings.from_flags(**vars(args))
    penalty = Uncoupled(theta_y, theta_z, upper, settings, updates)
    decay = 0.01 if args.recipe == "paper" else 0.0
    return penalty, ScheduleOptimizer(schedule, args.lr_beta, updates, decay)


def log_hints(args, run: Run, upper: UpperLevel, q: ScheduleOptimizer | SteadySteps) -> None:
    """What a user should know before the first step."""
    run.log(f"recipe {args.recipe}: theta_z {args.theta_z}, gradients {args.upper_gradient}")
    warn_of_one_judge(args.extractor, args.dataset, args.image_size, run.log)
    if args.theta_z != "coupled":
        run.log(
            "theta_z takes steps of its own, and the difference of the two losses measures them "
            "too; --recipe exact avoids this"
        )
    if isinstance(q, SteadySteps) and q.updates < FEWEST:
        run.log(
            f"warning: {counted(q.updates, 'update')} of the schedule: too few to move it; raise "
            "--epochs, or lower --settle_steps or --update_every"
        )
    # the fewest steps between two updates
    apart = args.inner_loop * max(1, args.update_every // args.inner_loop)
    if args.theta_z == "coupled" and apart < args.exact_every:
        shared = -(-args.exact_every // apart)
        run.log(
            f"warning: up to {shared} updates share one exact gradient, whose noise then looks "
            f"like a slope: an --exact_every of at most {apart} avoids this"
        )
    if args.upper_gradient != "zo" and upper.left_out():
        times = ", ".join(map(str, upper.left_out()))
        reason = "where almost no signal is left (--truncation changes this)"
        if args.truncation is not None:
            reason = f"as --truncation {args.truncation:g} says"
        run.log(f"exact gradients skip the DDIM steps at t = {times}, {reason}")


def retraining(args, schedule: Path, ckpt: str) -> str:
    """The command that trains anew with a schedule: as many steps as theta_y, averaged as long."""
    there = vars(args) | {"schedule_from": str(schedule), "epochs": args.epochs * args.inner_loop}
    there["ckpt"] = ckpt
    memory = EmaRule.from_flags(**vars(args)).memory
    if not math.isclose(memory, EmaRule.from_flags(**there | {"recipe": None}).memory):
        there["ema_memory"] = float(f"{memory:.6g}")
    parser, skip = train_mnist.make_parser(), {"timesteps", "resume", "reference"}
    return cli.command("train_mnist.py", parser, there, skip)


def planned(args, images) -> dict[str, int]:
    """Images through the network: forward and backward in training, forward in the rest."""
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    moving = max(0, args.epochs - args.initial_epoch) * batches.steps
    steps, fids = cost_from_flags(moving, **vars(args))
    return {
        "training": (args.epochs * batches.steps * args.inner_loop + steps) * batches.batch_size,
        "upper": fids * args.zo_samples * args.backward_steps,
        "sampling": train_mnist.planned(args, images)["sampling"],
    }


def print_plan(args, images) -> dict[str, int]:
    """What the flags would do, and what it costs in images through the network, returned."""
    iterations = Batches(images, args.batch_size, args.seed, args.limit_batches).steps
    updates = moving = max(0, args.epochs - args.initial_epoch) * iterations
    if args.theta_z == "coupled":
        updates = PenaltySettings.from_flags(**vars(args)).updates(moving, args.inner_loop)
    print(f"recipe {args.recipe}: theta_z {args.theta_z}, gradients {args.upper_gradient}")
    epochs = f"{counted(args.epochs, 'epoch')} of {counted(iterations, 'iteration')}"
    print(f"{epochs}; the schedule is updated {counted(updates, 'time')}")
    steps_z = args.inner_loop_z or args.inner_loop
    step_y, step_z = counted(args.inner_loop, "step"), counted(steps_z, "step")
    print(f"an iteration takes {step_y} of theta_y and, once the schedule may move, {step_z} of")
    print(
        f"  theta_z; the upper level's FIDs have {args.zo_samples} images in "
        f"{args.backward_steps} DDIM steps"
    )
    cost = planned(args, images)
    for name, count in cost.items():
        print(f"{name}: {count:,} images through the network")
    return cost


def freeze_network(args) -> None:
    """Learn how to sample from a trained network; the last line is the schedule's path."""
    device = setup(args.device, args.cpu, args.threads, args.tf32)
    net, state = load_network(args.ckpt, device)
    facts = facts_of(state)
    refuse_others(args, cli.parse(make_parser(), "bilevel", check, []), facts)
    vars(args).update(facts)
    trained, told = process_of(state, device), args.told or "visited"
    timesteps = trained.sampling_schedule.timesteps
    if args.backward_steps > timesteps:
        raise Stop(f"--backward_steps {args.backward_steps} exceeds the T of {args.ckpt}", code=2)
    if told == "visited" and timesteps != trained.schedule.timesteps:
        raise Stop(
            f"{args.ckpt} samples with another T than it was trained with: add --told nearest",
            code=2,
        )
    given = {name: getattr(args, f"initial_{name}") for name in NAMES}
    knots = args.knots if args.scheduler == "knots" else None
    try:
        schedule = first_of(trained.sampling_schedule, given, knots)
    except ValueError as error:
        raise Stop(f"--freeze_network with the schedule of {args.ckpt}: {error}", code=2) from None
    if args.dry_run:
        print_frozen_plan(args, state["shape"], device)
        return
    drawn_by = ("backward_steps", "no_clip", "tau_type", "eps_scale")
    asked = (*drawn_by, *JUDGED_BY, "eval_chunk")
    flags_of_run = state["args"] | {n: getattr(args, n) for n in asked}
    drawn = SamplerSettings.from_flags(**flags_of_run | FROZEN)
    judges = Judges.from_flags(device, **flags_of_run)
    objective = Judge.from_flags(device, split=args.reference, **flags_of_run)
    upper = UpperSettings.from_flags(**vars(args) | {"upper_gradient": "exact"})
    with one_writes(vars(args)) as arguments, Run.open("frozen", arguments, device) as run:
        sampler = Sampler(trained, drawn, state["shape"])
        run_frozen(
            run, net, sampler, schedule, told=told, objective=objective, judges=judges,
            settings=upper, lr_beta=args.lr_beta, updates=args.frozen_updates,
            eval_samples=args.eval_samples, log_freq=args.log_freq,
        )  # fmt: skip
        path = run.folder / "schedule.json"
        warn_of_one_judge(args.extractor, state["args"]["dataset"], state["shape"][-1], run.log)
        run.log(f"wrote {path}, and its times and sigmas in steps.json; to use it:")
        use = {"sample_only": True, "ckpt": args.ckpt, "sampling_schedule": str(path)}
        use |= {name: getattr(args, name) for name in drawn_by}
        run.log(cli.command("train_mnist.py", train_mnist.make_parser(), use))


def main(args) -> None:
    if args.freeze_network:
        freeze_network(args)
    else:
        run_script("bilevel", args, train, print_plan)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "train_mnist_bilevel_ZO.py"))
