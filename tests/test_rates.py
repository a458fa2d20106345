"""A resumed learner with another peak rate goes on at the same place of its schedule."""

import pytest
import torch
from harness import TwoLayers

from common.data import Batches
from common.flags import LR_SCHEDULES
from common.training import Learner, LRSchedule, make_optimizer
from model import Diffusion
from scheduler import Schedule


def learner(name, lr):
    torch.manual_seed(0)
    net = TwoLayers()
    batches = Batches(torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8), 16, 0)
    optimizer = make_optimizer(net.parameters(), lr)
    return Learner(net, optimizer, batches, 0, lr_schedule=LRSchedule(name, optimizer, 12))


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_every_later_rate_is_in_proportion(name):
    process, rates = Diffusion(Schedule("cosine", 20, end=0.9)), []
    first = learner(name, 0.01)
    for _ in range(5):
        first.step(process)
    for lr in (0.01, 0.002):
        again = learner(name, lr)
        again.load_state_dict(first.state_dict())
        rates.append([again.step(process) and again.lr for _ in range(6)])
    assert rates[1] == pytest.approx([rate / 5 for rate in rates[0]], rel=1e-9)
    assert len(set(rates[0])) > 1 or name in ("constant", "plateau")
