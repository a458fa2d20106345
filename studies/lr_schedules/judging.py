"""What a run of the study is judged by: held-out loss, divergences, times, generated points."""

import time

import numpy as np
import torch
from torch import Tensor

from common.errors import Stop
from common.machine import stream
from common.run import Run
from common.training import draw
from model import Diffusion, fresh_noise
from studies.lr_schedules.divergence import kl_divergence
from studies.lr_schedules.points import PointSet
from studies.lr_schedules.stack import Net
from studies.lr_schedules.together import TIMESTEPS, Together

CHUNK = 1000  # points sampled at once: what a layer writes stays in the cache
KEPT_POINTS = 300  # of each run, for the figures


def evaluate_run(
    run: Run,
    key: dict,
    group: Together,
    i: int,
    process: Diffusion,
    points: PointSet,
    keep_points: bool,
) -> None:
    """The rows of run i of a data set; `key` holds its seed, set and lr_schedule."""
    seed, net = key["seed"], group.net(i)
    device = points.held_out.device
    random = stream(device, seed, "start")
    noise = torch.randn(points.held_out.shape, generator=random, device=device)
    begin = time.perf_counter()
    generated = sample(process, net, noise, seed).cpu()  # which waits for a GPU
    seconds = time.perf_counter() - begin
    run.evaluations["sampling"] += len(generated) * TIMESTEPS
    real, generated = as_array(points.real), as_array(generated)
    scores = {
        "loss": held_out_loss(process, net, points.held_out, seed),
        "kl": divergence(real, generated, key),
        "kl_reverse": divergence(generated, real, key),
        "kl_matched": None,
    }
    if key["lr_schedule"] == "constant":
        start = noised_to_the_end(process, points.held_out, noise)
        matched = as_array(sample(process, net, start, seed))
        scores["kl_matched"] = divergence(real, matched, key)
        run.evaluations["sampling"] += len(matched) * TIMESTEPS
    rates = {"lr_mean": group.lr_sum[i] / group.steps, "lr_last": group.lrs()[i]}
    run.row("results.csv", **key, steps=group.steps, **scores, **rates)
    shared, of_lr_schedule = group.shared_seconds(), group.lr_schedule_seconds[i]
    run.row("timing.csv", **key, shared=shared, own=of_lr_schedule, sampling=seconds)
    if keep_points:
        for x, y in generated[:KEPT_POINTS]:
            columns = {"set": key["set"], "lr_schedule": key["lr_schedule"]}
            run.row("points.csv", **columns, x=round(x, 3), y=round(y, 3))
    line = f"loss {scores['loss']:.4f}, KL {scores['kl']:.3f}, {seconds:.1f} s to sample"
    run.log(f"{key['set']}, {key['lr_schedule']}: {line}")


def as_array(x: Tensor) -> np.ndarray:
    return x.cpu().double().numpy()


def noised_to_the_end(process: Diffusion, x0: Tensor, noise: Tensor) -> Tensor:
    """Data at the last step of training: a start from which no mismatch is left."""
    levels = process.levels()
    return levels.signal[-1] * x0 + levels.noise[-1] * noise


def divergence(p: np.ndarray, q: np.ndarray, key: dict) -> float:
    try:
        return kl_divergence(p, q)
    except ValueError as error:
        place = f"{key['set']}, {key['lr_schedule']}, seed {key['seed']}"
        raise Stop(f"{place}: {error}") from None


def held_out_loss(process: Diffusion, net: Net, x0: Tensor, seed: int) -> float:
    """The loss on points that no run trained on, at times and noise that all runs share."""
    t, eps = draw(x0, TIMESTEPS, stream(x0.device, seed, "held-out"))
    with torch.inference_mode():
        return process.loss(net, x0, t, eps).item()


def sample(process: Diffusion, net: Net, start: Tensor, seed: int) -> Tensor:
    """Points from (n,2) at time T, ancestrally: all steps, fresh noise in each, nothing clipped."""
    random = stream(start.device, seed, "sampling")
    with torch.inference_mode():
        return torch.cat(
            [
                process.sample(net, x, TIMESTEPS, eta=1.0, clip=False, fresh=fresh_noise(random))
                for x in start.split(CHUNK)
            ]
        )
