"""What dF/dtheta lacks where batch norm's statistics are numbers: they follow the weights.

Images are drawn with running means and variances, and a gradient through the sampler takes them as
constants. In training they follow the weights within a few steps, and F with them:

    dF/dtheta  =  dF/dtheta at fixed statistics  +  dF/dstatistics dstatistics/dtheta

Most of the first part changes the scale and shift of a channel before batch norm, which takes them
away again. AdamW steps along it all the same, and the implicit term of a coupled theta_z comes out
many times too large.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.weights import in_shapes
from unet import UNet

Pass = Callable[[Callable[..., Tensor]], object]  # a training pass of a given network


def has_batch_norm(net: nn.Module) -> bool:
    return any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def through_statistics(net: nn.Module, gradient: Tensor, passes: Iterable[Pass]) -> Tensor:
    """The whole dF/dtheta, (d,), from that at fixed statistics and some training passes."""
    parameters: dict[str, Tensor] = dict(net.named_parameters())
    parts = dict(zip(parameters, in_shapes(gradient, list(parameters.values())), strict=True))
    slopes = {
        name: of_statistics(m, parts[f"{name}.weight"], parts[f"{name}.bias"])
        for name, m in net.named_modules()
        if isinstance(m, nn.BatchNorm2d)
    }
    added = [pulled_back(net, parameters, slopes, run) for run in passes]
    return gradient + torch.stack(added).mean(0)


def of_statistics(norm: nn.BatchNorm2d, of_weight: Tensor, of_bias: Tensor) -> tuple:
    """dF/dmean and dF/dvariance of y = w (x - mean)/sqrt(variance + eps) + b, by those in w and b.

    Both are sums of dF/dy over the same places: no pass through the sampler has to keep them.
    """
    assert norm.running_var is not None
    weight, variance = norm.weight.detach(), norm.running_var + norm.eps
    return -weight * variance.rsqrt() * of_bias, -weight / (2 * variance) * of_weight


def pulled_back(
    net: nn.Module, parameters: dict[str, Tensor], slopes: dict[str, tuple], run: Pass
) -> Tensor:
    """dF/dstatistics dstatistics/dtheta for the statistics of one training pass, (d,)."""
    twin, total = plain(net), []

    def enter(name, _, inputs):
        of_mean, of_variance = slopes[name]
        total.append((of_mean * inputs[0].mean((0, 2, 3))).sum())
        total.append((of_variance * inputs[0].var((0, 2, 3))).sum())

    buffers = {name: b.clone() for name, b in net.named_buffers()}  # a pass moves them
    with watched(twin, enter), torch.enable_grad():
        run(lambda *inputs: functional_call(twin, (parameters, buffers), inputs))
        gradients = torch.autograd.grad(
            torch.stack(total).sum(), list(parameters.values()), materialize_grads=True
        )
    return torch.cat([g.flatten() for g in gradients])


def plain(net: nn.Module) -> nn.Module:
    """The network as it is drawn, without weights of its own: batch norms that can be watched."""
    sizes = getattr(net, "sizes", None)
    if sizes is None:
        return net
    with torch.device("meta"):
        return UNet(*sizes)


@contextmanager
def watched(net: nn.Module, enter: Callable):
    """Train mode, and `enter(name, norm, inputs)` before each batch norm."""
    mode = net.training
    norms = {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [m.register_forward_pre_hook(partial(enter, name)) for name, m in norms.items()]
    net.train()
    try:
        yield
    finally:
        net.train(mode)
        for hook in hooks:
            hook.remove()
