"""The time that a plan promises: units, rates and the line under every plan."""

import pytest
import torch
from harness import Script
from torch import nn

from common.estimate import Rates, duration, measure, operations_of_pass, text
from unet import UNet

CPU = torch.device("cpu")


def test_seconds_are_those_of_the_purposes():
    rates = Rates(training=3.0, sampling=0.5)
    assert rates.seconds({"training": 10, "upper": 4, "sampling": 6}) == 35
    assert rates.seconds({"upper": 4}) == 2 and rates.passes == 1.0


@pytest.mark.parametrize(("seconds", "said"), [
    (1, "1 seconds"), (119, "119 seconds"), (120, "2.0 minutes"), (7199, "120.0 minutes"),
    (7200, "2.0 hours"), (86400 * 3, "3.0 days"),
])  # fmt: skip
def test_a_duration_has_the_largest_unit_that_fits_twice(seconds, said):
    assert duration(seconds) == said


def test_a_training_step_costs_more_than_a_forward_pass():
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    rates = measure(images, 8, 10, 64, CPU, amp=False)
    assert rates.training > rates.sampling > 0


def test_a_huge_batch_of_a_wide_network_is_timed_on_a_part_of_it():
    images = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    assert measure(images, 64, 10, 10**9, CPU, amp=False).training > 0


def test_operations_are_twice_the_products_of_all_layers():
    products = 0

    def add(layer, inputs, output):
        nonlocal products
        if isinstance(layer, nn.ConvTranspose2d):
            products += inputs[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            products += output.numel() * layer.weight[0].numel()

    net = UNet(8, timesteps=10).eval()
    for layer in net.modules():
        layer.register_forward_hook(add)
    net(torch.zeros(1, 1, 16, 16), torch.ones(1, dtype=torch.long))
    images = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)
    assert operations_of_pass(images, 8, 10) == 2 * products > 1e6


def test_the_line_names_the_device_and_says_that_it_was_timed():
    line = text({"training": 100}, Rates(60.0, 1.0), CPU)
    assert line.startswith("about 100.0 minutes on ") and "CPU thread" in line
    assert "timed now" in line
    assert "on cuda:1," in text({"training": 100}, Rates(60.0, 1.0), torch.device("cuda:1"))


@pytest.mark.parametrize("kind", ["train", "bilevel", "search"])
def test_every_script_ends_its_plan_with_a_time(tmp_path, kind):
    script = Script(tmp_path, kind)
    flags = ["--cpu", "--dataset", "digits", "--model_base_dim", 4, "--threads", 1]
    assert script.run(*flags, "--dry_run") == 0
    assert script.last_line().startswith("about ") and not (tmp_path / "runs").exists()
