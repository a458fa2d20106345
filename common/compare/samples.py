"""Samples of several runs, each drawn as the run draws its own, from the same noise."""

from pathlib import Path

import torch
from torch import nn

from common import figures
from common.compare.records import ComparedRun
from common.errors import Stop, read_json
from common.locate import find_trained
from common.networks import load_network
from common.sampling import (
    EVAL_SEED,
    PICTURE,
    SAMPLED_BY,
    Sampler,
    SamplerSettings,
    load_any,
    process_of,
)
from common.sampling_only import FROZEN
from scheduler import Schedule


def sampler_of(record: ComparedRun, device: torch.device | str) -> tuple[nn.Module, Sampler]:
    """The network of a run and the way in which it draws."""
    if record.kind not in ("frozen", "sample"):  # these name another run's network
        net, state = load_any(find_trained(str(record.folder)), device)
        settings = SamplerSettings.from_flags(**state["args"])
        return net, Sampler(process_of(state, device), settings, state["shape"])
    net, state = load_network(record.arguments["ckpt"], device)
    named = (*SAMPLED_BY, "tau_type", "sampler", "amp")
    state["args"] |= {n: record.arguments[n] for n in named if n in record.arguments}
    process = process_of(state, device)
    if record.kind == "frozen":
        state["args"] |= FROZEN
        path = record.folder / "schedule.json"
        told = read_json(path).get("told", "nearest")
        process = process.replaced(sampling_schedule=Schedule.load(path), told=told)
    settings = SamplerSettings.from_flags(**state["args"])
    return net, Sampler(process, settings, state["shape"])


def plot_samples(
    path: Path, records: list[ComparedRun], n: int, device: torch.device | str, notes: list[str]
) -> bool:
    """A grid of images a run, each image from the same noise in all of them."""
    grids = {}
    shapes = set()
    for record in records:
        try:
            net, sampler = sampler_of(record, device)
            noise = sampler.noise(n, EVAL_SEED, *PICTURE, device="cpu")
            with torch.inference_mode():
                grids[record.name] = figures.grid(sampler(net, noise))
            shapes.add(sampler.shape)
        except (Stop, ValueError, KeyError, TypeError, OSError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            notes.append(f"{record.name}: no samples ({reason})")
    if not grids:
        return False
    if len(shapes) > 1:
        notes.append("the noise is the same only for images of the same size")
    figure, axes = figures.wrapped_axes(len(grids))
    for axis, (name, grid) in zip(axes, grids.items(), strict=True):
        axis.imshow(grid)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    figures.save(figure, path)
    return True
