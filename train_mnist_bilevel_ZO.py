"""Learn the noise schedule while the diffusion model trains: bilevel optimisation by a penalty.

    min over q of FID(samples of schedule q and network theta)  with  theta = argmin L(theta, q)

theta_y follows argmin L(., q); theta_z follows argmin FID/gamma + L(., q); the schedule descends
    (1/gamma) dFID/dq at theta_z  +  dL/dq(theta_z) - dL/dq(theta_y)
as in Algorithm 6 of arXiv 2502.08808. The published command:

    python train_mnist_bilevel_ZO.py --inner_loop 10 --inner_loop_z 1 --gamma 1 --gamma_end 1 \\
        --lr_beta 0.05 0.05 1 0.05 --initial_epoch 2 --epochs 3
"""

from common import cli, flags
from common.families import FAMILIES, NAMES, complete, knots_table, table_of

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
    families = ["cosine", "linear", "sigmoid", "knots"]
    add("scheduler", "cosine", "family of the learned noise schedule", choices=families)
    for name in NAMES:
        table = {f: FAMILIES[f][name].default for f in families if name in FAMILIES[f]}
        defaults = ", ".join(f"{family} {value:g}" for family, value in table.items())
        text = f"initial value of {name} (default: {defaults})"
        add(f"initial_{name}", None, text, type=cli.parameter)
    flags.add_knots(add)
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
    text = "peak learning rates of start, end, tau (or all knots) and epsilon; 0 holds one fixed"
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
    given = flags.with_knots(args.scheduler, args.knots, given)
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
from common.errors import at, guarded
from common.judging import Judge, evaluate
from common.loop import Progress, end_of_epoch, run_script
from common.machine import peak_memory, stream
from common.networks import compiled, make_network
from common.run import Run
from common.sampling import Sampler, SamplerSettings
from common.schedule_optimizer import ScheduleOptimizer
from common.training import Average, Learner, LRSchedule, draw, ema_decay, make_optimizer
from common.upper_level import UpperLevel, UpperSettings
from common.weights import evaluating
from model import Diffusion
from scheduler import Schedule


def train(args, run: Run, images: torch.Tensor) -> dict:
    """Algorithm 6 in a run's folder, from wherever it stands; returns the summary."""
    device = images.device
    names = table_of(args.scheduler, knots_table(args.knots))
    initial = {name: getattr(args, f"initial_{name}") for name in names}
    schedule = Schedule(args.scheduler, args.timesteps, learned=True, **initial)
    schedule.to("cpu" if device.type == "mps" else device)  # float64, which mps has not
    first = Schedule.from_dict(schedule.to_dict())
    process = Diffusion(schedule, args.input_scale, not args.no_normalise, device=device)
    sampler = Sampler(process, SamplerSettings.from_flags(**vars(args)), images.shape[1:])
    judge = Judge.from_flags(device, **vars(args))
    settings = UpperSettings.from_flags(**vars(args))
    upper = UpperLevel(sampler, judge, schedule, settings, run.evaluations)
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    progress = Progress(args.epochs, batches.steps)
    updates = max(0, args.epochs - args.initial_epoch) * batches.steps
    steps = progress.total * args.inner_loop  # of theta_y

    size = args.model_base_dim, args.timesteps
    net_y = make_network(*size, device, args.seed, args.ckpt, args.compile)
    net_z = compiled(deepcopy(net_y), args.compile)
    optimizer_y = make_optimizer(net_y.parameters(), args.lr)
    optimizer_z = make_optimizer(net_z.parameters(), args.lr_z)
    lr_y = LRSchedule(args.lr_schedule, optimizer_y, steps)
    # theta_y takes the steps of train_mnist.py, draw for draw
    theta_y = Learner(net_y, optimizer_y, batches, args.seed, "step", lr_y, args.amp)
    theta_z = Learner(net_z, optimizer_z, batches, args.seed, "step_z", amp=args.amp)
    decay = ema_decay(args.model_ema_decay, args.batch_size, args.model_ema_steps, args.epochs)
    ema = Average(net_y, decay, args.model_ema_steps, steps, args.compile)
    q = ScheduleOptimizer(schedule, args.lr_beta, updates)

    parts = {"progress": progress, "theta_y": theta_y, "theta_z": theta_z, "ema": ema, "q": q}
    run.take_up(
        parts | {"upper": upper},
        lambda: {"step": theta_y.count, "schedule": schedule.to_dict(), "shape": sampler.shape},
    )

    for epoch in range(progress.epoch, args.epochs):
        with progress.bar() as bar:
            for _ in range(progress.batch, batches.steps):
                began = time.monotonic()
                with at(f"epoch {epoch + 1}, iteration {progress.batch + 1}"):
                    levels = process.levels_of(schedule.log_alpha_bar().detach())

                    # lower level: theta_y follows argmin L(., q)
                    for _ in range(args.inner_loop):
                        loss_y = theta_y.step(process, levels)
                        ema.after_step(net_y, theta_y.count)
                    row = {"loss_y": loss_y}

                    if epoch >= args.initial_epoch:
                        gamma = gamma_at(q.count, updates, args.gamma, args.gamma_end)
                        if q.count == 0 or args.theta_z == "recopied":
                            net_z.load_state_dict(net_y.state_dict())  # in place

                        # penalised copy: theta_z follows argmin FID/gamma + L(., q)
                        for _ in range(args.inner_loop_z):
                            slope = upper.slope_of_weights(net_z, theta_z.count)
                            loss_z = theta_z.step(process, levels, slope.gradient / gamma)

                        # upper level: q descends (1/gamma) dFID/dq at theta_z
                        #              + dL/dq(theta_z) - dL/dq(theta_y), on the same draws
                        slope = upper.slope_of_schedule(net_z, q.count)
                        x0 = batches(epoch, progress.batch)
                        difference = loss_difference(
                            process, net_z, net_y, x0, args.seed, q.count, args.noise == "common"
                        )
                        q.step(slope.gradient / gamma + difference)
                        row |= {"loss_z": loss_z, "fid": slope.value, "gamma": gamma}

                progress.advance(loss_y)
                count_training(run, args, batches.batch_size, moved="gamma" in row)
                if progress.is_due(args.log_freq):
                    row["seconds"] = time.monotonic() - began
                    report(args, run, progress.iteration, row, q, echo=bar.disable)
                bar.set_postfix(loss=f"{loss_y:.4f}")
                bar.update()
                run.poll()

        counts = args.fid_samples, args.n_samples
        end_of_epoch(run, progress, theta_y.count, sampler, ema.model, judge, schedule, *counts)
        lr_y.after_epoch(progress.mean_loss)
        run.write_json("schedule.json", schedule.to_dict())
        run.poll()

    final = evaluate(sampler, ema.model, args.eval_samples, judge, "evaluation", run)
    leave_figures(run, sampler, ema.model, {"first": first, "last": schedule})
    learned = {"epochs": args.epochs, "steps": theta_y.count, "loss": progress.mean_loss}
    learned |= schedule.values()
    return run.finish({**learned, **final}, drawn=args.eval_samples * sampler.steps)


def gamma_at(update: int, updates: int, gamma: float, gamma_end: float) -> float:
    """gamma goes on a straight line from the first update to the last."""
    return gamma + (gamma_end - gamma) * update / max(1, updates - 1)


def count_training(run: Run, args, images: int, moved: bool) -> None:
    """Training images of an iteration: the steps of both copies, and the two losses' gradients."""
    steps = args.inner_loop + (args.inner_loop_z + 2 if moved else 0)
    run.evaluations["training"] += steps * images


def loss_difference(
    process: Diffusion,
    net_z: torch.nn.Module,
    net_y: torch.nn.Module,
    x0: torch.Tensor,
    seed: int,
    update: int,
    common_noise: bool = True,
) -> torch.Tensor:
    """dL/dq(theta_z) - dL/dq(theta_y) on the same batch, times and noise; (p,)."""
    timesteps, device = process.schedule.timesteps, x0.device
    randoms = [stream(device, seed, "difference", update) for _ in range(2)]
    if not common_noise:
        randoms[1] = stream(device, seed, "difference, other side", update)
    q, slopes = list(process.schedule.parameters()), []
    with evaluating(net_z, net_y):
        for net, random in zip((net_z, net_y), randoms, strict=True):
            loss = process.loss(net, x0, *draw(x0, timesteps, random))  # never in bfloat16
            # in turn: both graphs at once would need more memory than a training step
            slopes.append(torch.stack(torch.autograd.grad(loss, q)))
    return slopes[0] - slopes[1]


def report(args, run: Run, iteration: int, row: dict, q: ScheduleOptimizer, echo: bool) -> None:
    """A row of iterations.csv, a line of the log, and warnings about the flags to change."""
    values, bounds, slopes = q.schedule.values(), q.schedule.to_bounds(), q.slopes()
    columns = {name: row.get(name) for name in ("loss_y", "loss_z", "fid", "gamma")}
    columns["fid_n"] = args.zo_samples if "fid" in row else None
    names = list(dict.fromkeys([*NAMES, *values]))
    columns |= {name: values.get(name) for name in names}
    for i, prefix in enumerate(("grad_", "spread_")):
        columns |= {prefix + name: slopes[name][i] if name in slopes else None for name in names}
    run.row("iterations.csv", iteration=iteration, **columns)

    text = ", ".join(f"{name} {value:.5g}" for name, value in row.items())
    for name, (slope, spread) in slopes.items():
        text += f"; {name} {values[name]:.4g} ({bounds[name]:.2g} to its bound) "
        text += f"slope {slope:.3g}±{spread:.2g}"
    memory = max(peak_memory().values()) / 2**30
    run.log(f"iteration {iteration}: {text}; {memory:.2f} GiB", echo)
    stuck = [name for name in slopes if bounds[name] < 1e-5]
    noisy = [name for name, (slope, spread) in slopes.items() if spread > abs(slope)]
    if stuck:
        advice = "if it did not start there, a lower --lr_beta may free it"
        run.log(f"warning: on the bound: {', '.join(stuck)}; {advice}", echo)
    if noisy:
        advice = "more --zo_samples, a higher --gamma"
        if args.upper_gradient == "zo":
            advice += ", more --zo_directions or --upper_gradient forward"
        run.log(f"warning: more noise than slope: {', '.join(noisy)}; {advice} may help", echo)


def leave_figures(run: Run, sampler: Sampler, net, schedules: dict[str, Schedule]) -> None:
    """The parameters' path, the scores over steps and over time, the first and last schedule."""
    folder = run.folder / "figures"
    path, scores = run.rows("iterations.csv"), run.rows("scores.csv")
    clock = {**scores, **run.rows("timing.csv")}
    figures.plot_columns(folder / "path.png", "iteration", path, list(schedules["last"].q))
    figures.plot_columns(folder / "iterations.png", "iteration", path, ["loss_y", "loss_z", "fid"])
    figures.plot_columns(folder / "scores.png", "step", scores, ["loss", "fid", "is_mean"])
    figures.plot_columns(folder / "clock.png", "seconds", clock, ["loss", "fid"])
    figures.plot_schedules(folder / "schedule.png", schedules)
    figures.save_gif(folder / "denoising.gif", sampler.film(net, 36))


def planned(args, images) -> dict[str, int]:
    """Images through the network: forward and backward in training, forward in the rest."""
    iterations = Batches(images, args.batch_size, args.seed, args.limit_batches).steps
    updates = max(0, args.epochs - args.initial_epoch) * iterations
    steps = args.epochs * iterations * args.inner_loop + updates * (args.inner_loop_z + 2)
    sides = args.zo_directions * (2 if args.ZO_type == "two" else 1)
    exact = 4 if args.zo_samples <= args.batch_size else 5  # two of them are a backward pass's
    of_q = {
        "zo": sides,
        "forward": 1 + len(table_of(args.scheduler, knots_table(args.knots))),
        "exact": exact,
    }
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
