"""Learn the noise schedule while the diffusion model trains: bilevel optimisation by a penalty.

    min over q of FID(samples of schedule q and network theta)  with  theta = argmin L(theta, q)

theta_y follows argmin L(., q); theta_z follows argmin FID/gamma + L(., q); the schedule descends
    (1/gamma) dFID/dq at theta_z  +  dL/dq(theta_z) - dL/dq(theta_y)
as in Algorithm 6 of arXiv 2502.08808. The published command:

    python train_mnist_bilevel_ZO.py --inner_loop 10 --inner_loop_z 1 --gamma 1 --gamma_end 1 \\
        --lr_beta 0.05 0.05 1 0.05 --initial_epoch 2 --epochs 3
"""

from common import cli, flags
from common.families import FAMILIES, NAMES, complete

# the flags that --recipe sets; a flag given explicitly takes precedence
RECIPES = {
    "ours": {"noise": "common", "theta_z": "kept", "zo_samples": 128},
    "paper": {"noise": "independent", "theta_z": "recopied", "zo_samples": 36},
}


def make_parser() -> cli.Parser:
    parser = cli.Parser("Learn the noise schedule while training (bilevel, zeroth-order).")
    flags.add_data(parser)
    flags.add_network(parser)
    group = parser.add_argument_group("schedule")
    add = cli.adder(group)
    families = ["cosine", "linear", "sigmoid"]
    add("scheduler", "cosine", "family of the learned noise schedule", choices=families)
    for name in NAMES:
        table = {f: FAMILIES[f][name].default for f in families if name in FAMILIES[f]}
        defaults = ", ".join(f"{family} {value:g}" for family, value in table.items())
        text = f"initial value of {name} (default: {defaults})"
        add(f"initial_{name}", None, text, type=cli.parameter)
    flags.add_process(group)
    flags.add_training(parser, epochs=3)
    add_bilevel(cli.adder(parser, "bilevel"))
    flags.add_evaluation(parser)
    flags.add_runtime(parser)
    flags.add_output(parser)
    return parser


def add_bilevel(add) -> None:
    text = "epochs at the beginning that train the network alone and leave the schedule fixed"
    add("initial_epoch", 2, text, type=cli.count_or_none)
    add("inner_loop", 1, "training steps of theta_y per iteration", type=cli.count)
    add("inner_loop_z", 1, "training steps of theta_z per iteration", type=cli.count)
    text = "gamma at the first schedule update; the FID is weighted by 1/gamma"
    add("gamma", 1.0, text, type=cli.positive)
    text = "gamma at the last schedule update; it changes linearly in between"
    add("gamma_end", 1.0, text, type=cli.positive)
    add("lr_z", 0.001, "learning rate of theta_z", type=cli.positive)
    text = "peak learning rates of start, end, tau and epsilon; 0 holds a parameter fixed"
    add("lr_beta", [0.01, 0.01, 0.1, 0.001], text, type=cli.number(float, 0), nargs=4)
    add("delta", 0.01, "size of the zeroth-order perturbation", type=cli.positive)
    text = "zeroth-order estimator: two-point difference or one-point residual"
    add("ZO_type", "two", text, choices=["two", "one"])
    text = (
        "how the FID is differentiated: zo: zeroth-order estimates; forward: dFID/dq exact, in "
        "forward mode; exact: dFID/dq and dFID/dtheta exact, in reverse mode, in float32"
    )
    add("upper_gradient", "zo", text, choices=["zo", "forward", "exact"])
    text = "random directions averaged in each zeroth-order gradient"
    add("zo_directions", 1, text, type=cli.count)
    text = (
        "fraction of the DDIM chain, counted from its end, that exact gradients differentiate "
        "(default: all steps but those at which next to no signal is left)"
    )
    add("truncation", None, text, type=cli.number(float, 0, 1, above=True))
    text = (
        "presets for --noise, --theta_z and --zo_samples; ours: common, kept, 128; paper: "
        "independent, recopied, 36"
    )
    add("recipe", "ours", text, choices=list(RECIPES))
    text = "starting noise of the two sides of a difference (default: set by --recipe)"
    add("noise", None, text, choices=["common", "independent"])
    text = (
        "kept: theta_z is trained on across iterations; recopied: it is reset to theta_y in each "
        "iteration (default: set by --recipe)"
    )
    add("theta_z", None, text, choices=["kept", "recopied"])
    text = "images per FID of the upper level (default: set by --recipe)"
    add("zo_samples", None, text, type=cli.number(int, 2))


def check(args) -> None:
    flags.check_common(args)
    given = {name: getattr(args, f"initial_{name}") for name in NAMES}
    for name, value in complete(args.scheduler, given).items():
        setattr(args, f"initial_{name}", value)
    for name, value in RECIPES[args.recipe].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    flags.check_steps(args)
    if args.upper_gradient != "zo" and args.noise == "independent":
        raise ValueError(
            f"--upper_gradient {args.upper_gradient} takes no difference, so --noise independent "
            "does not apply"
        )
    if args.upper_gradient == "exact" and args.sampler == "ddpm":
        raise ValueError(
            "--upper_gradient exact differentiates DDIM; --sampler ddpm draws noise at every step"
        )
    if args.initial_epoch >= args.epochs:
        raise ValueError(
            f"--initial_epoch {args.initial_epoch} leaves none of --epochs {args.epochs} for the "
            "schedule; to train with a fixed schedule use train_mnist.py or --lr_beta 0 0 0 0"
        )


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), "bilevel", check)

import sys
import time
from copy import deepcopy

import torch

from common import figures
from common.data import Batches
from common.errors import check_finite, guarded, located
from common.judging import evaluate, make_judge
from common.loop import end_of_epoch, run_script
from common.machine import peak_memory, progress_bar, stream
from common.networks import compiled, make_network
from common.run import Run
from common.sampling import Sampler
from common.training import (
    AdamW,
    LRSchedule,
    denoising_step,
    draw,
    make_ema,
    make_optimizer,
    one_cycle,
)
from common.upper_level import UpperLevel, UpperSettings
from common.weights import evaluating
from model import Diffusion
from scheduler import Schedule


def train(args, run: Run, images: torch.Tensor) -> dict:
    """Algorithm 6 in a run's folder, from wherever it stands; returns the summary."""
    device = images.device
    initial = {name: getattr(args, f"initial_{name}") for name in NAMES}
    schedule = Schedule(args.scheduler, args.timesteps, learned=True, **initial)
    schedule.to("cpu" if device.type == "mps" else device)  # float64, which mps has not
    first = Schedule.from_dict(schedule.to_dict())
    process = Diffusion(schedule, args.input_scale, not args.no_normalise, device=device)
    sampler = Sampler(process, args, images.shape[1:], device)
    judge = make_judge(args, device)
    settings = UpperSettings.from_flags(**vars(args))
    upper = UpperLevel(sampler, judge, schedule, settings, run.evaluations)
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    updates = max(0, args.epochs - args.initial_epoch) * batches.steps  # of the schedule
    steps = args.epochs * batches.steps * args.inner_loop  # of theta_y

    theta_y = make_network(args, device)
    theta_z = compiled(deepcopy(theta_y), args.compile)
    ema = make_ema(theta_y, args, args.epochs)
    optimizer_y = make_optimizer(theta_y.parameters(), args.lr)
    optimizer_z = make_optimizer(theta_z.parameters(), args.lr_z)
    optimizer_q, lr_q = make_schedule_optimizer(schedule, args.lr_beta, updates)
    lr_y = LRSchedule(args.lr_schedule, optimizer_y, steps)
    parts = {"net": theta_y, "optimizer": optimizer_y, "lr_schedule": lr_y, "ema": ema}
    parts |= {"theta_z": theta_z, "optimizer_z": optimizer_z}
    parts |= {"upper": upper, "q": schedule, "optimizer_q": optimizer_q, "lr_q": lr_q}
    at = {"epoch": 0, "batch": 0, "iteration": 0, "step": 0, "step_z": 0, "update": 0}
    at |= {"loss_sum": 0.0, "mean_loss": 0.0, "slopes": {}}
    run.take_up(at, parts, lambda: {"schedule": schedule.to_dict(), "shape": sampler.shape})

    def lower_step(net, optimizer, name, count, **more):
        """One step on L(., q); those of theta_y are train_mnist.py's own, draw for draw."""
        x0 = batches(count // batches.steps, count % batches.steps)
        random = stream(device, args.seed, name, count)
        run.evaluations["training"] += len(x0)
        return denoising_step(process, net, optimizer, x0, random, amp=args.amp, **more)

    if not updates:
        run.log("warning: --initial_epoch leaves no epoch for the schedule to move in")

    for epoch in range(at["epoch"], args.epochs):
        done = at["batch"]
        with progress_bar(total=batches.steps, initial=done, desc=f"epoch {epoch + 1}") as bar:
            for i in range(done, batches.steps):
                began, where = time.monotonic(), f"epoch {epoch + 1}, iteration {i + 1}"
                levels = process.levels_of(schedule.log_alpha_bar().detach())

                # lower level: theta_y follows argmin L(., q)
                for _ in range(args.inner_loop):
                    here = {"where": f"theta_y, {where}", "levels": levels}
                    loss_y = lower_step(theta_y, optimizer_y, "step", at["step"], **here)
                    lr_y.after_step()
                    at["step"] += 1
                    if at["step"] % args.model_ema_steps == 0 or at["step"] == steps:
                        ema.update_parameters(theta_y)
                seen = {"loss_y": loss_y}

                if epoch >= args.initial_epoch:
                    gamma = gamma_of(args, at["update"], updates)
                    if at["update"] == 0 or args.theta_z == "recopied":
                        theta_z.load_state_dict(theta_y.state_dict())  # in place

                    # the penalised copy: theta_z follows argmin FID/gamma + L(., q)
                    for _ in range(args.inner_loop_z):
                        here = {"where": f"theta_z, {where}", "levels": levels}
                        with located(here["where"]):
                            slope = upper.slope_of_weights(theta_z, at["step_z"])
                        here["extra"] = slope.gradient / gamma
                        loss_z = lower_step(theta_z, optimizer_z, "step_z", at["step_z"], **here)
                        at["step_z"] += 1

                    # upper level: dFID/dq at theta_z over gamma, and the difference of the losses
                    where = f"schedule, {where}"
                    with located(where):
                        slope = upper.slope_of_schedule(theta_z, at["update"])
                    x0 = batches(epoch, i)
                    difference = loss_difference(args, process, theta_z, theta_y, x0, at["update"])
                    run.evaluations["training"] += 2 * len(x0)
                    gradient = slope.gradient / gamma + difference
                    step_schedule(schedule, optimizer_q, lr_q, gradient, where)
                    follow_noise(at["slopes"], schedule, gradient)
                    at["update"] += 1
                    seen |= {"loss_z": loss_z, "fid": slope.value, "gamma": gamma}

                at["loss_sum"] += loss_y
                at.update(batch=i + 1, iteration=at["iteration"] + 1)
                if at["iteration"] % args.log_freq == 0 or at["step"] == steps:
                    seen["seconds"] = time.monotonic() - began
                    report(args, run, at, seen, schedule, bar.disable)
                bar.set_postfix(loss=f"{loss_y:.4f}", **schedule.values())
                bar.update()
                run.poll()

        end_of_epoch(args, run, at, batches.steps, sampler, ema, judge, schedule)
        lr_y.after_epoch(at["mean_loss"])
        run.write_json("schedule.json", schedule.to_dict())
        run.poll()

    final = evaluate(sampler, ema, args.eval_samples, judge, run, "evaluation")
    leave_figures(run, sampler, ema, {"first": first, "last": schedule})
    learned = {"epochs": args.epochs, "steps": steps, "loss": at["mean_loss"], **schedule.values()}
    return run.finish({**learned, **final}, drawn=args.eval_samples * sampler.steps)


def gamma_of(args, update: int, updates: int) -> float:
    """gamma goes from --gamma at the first update to --gamma_end at the last."""
    return args.gamma + (args.gamma_end - args.gamma) * update / max(1, updates - 1)


def loss_difference(args, process, theta_z, theta_y, x0, update: int) -> torch.Tensor:
    """dL/dq(theta_z) - dL/dq(theta_y) on the same batch, times and noise; (p,)."""
    randoms = [stream(x0.device, args.seed, "difference", update) for _ in range(2)]
    if args.noise == "independent":
        randoms[1] = stream(x0.device, args.seed, "difference, other side", update)
    q, slopes = list(process.schedule.parameters()), []
    with evaluating(theta_z, theta_y):
        for net, random in zip((theta_z, theta_y), randoms, strict=True):
            loss = process.loss(net, x0, *draw(x0, args.timesteps, random))  # never in bfloat16
            # in turn: both graphs at once would need more memory than a training step
            slopes.append(torch.stack(torch.autograd.grad(loss, q)))
    return slopes[0] - slopes[1]


def make_schedule_optimizer(schedule: Schedule, lr_beta, updates: int):
    """AdamW with a learning rate a parameter and OneCycle; no decay, which would pull towards 0."""
    lr = dict(zip(NAMES, lr_beta, strict=True))
    groups = [{"params": [p], "lr": lr[name]} for name, p in schedule.q.items()]
    optimizer = AdamW(groups, weight_decay=0.0)
    return optimizer, one_cycle(optimizer, [group["lr"] for group in groups], updates)


def step_schedule(schedule: Schedule, optimizer, cycle, gradient, where: str) -> None:
    """AdamW, OneCycle, projection onto the bounds."""
    check_finite(gradient.abs().sum().item(), "the gradient", where)
    schedule.set_gradient_(gradient)
    optimizer.step()
    cycle.step()
    schedule.project_()


def follow_noise(slopes: dict, schedule: Schedule, gradient, memory: float = 0.9) -> None:
    """Running mean and mean square of each gradient: what is between them is its noise."""
    for name, g in zip(schedule.q, gradient.tolist(), strict=True):
        mean, square = slopes.get(name, (g, g * g))
        slopes[name] = [memory * mean + (1 - memory) * g, memory * square + (1 - memory) * g * g]


def report(args, run: Run, at: dict, seen: dict, schedule: Schedule, echo: bool) -> None:
    """A row of iterations.csv, a line of the log, and a warning where a knob wants turning."""
    q, bounds = schedule.values(), schedule.to_bounds()
    grad = {name: mean for name, (mean, _) in at["slopes"].items()}
    spread = {n: max(0.0, square - mean**2) ** 0.5 for n, (mean, square) in at["slopes"].items()}
    row = {name: seen.get(name) for name in ("loss_y", "loss_z", "fid", "gamma")}
    row["fid_n"] = args.zo_samples if "fid" in seen else None
    for prefix, values in (("", q), ("grad_", grad), ("spread_", spread)):
        row |= {prefix + name: values.get(name) for name in NAMES}
    run.row("iterations.csv", iteration=at["iteration"], **row)

    text = ", ".join(f"{name} {value:.5g}" for name, value in seen.items())
    for n in grad:
        text += (
            f"; {n} {q[n]:.4g} ({bounds[n]:.2g} to its bound) slope {grad[n]:.3g}±{spread[n]:.2g}"
        )
    memory = max(peak_memory().values()) / 2**30
    run.log(f"iteration {at['iteration']}: {text}; {memory:.2f} GiB", echo)
    stuck = [name for name in grad if bounds[name] < 1e-5]
    noisy = [name for name in grad if spread[name] > abs(grad[name])]
    if stuck:
        advice = "where it did not start there, a lower --lr_beta may free it"
        run.log(f"warning: on the bound: {', '.join(stuck)}; {advice}", echo)
    if noisy:
        better = "more --zo_samples, a higher --gamma"
        if args.upper_gradient == "zo":
            better += ", more --zo_directions or --upper_gradient forward"
        run.log(f"warning: more noise than slope: {', '.join(noisy)}; {better} may help", echo)


def leave_figures(run: Run, sampler: Sampler, ema, schedules: dict[str, Schedule]) -> None:
    """The parameters' path, the scores over steps and over time, the first and last schedule."""
    folder = run.folder / "figures"
    path, scores = run.rows("iterations.csv"), run.rows("scores.csv")
    clock = {**scores, **run.rows("timing.csv")}
    figures.plot_columns(folder / "path.png", "iteration", path, list(NAMES))
    figures.plot_columns(folder / "iterations.png", "iteration", path, ["loss_y", "loss_z", "fid"])
    figures.plot_columns(folder / "scores.png", "step", scores, ["loss", "fid", "is_mean"])
    figures.plot_columns(folder / "clock.png", "seconds", clock, ["loss", "fid"])
    figures.plot_schedules(folder / "schedule.png", schedules)
    figures.save_gif(folder / "denoising.gif", sampler.film(ema, 36))


def planned(args, images) -> dict[str, int]:
    """Images through the network: forward and backward in training, forward in the rest."""
    iterations = Batches(images, args.batch_size, args.seed, args.limit_batches).steps
    updates = max(0, args.epochs - args.initial_epoch) * iterations
    steps = args.epochs * iterations * args.inner_loop + updates * (args.inner_loop_z + 2)
    sides = args.zo_directions * (2 if args.ZO_type == "two" else 1)
    exact = 4 if args.zo_samples <= args.batch_size else 5  # two of them are a backward pass's
    of_q = {"zo": sides, "forward": 1 + len(FAMILIES[args.scheduler]), "exact": exact}
    of_z = {"zo": sides, "forward": sides, "exact": exact}
    fids = updates * (args.inner_loop_z * of_z[args.upper_gradient] + of_q[args.upper_gradient])
    chain = args.timesteps if args.sampler == "ddpm" else args.backward_steps
    drawn = args.epochs * (args.n_samples + args.fid_samples) + args.eval_samples
    return {
        "training": steps * args.batch_size,
        "upper": fids * args.zo_samples * args.backward_steps,
        "sampling": drawn * chain,
    }


def print_plan(args, images) -> None:
    """What the flags would do, and what it costs in images through the network."""
    iterations = Batches(images, args.batch_size, args.seed, args.limit_batches).steps
    updates = max(0, args.epochs - args.initial_epoch) * iterations
    print(f"{args.epochs} epochs of {iterations} iterations, {updates} of which move the schedule")
    print(f"an iteration: {args.inner_loop} steps of theta_y, {args.inner_loop_z} of theta_z,")
    print(f"  and FIDs of {args.zo_samples} images in {args.backward_steps} DDIM steps")
    for name, count in planned(args, images).items():
        print(f"{name}: {count:,} images through the network")


def main(args) -> None:
    run_script("bilevel", args, train, print_plan)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "train_mnist_bilevel_ZO.py"))
