"""Walks the hot paths on the pretend accelerator: python tests/gpu_paths.py prints their costs.

--page writes them into docs/cuda.md instead.

A path is called twice; the second call counts, since the first one sets up. test_gpu.py runs this
in a process of its own and holds the counts to their budgets.
"""

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

import pretend_gpu
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import graphs
from common.data import Batches, to_unit
from common.extractors import load_extractor
from common.judging import Judge
from common.networks import make_network
from common.objective import UpperSettings
from common.penalty import Penalty, PenaltySettings
from common.sampling import Sampler, SamplerSettings
from common.schedule_optimizer import ScheduleOptimizer
from common.tables import fill_file, markdown
from common.training import Average, Learner, make_optimizer
from common.uncoupled import loss_difference
from common.upper_level import UpperLevel
from metrics import Reference
from model import Diffusion
from scheduler import Schedule

DEVICE, T, STEPS = pretend_gpu.DEVICE, 20, 4
PAGE = Path(__file__).resolve().parent.parent / "docs" / "cuda.md"


def judge_of_drawn_features() -> Judge:
    """The digit classifier against a drawn Gaussian: no data set is read."""
    y = torch.randn(300, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, cov = y.mean(0), y.mT.cov()
    judge = Judge(
        load_extractor("mnist", DEVICE),
        Reference(mean.to(DEVICE), cov.to(DEVICE), 300, "drawn", "mnist"),
    )
    _ = judge.reference.root, judge.reference.trace  # kept for every later FID
    return judge


def paths() -> dict:
    """name -> a call of one hot path."""
    net = make_network(4, T, DEVICE)
    schedule = Schedule("cosine", T, learned=True, end=0.9, tau=1.5, start=0.1).to(DEVICE)
    process = Diffusion(schedule, device=DEVICE)
    images = torch.randint(0, 255, (64, 1, 8, 8), dtype=torch.uint8).to(DEVICE)
    batches = Batches(images, 8, 0)
    theta_y = Learner(net, make_optimizer(net.parameters(), 1e-3), batches, 0)
    twin = deepcopy(net)
    theta_z = Learner(twin, make_optimizer(twin.parameters(), 1e-3), batches, 0, "step_z")
    graphs.recorder = lambda _: graphs.run_eagerly  # only of what is made with graphs
    third = deepcopy(net)
    static = Learner(
        third, make_optimizer(third.parameters(), 1e-3), batches, 0, "static", graphs=True
    )
    ema = Average(net, 0.9, 1, 0)
    sampler = Sampler(process, SamplerSettings(STEPS), (1, 8, 8))
    chained = Sampler(process, SamplerSettings(STEPS, graphs=True), (1, 8, 8))
    ancestral = Sampler(process, SamplerSettings(T, eta=1.0), (1, 8, 8))
    judge = judge_of_drawn_features()
    upper = {
        kind: UpperLevel(sampler, judge, schedule, UpperSettings(STEPS, 4, upper_gradient=kind))
        for kind in ("zo", "forward", "exact")
    }
    q = ScheduleOptimizer(schedule, [1e-3] * 4, 100)
    with torch.no_grad():
        levels = process.levels_of(schedule.log_alpha_bar())
    weights = sum(p.numel() for p in net.parameters())
    extra = torch.zeros(weights).to(DEVICE)
    gradient = torch.full((4,), 1e-3, dtype=torch.float64).to(DEVICE)
    noise = sampler.noise(4, 0, "paths")
    penalty = Penalty(theta_y, theta_z, upper["exact"], PenaltySettings(gamma=1e6))
    penalty.step(process, levels)

    def sample(a_sampler):
        with torch.inference_mode():
            return a_sampler(ema.model, noise, levels=levels)

    def save_and_load():
        theta_y.load_state_dict(deepcopy(theta_y.state_dict()))

    return {
        "training step": lambda: theta_y.step(process, levels),
        "training step with a pull": lambda: theta_z.step(process, levels, extra),
        "static training step": lambda: static.step(process, levels, extra),
        "averaging": lambda: ema.after_step(net, 1),
        "sampling, DDIM": lambda: sample(sampler),
        "sampling, static chain": lambda: sample(chained),
        "sampling, DDPM": lambda: sample(ancestral),
        "score of 8 images": lambda: judge.score(iter([to_unit(images[:8])]), 1),
        "dF/dtheta, zeroth-order": lambda: upper["zo"].slope_of_weights(net, 0),
        "dF/dq, zeroth-order": lambda: upper["zo"].slope_of_schedule(net, 0),
        "dF/dq, forward mode": lambda: upper["forward"].slope_of_schedule(net, 0),
        "dF/dq and dF/dtheta, exact": lambda: upper["exact"].slopes(net, 0, "z"),
        "difference of losses": lambda: loss_difference(process, net, twin, noise, 0, 0),
        "schedule step": lambda: q.step(gradient),
        "coupled step": lambda: penalty.step(process, levels),
        "save and load": save_and_load,
    }


def launches(base: int, batch: int) -> dict[str, int]:
    """Operators of a training step and of a DDIM step, at a size of its own."""
    net = make_network(base, 1000, DEVICE)
    images = torch.zeros(2 * batch, 1, 28, 28, dtype=torch.uint8).to(DEVICE)
    learner = Learner(net, make_optimizer(net.parameters(), 1e-3), Batches(images, batch, 0), 0)
    process = Diffusion(Schedule("cosine", 1000), device=DEVICE)
    counts = {}
    for _ in range(2):
        pretend_gpu.traffic.clear()
        learner.step(process)
        counts["training step"] = pretend_gpu.traffic.launches.total()
    net.eval()
    for steps in (2, 3):  # what is done once a sampling drops out of the difference
        sampler = Sampler(process, SamplerSettings(steps), (1, 28, 28))
        x = sampler.noise(2, 0, "launches")
        pretend_gpu.traffic.clear()
        with torch.inference_mode():
            sampler(net, x)
        counts[f"{steps} DDIM steps"] = pretend_gpu.traffic.launches.total()
    return counts


def table(found: dict) -> str:
    """The table of docs/cuda.md."""
    rows = [
        [name, sum(cost["waits"].values()), sum(cost["copies"].values()), cost["launches"]]
        for name, cost in found.items()
    ]
    return markdown(["path", "waits", "copies", "launches"], rows)


def main() -> None:
    with pretend_gpu.pretend() as traffic:
        found = {}
        for name, call in paths().items():
            call()
            traffic.clear()
            call()
            waits, copies = (
                {" at ".join(key): n for key, n in counter.items()}
                for counter in (traffic.waits, traffic.copies)
            )
            found[name] = {
                "waits": waits, "copies": copies, "launches": traffic.launches.total()
            }  # fmt: skip
        text = table(found)
        if "--page" in sys.argv:
            fill_file(PAGE, {"paths": text})
        else:
            found |= {"table": text, "launches": launches(64, 2)}
            print(json.dumps(found, indent=1), flush=True)
    os._exit(0)  # torch's threads know nothing of a backend in Python when they end


if __name__ == "__main__":
    main()
