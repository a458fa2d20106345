"""The study's network and its training: stacked, resumed and sampled as one by one."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torch.optim import lr_scheduler

from benchmarks import lr_training
from benchmarks.lr_training import Plain
from common.errors import NotFinite
from common.training import LRSchedule
from model import Diffusion
from scheduler import Schedule
from studies.lr_schedules import judging, stack, study, together
from studies.lr_schedules.recipes import Recipe
from studies.lr_schedules.together import Together


def test_the_noise_schedule_is_linear_in_beta_and_unscaled():
    betas = Schedule("ddpm_unscaled", 100).betas().numpy()
    assert np.allclose(betas, np.linspace(1e-4, 0.02, 100), rtol=1e-10)


def test_the_networks_embeddings_are_sines_and_cosines():
    x, t = torch.tensor([[0.3, -1.2]], dtype=torch.float64), torch.tensor([7])
    seen = stack.embed(x, t)[0].numpy()
    frequencies = 10000.0 ** (-np.arange(64) / 63)
    values = (7, 0.3 * 25, -1.2 * 25)
    parts = [f(v * frequencies) for v in values for f in (np.sin, np.cos)]
    assert np.allclose(seen, np.concatenate(parts), atol=1e-12)


RECIPES = [
    Recipe("constant", "constant", {}),
    Recipe("step", "step", {"step_size": 4}),
    Recipe("exponential", "exponential", {}),
    Recipe("plateau", "plateau", {"plateau_patience": 0}),
    Recipe("cosine", "cosine", {}),
]


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_training_together_is_training_one_by_one(tiny, gain):
    """In float64: losses, weights and averages; a large gain makes every gradient be clipped."""
    process = Diffusion(Schedule("ddpm_unscaled", 100), dtype=torch.float64)
    net = together.first_net(0).double()
    for parameter in net.last.parameters():
        parameter.data *= gain
    group = Together(RECIPES, 0.01, 24, 6, net)
    plains = [Plain(recipe, 0.01, 24, 6, net) for recipe in RECIPES]
    data = {"d": torch.randn(50, 2, dtype=torch.float64)}
    clipped = 0
    for step in range(24):
        x0s, t, eps = together.batch(data, 16, 0, step)
        eps = eps.double()
        losses, norms = group.step(process, x0s["d"], t, eps)
        clipped += int((norms > together.MAX_NORM).sum())
        alone = [plain.step(process, x0s["d"], t, eps) for plain in plains]
        assert losses.tolist() == pytest.approx(alone, abs=1e-10, rel=1e-10)
    assert clipped > 0
    for i, plain in enumerate(plains):
        for ours, theirs in ((group.rows[i], plain.net), (group.ema.module.weights[i], plain.ema)):
            assert torch.allclose(ours, parameters_to_vector(theirs.parameters()), atol=1e-10)
        assert torch.equal(
            parameters_to_vector(group.net(i).parameters()), group.ema.module.weights[i]
        )
    rates = [plain.optimizer.param_groups[0]["lr"] for plain in plains]
    assert group.lrs() == rates and len(set(rates)) >= 4


def test_a_batch_may_be_larger_than_the_data():
    """Points are drawn with replacement; times and noise match the batch."""
    x0s, t, eps = together.batch({"d": torch.randn(5, 2)}, 16, 0, 0)
    assert x0s["d"].shape == eps.shape == (16, 2) and t.shape == (16,)


def test_the_written_out_gradient_is_the_true_one(tiny):
    nets = [stack.Net().double() for _ in range(3)]
    stacked = stack.Stack(nets)
    x, t = torch.randn(5, 2, dtype=torch.float64), torch.randint(1, 101, (5,))
    seen = stack.embed(x, t).expand(3, -1, -1)
    weights = stacked.weights.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: stack._Layers.apply(w, seen), weights)
    one_by_one = torch.stack([net(x, t) for net in nets], dim=1)
    assert torch.allclose(stacked(x, t), one_by_one, atol=1e-12)


def test_sampling_at_one_time_computes_what_a_time_for_each_point_does():
    net, x = stack.Net().double(), torch.randn(7, 2, dtype=torch.float64)
    expected = net(x, torch.full((7,), 42))
    torch.testing.assert_close(net(x, torch.tensor([42])), expected, rtol=1e-12, atol=1e-12)


def test_rows_are_clipped_as_clip_grad_norm_does():
    gradient = torch.randn(4, 30) * torch.tensor([[0.01], [1], [10], [1e-9]])
    expected = gradient.clone()
    for row in expected:
        parameter = torch.nn.Parameter(torch.zeros(30))
        parameter.grad = row
        torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    norms = stack.clip_rows_(gradient, 0.5)
    assert torch.allclose(gradient, expected, rtol=1e-6)
    assert norms[1] > 0.5 and gradient.norm(dim=1).max() <= 0.5


def rates(name, optimizer_steps, epoch_losses, **options):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    lr_schedule, seen = LRSchedule(name, optimizer, optimizer_steps, **options), []
    for step in range(optimizer_steps):
        optimizer.step()
        lr_schedule.after_step()
        if (step + 1) % 4 == 0:
            lr_schedule.after_epoch(epoch_losses[step // 4])
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_the_options_of_the_lr_schedules_are_torchs():
    losses = [1.0, 2.0, 2.0, 2.0, 2.0]
    steps = np.arange(1, 21)
    assert rates("step", 20, losses, step_size=5, step_decay=0.5) == pytest.approx(
        0.1 * 0.5 ** (steps // 5)
    )
    assert rates("step", 20, losses) == pytest.approx(0.1 * 0.1 ** (steps // 6))
    assert rates("exponential", 20, losses, exponential_end=0.25) == pytest.approx(
        0.1 * 0.25 ** (steps / 20)
    )
    assert rates("cosine", 20, losses) == pytest.approx(0.05 * (1 + np.cos(np.pi * steps / 20)))
    assert rates("constant", 20, losses) == [0.1] * 20

    def cosine(start, end, part):
        return end + (start - end) / 2 * (1 + np.cos(np.pi * part))

    # 21 states, the first before any step: up to the highest within a quarter of them, then down
    up, down = cosine(0.004, 0.1, steps / 4.25), cosine(0.1, 4e-7, (steps - 4.25) / 15.75)
    assert rates("onecycle", 20, losses) == pytest.approx(np.where(steps < 4.25, up, down))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs, expected = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=1), []
    for loss in losses:
        expected += [optimizer.param_groups[0]["lr"]] * 3
        optimizer.step()
        theirs.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    found = rates("plateau", 20, losses, plateau_decay=0.3, plateau_patience=1)
    assert found == expected and min(found) < 0.1


def test_sampling_reaches_the_law_of_gaussian_data():
    """An exact denoiser of N(0, 4), started from its own law at time T, ends in N(0, 4)."""
    process = Diffusion(Schedule("ddpm_unscaled", 100))
    levels = process.levels()

    def exact(x, t):
        variance = 4 * levels.signal[t] ** 2 + levels.noise[t] ** 2
        return levels.noise[t] * x / variance

    spread = (4 * levels.signal[-1] ** 2 + levels.noise[-1] ** 2).sqrt()
    drawn = judging.sample(process, exact, spread * torch.randn(4000, 2), seed=0)
    assert drawn.std() == pytest.approx(2.0, rel=0.03)


def test_the_benchmark_counts_the_products():
    """Of the layers' shapes: a product of (B,i) and (i,o) is 2Bio, three a layer, two the first."""
    shapes = [(384, 256), (256, 256), (256, 256), (256, 256), (256, 2)]
    expected = sum(2 * 256 * i * o * (2 if n == 0 else 3) for n, (i, o) in enumerate(shapes))
    assert lr_training.flops() == expected


def test_a_loss_or_a_gradient_that_is_not_finite_is_named_with_its_place():
    fine, spoiled = torch.ones(3), torch.tensor([1.0, torch.nan, 1.0])
    assert study.checked(fine, fine, "step 1") == [1.0] * 3
    with pytest.raises(NotFinite, match="the loss is nan at step 1"):
        study.checked(spoiled, fine, "step 1")
    with pytest.raises(NotFinite, match="the gradient's norm is inf at step 1"):
        study.checked(fine, fine / torch.tensor([1.0, 0.0, 1.0]), "step 1")
