"""What needs no run: the curves of every recipe, and what a scale b of the input does to them."""

import shlex
from typing import NamedTuple

import torch
from torch import Tensor

import train_mnist
from common import cli
from common.families import among
from model import Diffusion, log_snr
from scheduler import Schedule
from studies.noise_schedules.plan import FUNCTIONS, RECIPES, SCALES, SHARED

EXACT = 1e-9  # larger than what float64 rounds, smaller than what anyone would see


class Curve(NamedTuple):
    """Of a recipe at t = 1..T."""

    alpha_bar: Tensor  # of the schedule without scaling that has the same log SNR
    log_snr: Tensor


def parsed(recipe: str):
    """The arguments of a recipe as train_mnist.py reads them."""
    argv = shlex.split(f"{SHARED} {RECIPES[recipe].flags}")
    return cli.parse(train_mnist.make_parser(), "train", train_mnist.check, argv)


def process_of(recipe: str, b: float | None = None) -> Diffusion:
    """The diffusion of a recipe, in float64; with another scale b if one is given."""
    args = parsed(recipe)
    schedule = Schedule(args.scheduler_type, args.timesteps, **among(vars(args)))
    scale = args.input_scale if b is None else b
    return Diffusion(schedule, scale, not args.no_normalise, dtype=torch.float64)


def curve_of(recipe: str) -> Curve:
    """Read from the noise levels with which training mixes signal and noise."""
    signal, noise, _ = process_of(recipe).levels()
    level = 2 * (signal[1:].log() - noise[1:].log())
    return Curve(level.sigmoid(), level)


def scales() -> list[float]:
    return [parsed(recipe).input_scale for recipe in SCALES]


def shift_error() -> float:
    """Largest deviation of log SNR from that of the function plus 2 log b."""
    errors = []
    for function in FUNCTIONS:
        for b in scales():
            process = process_of(function, b)
            signal, noise, _ = process.levels()
            plain = log_snr(process.schedule.log_alpha_bar())[1:]
            expected = plain + 2 * torch.tensor(b, dtype=torch.float64).log()
            errors.append((2 * (signal / noise).log()[1:] - expected).abs().max().item())
    return max(errors)


def input_error() -> float:
    """Largest deviation of the normalised input's parts from those of the shifted schedule."""
    errors = []
    for function in FUNCTIONS:
        for b in scales():
            process = process_of(function, b)
            signal, noise, scale = (part[1:] for part in process.levels())
            plain = log_snr(process.schedule.log_alpha_bar())[1:]
            shifted = plain + 2 * torch.tensor(b, dtype=torch.float64).log()
            errors.append((scale * signal - shifted.sigmoid().sqrt()).abs().max().item())
            errors.append((scale * noise - (-shifted).sigmoid().sqrt()).abs().max().item())
    return max(errors)
