"""Train a small diffusion model on MNIST with a fixed noise schedule (the baseline).

python train_mnist.py                                   the published run, 100 epochs
python train_mnist.py --tau 2 --end 0.9                 another schedule
python train_mnist.py --schedule_from schedule.json     a schedule that a bilevel run learned
python train_mnist.py --resume latest                   resume an interrupted run
"""

from common import cli, flags
from common.flag_checks import check_common, check_sampling, check_schedule, check_steps


def make_parser() -> cli.Parser:
    parser = cli.Parser("Train a diffusion model on MNIST with a fixed noise schedule.")
    flags.add_data(parser)
    flags.add_network(parser)
    flags.add_schedule(parser)
    flags.add_training(parser)
    flags.add_noise_levels(parser)
    flags.add_evaluation(parser)
    flags.add_runtime(parser)
    output = flags.add_output(parser)
    output.add_argument(
        "--sample_only",
        action="store_true",
        help="do not train: draw --n_samples images with the network in --ckpt",
    )
    return parser


def check(args) -> None:
    check_common(args)
    check_schedule(args)
    if not args.sample_only:  # else T is the checkpoint's
        check_steps(args)
        check_sampling(args)
    elif not args.ckpt:
        raise ValueError("--sample_only requires --ckpt, the checkpoint to sample from")
    for flag in ("resume", "dry_run"):
        if args.sample_only and getattr(args, flag):
            raise ValueError(f"--sample_only and --{flag} contradict each other")
    if args.sample_only and args.eval_samples not in (0, make_parser().get_default("eval_samples")):
        raise ValueError("--sample_only computes no FID; python -m common.evaluate judges a run")


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = cli.parse(make_parser(), "train", check)

import sys
from collections.abc import Callable

import torch

from common import figures
from common.data import Batches
from common.errors import Stop, at, guarded
from common.families import NAMES, among
from common.graphs import without_graphs
from common.judging import Judges, evaluate
from common.loop import Progress, end_of_epoch, run_script
from common.machine import setup
from common.networks import compiled, facts_of, load_network, make_network, refuse_others
from common.noise_levels import NoiseLevels
from common.processes import refuse
from common.run import Run
from common.sampling import Sampler, SamplerSettings, process_from_flags, process_of
from common.tables import counted
from common.training import Average, EmaRule, Learner, LRSchedule, make_optimizer
from scheduler import Schedule


def train(
    args, run: Run, images: torch.Tensor, on_epoch: Callable[[int, dict], None] | None = None
) -> dict:
    """Train in a run's folder from wherever it stands; returns the summary.

    `on_epoch` is called with the number and the scores of every epoch; it may raise to end the run.
    """
    device = images.device
    schedule = fixed_schedule(args)
    process = process_from_flags(schedule, device, **vars(args))
    sampler = Sampler(process, SamplerSettings.from_flags(**vars(args)), images.shape[1:])
    judged = args.fid_samples or args.eval_samples
    judges = Judges.from_flags(device, split=args.reference, **vars(args)) if judged else None
    judge = judges.main if judges else None
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    progress = Progress(args.epochs, batches.steps)

    size = args.model_base_dim, args.timesteps
    net = make_network(*size, device, args.seed, args.ckpt, args.compile)
    optimizer = make_optimizer(net.parameters(), args.lr)
    lr_schedule = LRSchedule(args.lr_schedule, optimizer, progress.total)
    passes = {"amp": args.amp, "graphs": args.compile == "graphs"}
    seen = NoiseLevels.from_flags(process, **vars(args))
    theta = Learner(
        net, optimizer, batches, args.seed, "step", lr_schedule, **passes, noise_levels=seen
    )
    averaging = EmaRule.from_flags(**vars(args))
    ema = Average(net, *averaging, progress.total, args.compile)

    run.take_up(
        {"progress": progress, "theta": theta, "ema": ema},
        lambda: {"step": theta.count, "schedule": schedule.to_dict(), "shape": sampler.shape},
    )
    run.write_json("schedule.json", schedule.to_dict())
    run.log(f"the averaged network looks back over {averaging.memory:.4g} steps")
    if judges:
        run.log(str(judges))

    for epoch in range(progress.epoch, args.epochs):
        with progress.bar() as bar:
            for _ in range(progress.batch, batches.steps):
                place = f"epoch {epoch + 1}, step {theta.count + 1}"
                with at(place):
                    loss = theta.step(process)
                ema.after_step(net, theta.count)
                progress.advance(loss)
                run.evaluations["training"] += theta.images
                if progress.is_due(args.log_freq):
                    run.row("losses.csv", step=theta.count, loss=loss, lr=theta.lr)
                    text = f"{place} of {progress.total}: loss {loss:.5f}, lr {theta.lr:.2e}"
                    run.log(text, echo=bar.disable)
                bar.set_postfix(loss=f"{loss:.4f}")
                bar.update()
                run.poll()

        counts = args.fid_samples, args.n_samples
        scores = end_of_epoch(
            run, progress, theta.count, sampler, ema.model, judge, schedule, *counts
        )
        lr_schedule.after_epoch(progress.mean_loss)
        if on_epoch:
            on_epoch(progress.epoch, scores)
        run.poll()

    final = evaluate(sampler, ema.model, args.eval_samples, judges, "evaluation", run)
    leave_figures(run, sampler, ema.model, schedule)
    summary = {"epochs": args.epochs, "steps": theta.count, "loss": progress.mean_loss}
    summary |= {"ema_memory": averaging.memory}
    return run.finish(summary | final, drawn=args.eval_samples * sampler.steps)


def fixed_schedule(args) -> Schedule:
    """The training schedule of the flags."""
    return Schedule(args.scheduler_type, args.timesteps, **among(vars(args)))


def leave_figures(run: Run, sampler: Sampler, net: torch.nn.Module, schedule: Schedule) -> None:
    """Curves of the loss and the scores, the schedule, and a GIF of denoising from fixed noise."""
    folder = run.folder / "figures"
    losses, scores = run.rows("losses.csv"), run.rows("scores.csv")
    figures.plot_columns(folder / "loss.png", "step", losses, ["loss", "lr"])
    figures.plot_columns(folder / "scores.png", "epoch", scores, ["loss", "fid", "is_mean"])
    figures.plot_schedules(folder / "schedule.png", {schedule.family: schedule})
    figures.save_gif(folder / "denoising.gif", sampler.film(net, 36))


def take_its_own(args, state: dict) -> None:
    """The checkpoint's data, network and schedule; a flag that says otherwise is a Stop."""
    schedule, family = state["schedule"], args.scheduler_type
    # what the flags of that family are unless given
    default = cli.parse(make_parser(), "train", check, ["--scheduler_type", family])
    default.scheduler_type = make_parser().get_default("scheduler_type")
    if not args.sampling_schedule:
        args.sampling_schedule = state["args"].get("sampling_schedule")
        args.told = args.told or state["args"].get("told")
    facts = facts_of(state) | {"scheduler_type": schedule["family"]}
    facts |= {name: schedule.get(name) for name in NAMES} | among(schedule)
    if args.backward_steps == default.backward_steps:
        args.backward_steps = min(args.backward_steps, facts["timesteps"])
    refuse_others(args, default, facts)
    vars(args).update(facts)
    try:
        check_steps(args)
        check_sampling(args)
    except ValueError as error:
        raise Stop(f"{args.ckpt}: {error}", code=2) from None
    state["args"] |= {"sampling_schedule": args.sampling_schedule, "told": args.told}


def sample_only(args, device) -> None:
    """Draw a picture and a GIF from a checkpoint, with its own network and schedule."""
    net, state = load_network(args.ckpt, device)
    compiled(net, args.compile)
    take_its_own(args, state)
    settings = SamplerSettings.from_flags(**vars(args))
    sampler = Sampler(process_of(state, device), settings, state["shape"])
    with Run.open("sample", vars(args), device) as run:
        if line := without_graphs(args.compile, device):
            run.log(line)
        frames = sampler.film(net, args.n_samples, poll=run.poll)
        figures.save_grid(run.folder / "samples" / "samples.png", frames[-1])
        figures.save_gif(run.folder / "figures" / "denoising.gif", frames)
        run.log(f"wrote {run.folder}/samples/samples.png and {run.folder}/figures/denoising.gif")


def planned(args, images) -> dict[str, int]:
    """Images through the network: forward and backward in training, forward in sampling."""
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    steps = SamplerSettings.from_flags(**vars(args)).steps
    drawn = args.epochs * (args.n_samples + args.fid_samples) + args.eval_samples
    trained = args.epochs * batches.steps * batches.batch_size
    return {"training": trained, "sampling": drawn * steps}


def print_plan(args, images) -> dict[str, int]:
    """What the flags would do, and what it costs in images through the network, returned."""
    parameters = sum(
        p.numel() for p in make_network(args.model_base_dim, args.timesteps, "cpu").parameters()
    )
    cost = planned(args, images)
    batches = Batches(images, args.batch_size, args.seed, args.limit_batches)
    print(f"network: {parameters:,} parameters; {len(images)} images of {tuple(images.shape[1:])}")
    schedule = fixed_schedule(args)
    values = [f"{name} {value:.5g}" for name, value in schedule.values().items()]
    print(f"schedule: {', '.join([schedule.family, f'T {schedule.timesteps}', *values])}")
    epochs, steps = counted(args.epochs, "epoch"), counted(args.epochs * batches.steps, "step")
    print(f"training: {epochs}, {steps} of {counted(batches.batch_size, 'image')}:")
    print(f"  {cost['training']:,} images forward and backward")
    print(f"sampling: {cost['sampling']:,} forward passes, to draw")
    print(f"  {args.n_samples} for the picture and {args.fid_samples} for the FID after each")
    print(f"  epoch, and {args.eval_samples} at the end")
    return cost


def main(args) -> None:
    if args.sample_only:
        refuse("--sample_only")
        sample_only(args, setup(args.device, args.cpu, args.threads, args.tf32))
    else:
        run_script("train", args, train, print_plan)


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "train_mnist.py"))
