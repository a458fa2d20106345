"""The gradient in the weights with batch norm's statistics following, against differences."""

import pytest
import torch
from harness import TwoLayers
from toys import F64

from common.batch_norm import has_batch_norm, through_statistics
from common.fast_unet import FastUNet
from common.weights import evaluating, flat, set_weights
from unet import UNet


def settled(net, inputs):
    """The running statistics become those of one training pass."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    net.train()
    for norm in norms:
        norm.running_mean.zero_()
        norm.momentum = 1 - 1e-9  # FastUNet divides by what is left
    with torch.no_grad():
        net(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net


@pytest.mark.parametrize("network", [UNet, FastUNet, TwoLayers])
def test_the_statistics_follow_the_weights(network):
    """F at the weights and the statistics that training with these weights settles at."""
    net = network(4, timesteps=20).double()
    inputs = torch.randn(16, 1, 8, 8, dtype=F64), torch.randint(1, 21, (16,))
    x, target = torch.randn(2, 5, 1, 8, 8, dtype=F64)
    t = torch.tensor([3])

    def value():
        with evaluating(net):
            return (net(x, t) - target).square().mean()

    with torch.no_grad():  # no scale that is 1, no shift that is 0
        weights = flat(net) + 0.1 * torch.randn_like(flat(net))
    set_weights(net, weights)
    settled(net, inputs)
    gradient = torch.autograd.grad(value(), list(net.parameters()), materialize_grads=True)
    fixed = torch.cat([g.flatten() for g in gradient])
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    whole = through_statistics(net, fixed, [lambda twin: twin(*inputs)])
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers())
    assert torch.equal(flat(net), weights)

    z, h = torch.randn_like(weights), 1e-6
    sides = []
    with torch.no_grad():
        for sign in (1, -1):
            set_weights(net, weights + sign * h * z)
            settled(net, inputs)
            sides.append(value().item())
    expected = (sides[0] - sides[1]) / (2 * h)
    assert (whole @ z).item() == pytest.approx(expected, rel=1e-5)
    assert (fixed @ z).item() != pytest.approx(expected, rel=0.01)


def test_a_network_without_batch_norm_is_known():
    assert has_batch_norm(FastUNet(4)) and not has_batch_norm(torch.nn.Linear(2, 2))
