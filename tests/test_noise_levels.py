"""The noise levels of training: weights in closed form, drawn times against their target."""

import signal

import pytest
import torch
from harness import Script, TwoLayers
from test_bilevel import TRAIN
from test_checkpoint import same
from test_runs import DieAtStep, result

from common import graphs
from common.data import Batches
from common.machine import stream
from common.noise_levels import FEWEST, POWER, UNIFORM, NoiseLevels
from common.training import Learner, draw, make_optimizer
from model import Diffusion
from scheduler import Schedule


@pytest.mark.parametrize("b", [1.0, 0.5])
def test_min_snr_weights_in_closed_form(b):
    """Linear: alpha_bar = 1 - t/T, so that SNR = b^2 (T - t)/t."""
    levels = NoiseLevels(Diffusion(Schedule("linear", 100), b), "min_snr")
    for t in (1, 10, 50, 90, 99):
        snr = b**2 * (100 - t) / t
        assert levels.weights[t].item() == pytest.approx(min(snr, 5) / snr, rel=1e-5)
    assert 0 < levels.weights[1] < 0.06 / b**2 and levels.weights[99] == 1


def test_the_weighted_loss_is_the_weighted_mean():
    """A step's gradient and loss against autograd on the formula itself."""
    process, net = Diffusion(Schedule("cosine", 20, end=0.9)), TwoLayers()
    batches = Batches(torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8), 8, 0)
    levels = NoiseLevels(process, "min_snr")
    learner = Learner(net, torch.optim.SGD(net.parameters(), 0.0), batches, 0, noise_levels=levels)
    loss = learner.step(process)
    got = [p.grad.clone() for p in net.parameters()]
    x0 = batches(0, 0)
    t, eps = draw(x0, 20, stream(x0.device, 0, "step", 0))
    signal_t, noise_t = (c[t][:, None, None, None] for c in process.levels()[:2])
    errors = (net(signal_t * x0 + noise_t * eps, t) - eps).square().mean((1, 2, 3))
    snr = (signal_t / noise_t).flatten() ** 2
    expected = (snr.clamp(max=5) / snr * errors).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(got, torch.autograd.grad(expected, list(net.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("timesteps", [7, 100, 1000])
def test_times_are_drawn_in_proportion_to_their_target(timesteps):
    """From given errors: the histogram of 200,000 times, every bin within 5 standard deviations."""
    levels = NoiseLevels(Diffusion(Schedule("cosine", timesteps)), sampling="adaptive")
    t = torch.arange(1, timesteps + 1).repeat(20)
    errors = 1.5 - t / timesteps
    for _ in range(3):
        levels.observe(t, errors)
    p = levels.probabilities()
    members = [(t >= a) & (t < a + w) for a, w in zip(levels.firsts, levels.width, strict=True)]
    known = torch.stack([errors[m].mean() for m in members]) * levels.length
    target = (1 - UNIFORM) * known**POWER / (
        known**POWER
    ).sum() + UNIFORM * levels.width / timesteps
    torch.testing.assert_close(p, target, rtol=1e-4, atol=1e-6)
    assert p.max() > 1.5 * p.min() and p.sum().item() == pytest.approx(1, rel=1e-5)
    n = 200_000
    drawn = levels.draw(n, torch.Generator().manual_seed(1))
    assert drawn.min() == 1 and drawn.max() == timesteps
    counts = torch.bincount(drawn, minlength=timesteps + 1)[1:]
    each = torch.repeat_interleave(p / levels.width, levels.width)  # of a single time
    assert ((counts - n * each).abs() < 5 * (n * each).sqrt()).all()


def test_the_lengths_add_up_to_the_range_of_log_snr():
    schedule = Schedule("cosine", 90, end=0.97)
    length = NoiseLevels(Diffusion(schedule), sampling="adaptive").length
    ab = schedule.alpha_bar()[[1, -1]]
    ends = (ab / (1 - ab)).log()
    assert length.sum().item() == pytest.approx((ends[0] - ends[1]).item(), rel=1e-5)
    assert (length > 0).all()


def test_times_stay_uniform_until_every_error_is_known():
    levels = NoiseLevels(Diffusion(Schedule("cosine", 100)), sampling="adaptive")
    uniform = levels.width / 100
    assert torch.equal(levels.probabilities(), uniform)
    t = torch.arange(2, 101).repeat(int(FEWEST) + 5)
    levels.observe(t[t >= 10], torch.ones(len(t[t >= 10])))
    assert torch.equal(levels.probabilities(), uniform)
    levels.observe(torch.arange(1, 101).repeat(12), torch.rand(1200))
    assert not torch.equal(levels.probabilities(), uniform)
    for _ in range(500):  # small batches, which leave few recent images in a bin
        levels.observe(torch.tensor([50, 51]), torch.ones(2))
    assert levels.sums[1].min() < FEWEST
    assert not torch.equal(levels.probabilities(), uniform)
    again = NoiseLevels(Diffusion(Schedule("cosine", 100)), sampling="adaptive")
    again.load_state_dict(levels.state_dict())
    assert torch.equal(again.probabilities(), levels.probabilities())
    again.load_state_dict({"sums": levels.sums})  # of an older checkpoint
    assert torch.equal(again.probabilities(), uniform)


def test_old_errors_are_forgotten():
    levels = NoiseLevels(Diffusion(Schedule("cosine", 10)), sampling="adaptive")
    t = torch.arange(1, 11).repeat(5)
    for error in [9.0] * 5 + [1.0] * 600:
        levels.observe(t, torch.full((50,), error))
    errors, images = levels.sums
    torch.testing.assert_close(errors / images, torch.ones(10), rtol=0.05, atol=0)


def test_a_recorded_step_takes_the_same_weights(monkeypatch):
    monkeypatch.setattr(graphs, "recorder", lambda _: graphs.run_eagerly)
    process, ends = Diffusion(Schedule("cosine", 20, end=0.9)), []
    for recorded in (False, True):
        torch.manual_seed(0)
        net = TwoLayers()
        batches = Batches(torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8), 32, 0)
        levels = NoiseLevels(process, "min_snr", "adaptive")
        optimizer = make_optimizer(net.parameters(), 0.01)
        learner = Learner(net, optimizer, batches, 0, graphs=recorded, noise_levels=levels)
        losses = [learner.step(process) for _ in range(30)]
        ends.append((losses, learner.state_dict()))
    assert not torch.equal(levels.probabilities(), levels.width / 20)
    assert same(*ends)


NEW = ["--loss_weighting", "min_snr", "--time_sampling", "adaptive", "--limit_batches", 20]


def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    results = []
    for sabotage in (None, DieAtStep(31)):
        script = Script(tmp_path / str(bool(sabotage)))
        script.folder.mkdir()
        code = script.run(*TRAIN, *NEW, "--save_seconds", 0, sabotage=sabotage)
        assert code == (-signal.SIGKILL if sabotage else 0), script.said()
        if sabotage:
            assert script.run("--resume", "latest") == 0, script.said()
        results.append(result(script.only))
    assert same(*results)
    errors, images = results[0]["theta"]["noise_levels"]["sums"]
    assert images.min() > FEWEST and (errors > 0).all()  # so that times were not uniform


def test_the_default_has_no_noise_levels():
    flags = {"loss_weighting": "none", "time_sampling": "uniform"}
    assert NoiseLevels.from_flags(Diffusion(Schedule("cosine", 20)), **flags) is None
