"""A network with more channels computes the same, and can learn to compute something else."""

import pytest
import torch

from assets import widen
from common import checkpoint
from common.errors import Stop
from common.networks import load_network, make_network
from unet import UNet

SHIPPED = "assets/mnist.pt"


def settled(base: int) -> UNet:
    """A network whose batch norms have seen data, so that nothing in it is 0 or 1 by chance."""
    torch.manual_seed(base)
    net = UNet(base, timesteps=5).double()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 1, 8, 8).double(), torch.randint(1, 6, (16,)))
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize("sizes", [(8, 12), (8, 20), (12, 16), (4, 32)])
@pytest.mark.parametrize("mode", [True, False])
def test_the_wide_network_computes_the_same(sizes, mode):
    old, new = settled(sizes[0]), UNet(sizes[1], timesteps=5).double()
    widen.widen(old, new)
    x, t = torch.randn(6, 1, 8, 8).double(), torch.tensor([1, 2, 3, 4, 5, 5])
    before, after = old.train(mode)(x, t), new.train(mode)(x, t)
    assert before.std() > 1e-3
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


def test_what_is_new_can_learn():
    """Nothing reads the new channels yet, but every weight that could has a slope."""
    old, new = settled(8), UNet(12, timesteps=5).double()
    widen.widen(old, new)
    x, t = torch.randn(6, 1, 8, 8).double(), torch.tensor([1, 2, 3, 4, 5, 5])
    new(x, t).square().sum().backward()
    unread = new.last.weight == 0
    assert unread.sum() == 2  # 6 channels instead of 4
    assert (new.last.weight.grad[unread] != 0).all()
    assert all((new.get_parameter(name) != 0).any() for name, _ in new.named_parameters())


def test_its_checkpoint_is_one_to_go_on_from(tmp_path):
    """Through the command, into the network that training on a CPU uses."""
    path = str(tmp_path / "wide.pt")
    widen.main(widen.make_parser().parse_args(["--base", "40", "--out", path, "--seed", "3"]))
    old, state = load_network(SHIPPED, "cpu")
    new = make_network(40, 200, "cpu", ckpt=path).eval()
    x, t = torch.randn(4, 1, 28, 28), torch.tensor([1, 60, 140, 200])
    with torch.no_grad():
        torch.testing.assert_close(new(x, t), old(x, t), rtol=0, atol=1e-4)
    written = checkpoint.load(path)
    assert written["args"] == state["args"] | {"model_base_dim": 40}


@pytest.mark.parametrize("base", ["32", "28", "50"])
def test_a_width_that_does_not_fit_is_refused(base, tmp_path):
    args = ["--base", base, "--out", str(tmp_path / "wide.pt")]
    with pytest.raises(Stop, match=f"--base {base}: not a multiple of 4 above 32"):
        widen.main(widen.make_parser().parse_args(args))
    assert not list(tmp_path.iterdir())
