"""CUDA graphs: a training step's passes and a whole DDIM chain are recorded once, then replayed.

A replay launches every kernel at once. It reads and writes the memory of the recording, so what
changes from call to call is copied into fixed buffers, and what is read between kernels stays on
the device. The optimizer's step is not in the graph: OneCycle moves AdamW's first beta as well as
the rate, and the fused kernel takes a beta as a number of the host, which a recording would keep
for ever. It is launched while the graph still runs, and `found_inf` keeps it from a gradient that
is not finite. No GPU has run `record_cuda` yet; everything else runs on the CPU, tests included.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.fast_layers import frozen
from model import Diffusion, Levels, Visits

CHAINS = 8  # recorded chains that a sampler keeps, each with the memory of one


def recorder(device: torch.device) -> Callable | None:
    """What records on a device; None where nothing can."""
    return record_cuda if device.type == "cuda" else None


def can_record(device: torch.device) -> bool:
    return recorder(device) is not None


def without_graphs(compile_mode: str, device: torch.device) -> str | None:
    """The line for a user who asked for graphs where there are none."""
    if compile_mode != "graphs" or can_record(device):
        return None
    return f"--compile graphs: no CUDA graphs on {device}, so this run is compiled as with fused"


def record_cuda(run: Callable[[], Any], warm_up: int) -> Callable[[], Any]:
    """Record what `run` launches; the result replays it and returns the recording's outputs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up, the compiler compiles
        for _ in range(warm_up):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        outputs = run()

    def replay():
        graph.replay()
        return outputs

    return replay


def run_eagerly(run: Callable[[], Any], warm_up: int) -> Callable[[], Any]:
    """In place of a recording, where there is none: each replay is an ordinary call."""
    return run


@contextmanager
def restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """What is done inside leaves these tensors as they were, in their own memory."""
    tensors = list(tensors)
    saved = [x.clone() for x in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for x, before in zip(tensors, saved, strict=True):
                x.copy_(before)


class Static:
    """A function of tensors that reads its inputs from fixed buffers.

    Warm-up and recording leave `kept` as it was: batch norm's statistics move at every pass. The
    outputs are overwritten by the next call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        kept: Iterable[Tensor] = (),
        warm_up: int = 3,
    ):
        self.buffers = [x.detach().clone() for x in inputs]
        record = recorder(inputs[0].device) or run_eagerly
        with restored(kept):
            self.replay = record(partial(function, *self.buffers), warm_up)

    def __call__(self, *inputs: Tensor) -> Any:
        with torch.no_grad():
            for buffer, x in zip(self.buffers, inputs, strict=True):
                buffer.copy_(x)
        return self.replay()


class StaticStep:
    """The passes of one network's training step: the loss, its gradients and their norm.

    `gradients(process, net, x0, t, eps, amp, levels, extra, weights)` fills the gradients and
    returns the loss, their norm and what else there is as a tensor; a call here does the same.
    """

    def __init__(self, gradients: Callable[..., Tensor]):
        self.gradients = gradients
        self.recorded: dict[tuple, Static] = {}

    def __call__(
        self,
        process: Diffusion,
        net: nn.Module,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        amp: bool,
        levels: Levels | None,
        extra: Tensor | None,
        weights: Tensor | None = None,
    ) -> Tensor:
        inputs = [x0, t, eps, *(levels or process.levels())]
        optional = {"extra": extra, "weights": weights}
        given = {name: value for name, value in optional.items() if value is not None}
        inputs += given.values()
        parameters = list(net.parameters())

        def compute(x0, t, eps, signal, noise, scale, *rest):
            levels, either = Levels(signal, noise, scale), dict.fromkeys(optional)
            either |= zip(given, rest, strict=True)
            numbers = self.gradients(process, net, x0, t, eps, amp, levels, **either)
            return numbers, [p.grad for p in parameters]

        net.train()
        key = net, amp, *given, *(x.shape for x in inputs)
        if key not in self.recorded:
            self.recorded[key] = Static(compute, inputs, net.buffers())
        numbers, gradients = self.recorded[key](*inputs)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient  # another recording, or zero_grad, may have put others there
        return numbers


def step_where_finite(optimizer: torch.optim.Optimizer, numbers: Tensor) -> None:
    """A step of a fused optimizer that changes nothing if one of the numbers is not finite."""
    fused: Any = optimizer  # torch reads the attribute that its GradScaler sets
    fused.found_inf = (~numbers.isfinite().all()).float()
    try:
        optimizer.step()
    finally:
        fused.found_inf = None


class StaticChains:
    """Whole DDIM chains of one process, recorded for each network, shape and setting."""

    def __init__(self) -> None:
        self.recorded: dict[tuple, Static] = {}

    def __call__(
        self,
        process: Diffusion,
        net: nn.Module,
        x: Tensor,
        visits: Visits,
        clip: bool = True,
        amp: bool = False,
        eps_scale: float = 1.0,
    ) -> Tensor:
        """process.sample with eta 0, from x; the weights are those of the time of the call."""
        times, inputs = visits.times, [x, visits.net_times, *visits.levels]

        def chain(x, net_times, *levels):
            fixed = Visits(times, net_times, Levels(*levels))
            with torch.autocast(x.device.type, torch.bfloat16, enabled=amp), frozen(net):
                how = {"clip": clip, "eps_scale": eps_scale}
                return process.sample(net, x, len(times), visits=fixed, **how)

        # one kind of tensor for all callers: no buffer of inference mode may change outside of it
        with torch.inference_mode(False), torch.no_grad():
            key = net, net.training, clip, amp, eps_scale, *times, *(part.shape for part in inputs)
            if key not in self.recorded:
                if len(self.recorded) == CHAINS:
                    self.recorded.pop(next(iter(self.recorded)))  # the oldest
                self.recorded[key] = Static(chain, inputs, net.buffers(), warm_up=1)
            return self.recorded[key](*inputs).clone()
