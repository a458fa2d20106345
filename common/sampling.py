"""Sampling: the sampler of a run, many images in chunks, the sampler of a checkpoint."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common import checkpoint, portable, processes
from common.errors import Stop
from common.fast_layers import frozen
from common.flags import CHUNK
from common.graphs import StaticChains, can_record
from common.locate import ROOT, find_trained
from common.machine import progress_bar, setup, stream
from common.networks import load_network, network_in
from model import Diffusion
from scheduler import Schedule

EVAL_SEED = 0  # every run is judged on images from the same noise
PICTURE = "picture", 0  # the purpose and the block of the images that are looked at
# what a later evaluation may change
SAMPLED_BY = "backward_steps", "eta", "eps_scale", "no_clip", "sampling_schedule", "told"
BLOCK = 500  # images whose starting noise is drawn at once, whatever is sampled at once


@dataclass(frozen=True)
class SamplerSettings:
    """How images are drawn: steps, their spacing, the noise each adds (eta), clipping of x_0.

    The predicted noise is multiplied by `eps_scale`.
    """

    steps: int
    tau_type: str = "linear"
    eta: float = 0.0
    clip: bool = True
    amp: bool = False
    chunk: int = CHUNK  # images sampled at once when many are wanted
    graphs: bool = False  # record a DDIM chain and replay it, where the device can
    eps_scale: float = 1.0

    @classmethod
    def from_flags(
        cls, *, timesteps, backward_steps, sampler, tau_type, no_clip, amp, eta=0.0,
        eval_chunk=CHUNK, compile="off", eps_scale=1.0, **_,
    ) -> "SamplerSettings":  # fmt: skip
        """From the flags of a script, or the stored arguments of a run: `**vars(args)`."""
        steps = backward_steps
        if sampler == "ddpm":
            steps, eta = timesteps, 1.0
        graphs = compile == "graphs"
        return cls(steps, tau_type, eta, not no_clip, amp, eval_chunk, graphs, eps_scale)


class Sampler:
    """Draws images of one shape with one diffusion process and one set of settings."""

    def __init__(self, process: Diffusion, settings: SamplerSettings, shape):
        self.process, self.settings, self.shape = process, settings, tuple(shape)
        self.device = torch.device(process.device)
        # not where a step draws noise
        recorded = settings.graphs and not settings.eta and can_record(self.device)
        self.chains = StaticChains() if recorded else None

    @property
    def steps(self) -> int:
        return self.settings.steps

    def noise(self, n: int, seed: int, *names, device: str | None = None) -> Tensor:
        """The starting noise of one purpose, (n, C, H, W), drawn on a device and moved to ours."""
        drawn_on = torch.device(device or self.device)
        generator = stream(drawn_on, seed, *names)
        x = torch.randn(n, *self.shape, generator=generator, device=drawn_on)
        return x.to(self.device)

    def step_noise(self, n: int, *names, rows: slice = slice(None)) -> Callable[[Tensor], Tensor]:
        """What draws the noise that steps add to n images, or to some rows of them.

        It is drawn for all n, so that the chunk makes no difference, and where it is added: a copy
        from the CPU in each step would hold up a GPU.
        """
        if not self.settings.eta:  # no step asks for any
            return torch.randn_like
        generator = stream(self.device, EVAL_SEED, *names, "steps")
        shape = n, *self.shape
        return lambda x: torch.randn(shape, generator=generator, device=self.device)[rows].to(x)

    def __call__(
        self, net: nn.Module, x: Tensor, fresh: Callable[[Tensor], Tensor] | None = None, **options
    ) -> Tensor:
        """Images in [-1, 1] from starting noise x; `fresh` draws the noise that steps add."""
        s = self.settings
        if self.chains and set(options) <= {"levels"}:  # with no look at what is between the steps
            visits = self.process.visits(s.steps, s.tau_type, device=x.device, **options)
            return self.chains(self.process, net, x, visits, s.clip, s.amp, s.eps_scale)
        fresh, how = fresh or self.step_noise(len(x), *PICTURE), (s.tau_type, s.eta, s.clip)
        options["eps_scale"] = s.eps_scale
        with torch.autocast(self.device.type, torch.bfloat16, enabled=s.amp), frozen(net):
            return self.process.sample(net, x, s.steps, *how, fresh, **options)

    def all_of(self, net: nn.Module, n: int, purpose: str) -> Tensor:
        """Images of `many` as one tensor: its chunks may share their memory."""
        return torch.cat([x.clone() for x in self.many(net, n, purpose)])

    def many(
        self, net: nn.Module, n: int, purpose: str, poll: Callable[[], None] | None = None
    ) -> Iterator[Tensor]:
        """n images in chunks, with a progress bar; `poll` is called after each step.

        After all of them, where a chain is replayed whole.
        """

        def on_step(_):
            bar.update(processes.size())
            if poll:
                poll()

        def chunks():
            for i, size in enumerate(sizes):
                # on the CPU: what a GPU draws depends on its model, and all runs get the same noise
                noise = self.noise(size, EVAL_SEED, purpose, i, device="cpu")
                for start in range(0, size, chunk := self.settings.chunk):
                    rows = slice(start, start + chunk)
                    yield noise[rows], self.step_noise(size, purpose, i, rows=rows)

        def draw(chunk):
            with torch.inference_mode():  # not around the yield: it would leak out of here
                images = self(net, *chunk, **options)
            for _ in range(self.steps if self.chains else 0):
                on_step(images)
            return images

        processes.agree(net, self.process.schedule, self.process.sampling_schedule)
        options = {} if self.chains else {"on_step": on_step}
        sizes = [min(BLOCK, n - start) for start in range(0, n, BLOCK)]
        count = sum(math.ceil(size / self.settings.chunk) for size in sizes)
        with progress_bar(total=count * self.steps, desc=f"{n} images", unit="step") as bar:
            yield from processes.in_turn(chunks(), draw, self.device)

    def film(
        self, net: nn.Module, n: int, frames: int = 24, poll: Callable[[], None] | None = None
    ) -> list[Tensor]:
        """The way of n images from noise to data: evenly spaced steps, the end last.

        `poll` is called after each step.
        """
        noise, scale = self.noise(n, EVAL_SEED, *PICTURE, device="cpu"), self.process.b
        seen = [noise / scale]

        def on_step(x):
            seen.append(x.float() / scale)
            if poll:
                poll()

        with torch.inference_mode():
            self(net, noise, on_step=on_step)
        return seen[:: -max(1, self.steps // frames)][::-1]


def process_from_flags(
    schedule: Schedule, device: torch.device | str, /, *, input_scale, no_normalise,
    sampling_schedule=None, told=None, time_condition="index", **_,
) -> Diffusion:  # fmt: skip
    """The diffusion of a training schedule and a script's flags, or a run's stored arguments."""
    other = other_schedule(sampling_schedule, schedule.timesteps)
    reference = Schedule("cosine", schedule.timesteps) if time_condition == "log_snr" else None
    return Diffusion(
        schedule, input_scale, not no_normalise, other, device,
        told=told or "nearest", reference=reference,
    )  # fmt: skip


def process_of(state: dict, device: torch.device | str) -> Diffusion:
    """The diffusion that a checkpoint was trained with, its schedule as it was then."""
    return process_from_flags(Schedule.from_dict(state["schedule"]), device, **state["args"])


def other_schedule(given: str | dict | None, timesteps: int) -> Schedule | None:
    """What --sampling_schedule means: a family with its defaults, or the content of a file."""
    if not given:
        return None
    if isinstance(given, dict):
        return Schedule.from_dict(given)
    return Schedule(given, timesteps)


def load_sampler(
    path, device: torch.device | str, settings: SamplerSettings | None = None, **changes
) -> tuple[nn.Module, Sampler]:
    """The network in a checkpoint and its sampler, set as asked or as in its own run.

    `changes` replace arguments of its run.
    """
    net, state = load_network(path, device)
    state["args"] = {**state["args"], **changes}
    settings = settings or SamplerSettings.from_flags(**state["args"])
    return net, Sampler(process_of(state, device), settings, state["shape"])


def path_of(run: str | Path) -> Path:
    """A run's folder or number, or a path: in the current folder, else beside this code.

    Of a finished search it is the folder of its best trial.
    """
    for path in (Path(run), ROOT / run):
        if path.exists() and not (path / "args.json").exists():
            return path
    for name in (str(run), str(ROOT / run)):
        with suppress(ValueError):
            return find_trained(name)
    return Path(run)


def load_any(run: str | Path, device: torch.device | str) -> tuple[nn.Module, dict]:
    """The network of a run, a checkpoint or an exported folder, and what belongs to it."""
    path = path_of(run)
    if path.is_file():
        return load_network(str(path), device)
    if (path / portable.CONFIG).is_file():
        return portable.read_network(path, device)
    loaded = checkpoint.load_newest(path / "checkpoints") if path.is_dir() else None
    if not loaded:
        raise Stop(f"{run}: neither a run with a checkpoint, a checkpoint nor an exported folder")
    return network_in(loaded[0], device, str(loaded[1])), loaded[0]


def sample(
    run: str | Path,
    n: int,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    eta: float | None = None,
    eps_scale: float | None = None,
) -> Tensor:
    """n images in [-1, 1], (n,C,H,W), drawn as the run draws its own; another seed, other images.

    `run` is a run's folder or number, a checkpoint or an exported folder; `steps`, `eta` and
    `eps_scale` are the run's unless given.
    """
    if eta is not None and not 0 <= eta <= 1:
        raise ValueError(f"eta {eta} is not from 0 to 1")
    if eps_scale is not None and not 0 <= eps_scale <= 2:
        raise ValueError(f"eps_scale {eps_scale} is not from 0 to 2")
    home = setup(device)
    net, state = load_any(run, home)
    settings, process = SamplerSettings.from_flags(**state["args"]), process_of(state, home)
    if steps and steps > (most := process.sampling_schedule.timesteps):
        raise ValueError(f"steps {steps} exceeds the run's T = {most}")
    amp = settings.amp and home.type != "cpu"  # most CPUs emulate bfloat16: slower than float32
    eta = settings.eta if eta is None else eta
    scale = settings.eps_scale if eps_scale is None else eps_scale
    steps = steps or settings.steps
    settings = replace(settings, steps=steps, eta=eta, eps_scale=scale, amp=amp)
    sampler = Sampler(process, settings, state["shape"])
    return sampler.all_of(net, n, f"sample {seed}").cpu()
