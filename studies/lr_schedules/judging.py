"""What a run of the learning-rate study is judged by: held-out loss, divergences, times, points."""

import time

import torch
from torch import Tensor

from common.errors import Stop
from common.machine import progress_bar, stream
from common.run import Run
from common.training import draw
from model import Diffusion
from studies.lr_schedules.points import kl_divergence
from studies.lr_schedules.report import SHOWN
from studies.lr_schedules.stack import Net
from studies.lr_schedules.together import TIMESTEPS, Recipe, Together

# seeds of the data, the same for every run: the paper's moons are those of 42
TRAIN, HELD_OUT, REAL = 42, 43, 44
CHUNK = 1000  # points sampled at once: what a layer writes stays in the cache


def judge(
    args, run: Run, at: dict, recipes: list[Recipe], groups: dict, process: Diffusion, data: dict
) -> None:
    """Evaluation loss, points, times and divergences of each run of a seed, a row a run."""
    runs = [(name, i) for name in groups for i in range(len(recipes))]
    with progress_bar(total=len(runs), initial=at["judged"], desc="evaluation") as bar:
        for name, i in runs[at["judged"] :]:
            who = {"seed": at["seed"], "set": name, "schedule": recipes[i].label}
            judge_one(args, run, who, groups[name], i, process, data[name])
            at["judged"] += 1
            bar.update()
            run.poll()


def judge_one(args, run: Run, who: dict, group: Together, i: int, process, data: dict) -> None:
    """The rows of run i of a data set."""
    seed, net = who["seed"], group.net(i)
    held_out, real = data[HELD_OUT], data[REAL]
    random = stream(held_out.device, seed, "start")
    noise = torch.randn(held_out.shape, generator=random, device=held_out.device)
    begun = time.perf_counter()
    drawn = sample(process, net, noise, seed).cpu()  # which waits for a GPU
    seconds = time.perf_counter() - begun
    real, drawn = real.cpu().double().numpy(), drawn.double().numpy()
    scores = {
        "loss": held_out_loss(process, net, held_out, seed),
        "kl": divergence(real, drawn, who),
        "kl_reverse": divergence(drawn, real, who),
        "kl_matched": None,
    }
    if who["schedule"] == "constant":  # what is left when sampling starts where training ended
        levels = process.levels()
        start = levels.signal[-1] * held_out + levels.noise[-1] * noise
        matched = sample(process, net, start, seed).cpu().double().numpy()
        scores["kl_matched"] = divergence(real, matched, who)
        run.evaluations["sampling"] += len(matched) * TIMESTEPS
    run.evaluations["sampling"] += len(drawn) * TIMESTEPS
    lrs = {"lr_mean": group.lr_sum[i] / args.steps, "lr_last": group.lrs()[i]}
    run.row("results.csv", **who, steps=args.steps, **scores, **lrs)
    shared = (group.seconds - sum(group.own_seconds)) / len(group.rows)
    clock = {"shared": shared, "own": group.own_seconds[i], "sampling": seconds}
    run.row("timing.csv", **who, **clock)
    if seed == args.seed and not args.sweep:
        for x, y in drawn[:SHOWN]:
            place = {"set": who["set"], "schedule": who["schedule"]}
            run.row("points.csv", **place, x=round(x, 3), y=round(y, 3))
    said = f"loss {scores['loss']:.4f}, KL {scores['kl']:.3f}, {seconds:.1f} s to sample"
    run.log(f"{who['set']}, {who['schedule']}: {said}")


def divergence(p, q, who) -> float:
    try:
        return kl_divergence(p, q)
    except ValueError as error:
        raise Stop(f"{who['set']}, {who['schedule']}, seed {who['seed']}: {error}") from None


def held_out_loss(process: Diffusion, net: Net, x0: Tensor, seed: int) -> float:
    """The loss on points that no run trained on, at times and noise that all runs share."""
    t, eps = draw(x0, TIMESTEPS, stream(x0.device, seed, "held-out"))
    with torch.inference_mode():
        return process.loss(net, x0, t, eps).item()


def sample(process: Diffusion, net: Net, start: Tensor, seed: int) -> Tensor:
    """Points from (n,2) at time T, ancestrally: all steps, their own noise, nothing clipped."""
    random = stream(start.device, seed, "sampling")
    with torch.inference_mode():
        return torch.cat(
            [
                process.sample(net, x, TIMESTEPS, eta=1.0, clip=False, generator=random)
                for x in start.split(CHUNK)
            ]
        )
