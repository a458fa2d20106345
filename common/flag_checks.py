"""Checks of the shared flags that need several of them, or a file; no torch."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common.datasets import DATASETS, archive_of, check_size, idx_file, side_of
from common.families import (
    FAMILIES,
    KNOTS,
    among,
    complete,
    from_content,
    knots_table,
    read_sampling_schedule,
    read_schedule,
)
from common.flags import TIMESTEPS
from common.judge_files import check_made
from common.locate import find_checkpoint, find_schedule


def check_device(args) -> None:
    """Raise a ValueError if --cpu is given together with another device."""
    if args.cpu and args.device not in ("auto", "cpu"):
        raise ValueError(f"--cpu and --device {args.device} contradict each other")


def check_common(args) -> None:
    """Refuse combinations that no training script can run; the ValueError names the flag."""
    check_device(args)
    check_size(args.dataset, args.image_size)
    if args.model_base_dim % 4:
        raise ValueError(f"--model_base_dim {args.model_base_dim} is not a multiple of 4")
    if args.eta and args.sampler == "ddpm":
        raise ValueError(f"--eta {args.eta:g} contradicts --sampler ddpm, whose eta is 1")
    if args.ema_memory and args.ema_memory < args.model_ema_steps and not args.resume:
        raise ValueError(
            f"--ema_memory {args.ema_memory:g} is shorter than --model_ema_steps "
            f"{args.model_ema_steps}, the steps between two updates of the average"
        )
    for flag in ("fid_samples", "eval_samples"):
        if getattr(args, flag) == 1:
            raise ValueError(f"--{flag} 1: an FID needs at least 2 images; 0 skips it")
    if args.extractor:
        check_made(args.extractor, args.dataset, side_of(args.dataset, args.image_size))
    if args.inception_weights and args.extractor != "inception":
        raise ValueError("--inception_weights requires --extractor inception")
    if args.resume:
        check_data(args)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(args.cache_dir)  # an OSError here, before there is a run, if the name is too long
    path = args.inception_weights
    if path and not Path(path).is_file():
        raise ValueError(f"--inception_weights {path}: no such file")
    if args.resume and any(Path(args.resume).glob("checkpoints/step_*.pt")):
        args.ckpt = ""  # the run's own checkpoints hold newer weights
    if args.ckpt:
        args.ckpt = resolved(find_checkpoint, "ckpt", args.ckpt, args.runs_dir)


def resolved(find: Callable[..., str], flag: str, name: str, runs_dir: str) -> str:
    """The file that a flag names, directly or as that of a run."""
    try:
        return find(name, runs_dir)
    except ValueError as error:
        raise ValueError(f"--{flag} {name}: {error}") from None


def check_data(args) -> None:
    """A resumed run reads its data; it downloads none to where its folder says."""
    if not (name := DATASETS[args.dataset].folder):
        return
    for split in ("train", "test"):
        what = "images"  # labels train classifiers alone
        path = Path(args.data_dir) / name / "raw" / idx_file(split, what)
        if not (path.is_file() or archive_of(path).is_file()):
            raise ValueError(f"{path}: no such file; --data_dir names the folder with {name}/raw")


def check_schedule(args) -> None:
    """Check the flags of a fixed schedule and fill in its parameters."""
    given = among(vars(args))  # of a resumed run, all of them
    if args.schedule_from and not args.resume:
        args.schedule_from = resolved(
            find_schedule, "schedule_from", args.schedule_from, args.runs_dir
        )
        if any(value is not None for value in given.values()):
            raise ValueError(
                "--schedule_from already sets start, end, tau and epsilon; give one or the other"
            )
        args.scheduler_type, timesteps, given = read_schedule(args.schedule_from)
        if args.timesteps not in (None, timesteps):
            raise ValueError(
                f"--timesteps {args.timesteps} contradicts --schedule_from, whose T is {timesteps}"
            )
        args.timesteps = timesteps
    check_knots(args.scheduler_type, args)
    vars(args).update(
        complete(args.scheduler_type, with_knots(args.scheduler_type, args.knots, given))
    )
    args.timesteps = args.timesteps or TIMESTEPS


def check_sampling(args) -> None:
    """Read --sampling_schedule and fill in --told, once T is known."""
    other = args.sampling_schedule
    if not other:
        if args.told:
            raise ValueError("--told requires --sampling_schedule")
        return
    if isinstance(other, str) and other not in FAMILIES:
        # store the content, not the name: the file may have changed when the run is resumed
        path = resolved(find_schedule, "sampling_schedule", other, args.runs_dir)
        args.sampling_schedule = other = read_sampling_schedule(path)
    elif isinstance(other, dict):  # of a resumed run
        from_content(other)
    recorded, timesteps = None, args.timesteps
    if isinstance(other, dict):
        recorded, timesteps = other.get("told"), other["timesteps"]
    args.told = args.told or recorded or "nearest"
    if args.told == "visited" and timesteps != args.timesteps:
        raise ValueError(
            f"--told visited: the T of --sampling_schedule is {timesteps}, the network's is "
            f"{args.timesteps}"
        )
    if args.sampler == "ddpm" and timesteps != args.timesteps:
        raise ValueError(
            f"--sampler ddpm takes the network's {args.timesteps} steps, but the T of "
            f"--sampling_schedule is {timesteps}"
        )
    if args.backward_steps > timesteps:
        raise ValueError(
            f"--backward_steps {args.backward_steps} exceeds the T of --sampling_schedule, "
            f"{timesteps}"
        )


def check_knots(family: str, args) -> None:
    """Refuse --knots where nothing reads it; a resumed run may have begun with it."""
    if family != "knots" and args.knots != KNOTS and not args.resume:
        flag = "scheduler" if hasattr(args, "scheduler") else "scheduler_type"
        raise ValueError(f"--knots {args.knots} requires --{flag} knots")


def with_knots(family: str, knots: int, given: dict) -> dict:
    """The given parameters and, where none is given, as many knots as --knots says."""
    if family != "knots" or any(name.startswith("knot_") for name in given):
        return given
    return {**dict.fromkeys(knots_table(knots)), **given}


def check_steps(args) -> None:
    """Fill in T and refuse more DDIM steps than T."""
    args.timesteps = args.timesteps or TIMESTEPS
    if args.backward_steps > args.timesteps:
        raise ValueError(
            f"--backward_steps {args.backward_steps} exceeds T = {args.timesteps} (--timesteps, or "
            "the schedule file)"
        )
