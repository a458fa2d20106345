"""What benchmarks/gpu.py varies on a card, and the measurement of one setting."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from unittest import mock

import torch
from torch import nn

from benchmarks.timing import seconds, summary
from common import graphs
from common.data import Batches
from common.networks import compiled
from common.sampling import Sampler, SamplerSettings
from common.training import Learner, LRSchedule, make_optimizer
from model import Diffusion
from scheduler import Schedule
from unet import UNet


@dataclass(frozen=True)
class Setting:
    """One way to run; the first three are flags of the scripts, the last two are not."""

    amp: bool = False
    tf32: bool = False
    compile: str = "off"
    channels_last: bool = False
    cudnn_benchmark: bool = False

    @property
    def flags(self) -> str:
        """As a script takes them."""
        flags = ["--amp"] * self.amp + ["--tf32"] * self.tf32
        return " ".join(flags + [f"--compile {self.compile}"] * (self.compile != "off"))

    @property
    def name(self) -> str:
        extra = ["channels last"] * self.channels_last + ["cudnn.benchmark"] * self.cudnn_benchmark
        return ", ".join([self.flags or "no flag", *extra])


FLOAT32, BFLOAT16 = Setting(), Setting(amp=True)
# what matters most first: the time may run out. Neighbours share what the compiler has made
SETTINGS = [
    FLOAT32,
    Setting(channels_last=True),
    Setting(cudnn_benchmark=True),
    Setting(tf32=True),
    BFLOAT16,
    Setting(amp=True, channels_last=True),
    Setting(amp=True, cudnn_benchmark=True),
    Setting(compile="fused"),
    Setting(compile="graphs"),
    Setting(amp=True, compile="fused"),
    Setting(amp=True, compile="graphs"),
    Setting(tf32=True, compile="graphs"),
    FLOAT32,  # again: how far the card itself has drifted
]


@dataclass(frozen=True)
class Workload:
    """What is measured: by default a training step and a sampling of the published run."""

    base: int = 64
    batch_size: int = 128
    images: int = 36
    ddim_steps: int = 100
    timesteps: int = 1000
    side: int = 28
    block: int = 20  # training steps that are timed together
    repeats: int = 5


REHEARSAL = Workload(4, 4, 2, 2, timesteps=20, side=8, block=2, repeats=2)


@contextmanager
def switches(setting: Setting) -> Iterator[None]:
    """torch's own switches; afterwards they are what they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = setting.tf32
        cudnn.benchmark = setting.cudnn_benchmark
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@contextmanager
def rehearsed() -> Iterator[None]:
    """On the CPU: static steps and chains are called, and the compiler only traces."""
    real = compiled

    def traced(net: nn.Module, how: str) -> nn.Module:
        return real(net, how, mode=None, backend="eager")

    with (
        mock.patch.object(graphs, "recorder", lambda _: graphs.run_eagerly),
        mock.patch(f"{__name__}.compiled", traced),
    ):
        yield


class Bench:
    """The measurements on one device; networks that are compiled are kept for the next setting."""

    def __init__(self, device: torch.device, workload: Workload):
        self.device, self.workload = device, workload
        shape = (1, workload.side, workload.side)
        random = torch.Generator().manual_seed(0)
        count = 10 * workload.batch_size
        pixels = torch.randint(0, 255, (count, *shape), dtype=torch.uint8, generator=random)
        self.pixels, self.shape = pixels.to(device), shape
        self.process = Diffusion(Schedule("cosine", workload.timesteps), device=device)
        self.nets: dict[tuple, nn.Module] = {}

    def network(self, setting: Setting) -> nn.Module:
        """The network of a GPU, with the same first weights for every setting."""
        key = setting.amp, setting.tf32
        torch.manual_seed(0)
        fresh = UNet(self.workload.base, timesteps=self.workload.timesteps).to(self.device)
        if setting.compile == "off":
            layout = torch.channels_last if setting.channels_last else torch.contiguous_format
            return fresh.to(memory_format=layout)
        if key not in self.nets:
            self.nets = {key: compiled(fresh, setting.compile)}
        self.nets[key].load_state_dict(fresh.state_dict())
        return self.nets[key]

    def measure(self, setting: Setting) -> dict:
        """A row: seconds of a training step and of a sampling, the peak of memory, the loss."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        with switches(setting):
            step, sample = self.calls(setting)
            row = {"setting": setting.name, "flags": setting.flags, **asdict(setting)}
            row["first_step"] = seconds(step, self.device)  # compilation and recording included
            loss = [step() for _ in range(self.workload.block)][-1]
            row["training_step"] = self.timed(self.block(step), self.workload.block)
            row["first_sampling"] = seconds(sample, self.device)
            row["sampling"] = self.timed(sample, 1)
        row["loss"] = loss
        cuda = self.device.type == "cuda"
        row["peak_bytes"] = torch.cuda.max_memory_allocated(self.device) if cuda else None
        return row

    def calls(self, setting: Setting) -> tuple[Callable[[], float], Callable[[], object]]:
        """A training step and a sampling, as the scripts take them."""
        load, net, recorded = self.workload, self.network(setting), setting.compile == "graphs"
        optimizer = make_optimizer(net.parameters(), 1e-3)
        rate = LRSchedule("onecycle", optimizer, 10**4)
        batches = Batches(self.pixels, load.batch_size, 0)
        learner = Learner(net, optimizer, batches, 0, "step", rate, setting.amp, recorded)
        settings = SamplerSettings(load.ddim_steps, amp=setting.amp, graphs=recorded)
        sampler = Sampler(self.process, settings, self.shape)
        noise = sampler.noise(load.images, 0, "gpu", device="cpu")

        def sample():
            net.eval()
            with torch.inference_mode():
                return sampler(net, noise)

        return lambda: learner.step(self.process), sample

    def block(self, step: Callable[[], object]) -> Callable[[], None]:
        def steps():
            for _ in range(self.workload.block):
                step()

        return steps

    def timed(self, call: Callable[[], object], parts: int) -> dict[str, float]:
        """Median, least and most seconds of a part."""
        times = [seconds(call, self.device) / parts for _ in range(self.workload.repeats)]
        return summary(times)
