"""The network told its time by log SNR: what that leaves as it is, and what it makes invariant."""

import json
import signal

import pytest
import torch
from harness import Script, TwoLayers
from test_bilevel import TINY, TRAIN
from test_checkpoint import same
from test_coupled import EXACT
from test_exact import central
from test_runs import DieAtStep, result
from toys import F64, small_upper

from common.fast_unet import FastUNet
from common.machine import stream
from common.training import draw
from common.uncoupled import loss_difference
from common.weights import flat, set_weights, weights_kept
from model import Diffusion, log_snr
from scheduler import Schedule, projected

BY_SNR = ["--time_condition", "log_snr"]


@pytest.mark.parametrize("b", [1.0, 0.5])
@pytest.mark.parametrize("timesteps", [20, 1000])
def test_at_the_reference_itself_every_time_is_told_as_it_is(timesteps, b):
    reference = Schedule("cosine", timesteps)
    process = Diffusion(Schedule("cosine", timesteps), b, reference=reference)
    times = torch.arange(1, timesteps + 1)
    assert torch.equal(
        process.nearest_time(type(process.levels())(*(c[1:] for c in process.levels()))), times
    )
    assert process.visits(timesteps).net_times.tolist() == times.tolist()


def test_the_time_told_is_the_nearest_in_log_snr():
    """By brute force over all times, for a schedule that is not the reference."""
    process = Diffusion(Schedule("cosine", 60, tau=2.3, end=0.9), reference=Schedule("cosine", 100))
    ours, theirs = (
        log_snr(s.log_alpha_bar().detach())[1:] for s in (process.schedule, process.reference)
    )
    expected = (ours[:, None] - theirs[None]).abs().argmin(1) + 1
    assert process.visits(60).net_times.tolist() == expected.tolist()
    assert len(expected.unique()) > 30


def test_runs_are_the_same_bits_at_the_reference(tmp_path):
    results = []
    for flags in ([], BY_SNR):
        script = Script(tmp_path / str(len(flags)))
        script.folder.mkdir()
        assert script.run(*TRAIN, *flags) == 0, script.said()
        results.append(result(script.only))
    assert same(*results)


def test_what_is_learned_and_drawn_depends_on_the_noise_levels_alone():
    """Two schedules that pass the same SNRs at other times: the same images, the same losses."""
    net = TwoLayers(timesteps=40).double().eval()
    schedule = Schedule("cosine", 40, start=0.1, end=0.9, tau=1.5)
    twice = schedule.as_knots(5)  # at t = 8, 16, ..., 40 of T = 40
    other = Schedule("knots", 10, **twice.values())  # at t = 2, 4, ..., 10 of T = 10
    x, eps = torch.randn(2, 5, 1, 8, 8, dtype=F64)
    for reference in (Schedule("cosine", 40), None):
        one, two = (Diffusion(s, dtype=F64, reference=reference) for s in (twice, other))
        with torch.no_grad():
            images = [process.sample(net, x, 5) for process in (one, two)]
            t = torch.arange(1, 6)
            losses = [one.loss(net, x, 8 * t, eps), two.loss(net, x, 2 * t, eps)]
        close = [torch.allclose(*pair, rtol=1e-9, atol=1e-9) for pair in (images, losses)]
        assert close == [reference is not None] * 2


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("net", [FastUNet, TwoLayers])
def test_exact_gradients_agree_with_central_differences(net, mode):
    """The told times are held: they are constant between jumps, and the differences are small."""
    upper, net, schedule, noise = small_upper(net(4, timesteps=40), no_clip=False)
    upper.sampler.process.reference = Schedule("cosine", 40)
    q = schedule.vector()
    told = upper.sampler.process.visits(5, levels=upper.levels(q)).net_times
    assert told.tolist() != [8, 16, 24, 32, 40]
    if mode == "reverse":
        of_q, of_weights = upper.reverse_slopes(net, q, noise)
    else:
        with torch.no_grad():
            of_q = upper.forward_slope(net, q, noise)
    with torch.no_grad():
        fid = lambda q: upper.fid(net, upper.levels(q), noise).item()  # noqa: E731
        for i, step in enumerate(torch.eye(len(q), dtype=F64)):
            expected = central(lambda h, step=step: fid(q + h * step))
            assert of_q.gradient[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        if mode == "reverse":
            weights, z = flat(net), torch.randn_like(flat(net))

            def along(h):
                set_weights(net, weights + h * z)
                return fid(q)

            with weights_kept(net):
                expected = central(along)
            assert (of_weights.gradient @ z).item() == pytest.approx(expected, rel=1e-5)


def test_the_points_of_a_zeroth_order_estimate_are_told_their_own_times():
    """All points are one batch: F of each as it is alone."""
    upper, net, schedule, noise = small_upper(
        TwoLayers(timesteps=40), upper_gradient="zo", delta=0.05
    )
    upper.sampler.process.reference = Schedule("cosine", 40)
    upper.sampler.noise = lambda *_: noise
    seen = {}
    upper._zeroth_order = lambda values, q, *_: seen.update(values=values)
    upper.slope_of_schedule(net, 0)
    points = schedule.vector() + 0.05 * torch.randn(4, 4, dtype=F64)
    points = projected(schedule.family, list(schedule.q), points)  # as the estimate's own are
    with torch.no_grad():
        alone = torch.stack([upper.fid(net, upper.levels(q), noise) for q in points])
        torch.testing.assert_close(seen["values"](points), alone, rtol=1e-9, atol=1e-9)


def test_the_slope_of_the_loss_agrees_with_central_differences():
    schedule = Schedule("cosine", 40, learned=True, start=0.1, end=0.9, tau=1.3, epsilon=0.02)
    process = Diffusion(schedule, dtype=F64, reference=Schedule("cosine", 40))
    nets = [TwoLayers(timesteps=40).double().eval() for _ in range(2)]
    x0 = torch.randn(16, 1, 8, 8, dtype=F64)
    slope = loss_difference(process, *nets, x0, 0, 3)
    t, eps = draw(x0, 40, stream(x0.device, 0, "difference", 3))
    q = schedule.vector()
    for i, step in enumerate(torch.eye(4, dtype=F64)):

        def value(h, step=step):
            levels = process.levels_of(schedule.curve(q + h * step))
            with torch.no_grad():
                one, two = (process.loss(net, x0, t, eps, levels) for net in nets)
            return (one - two).item()

        assert slope[i].item() == pytest.approx(central(value), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("told", ["visited", "nearest"])
def test_another_sampling_schedule(told):
    """Visited: what training told at that t; nearest: the reference's time nearest in noise."""
    reference, trained = Schedule("cosine", 40), Schedule("cosine", 40, tau=3.0)
    alone = Diffusion(trained, reference=reference)
    process = alone.replaced(sampling_schedule=Schedule("linear", 40), told=told)
    as_trained = alone.visits(5).net_times.tolist()
    by_level = Diffusion(Schedule("linear", 40), reference=reference).visits(5).net_times.tolist()
    assert as_trained != by_level
    expected = {"visited": as_trained, "nearest": by_level}[told]
    assert process.visits(5).net_times.tolist() == expected


def test_a_bilevel_run_with_it_resumes_and_is_sampled_from(tmp_path):
    results, flags = [], [*TINY, *EXACT, *BY_SNR, "--limit_batches", 6]
    for sabotage in (None, DieAtStep(9)):
        script = Script(tmp_path / str(bool(sabotage)), "bilevel")
        script.folder.mkdir()
        code = script.run(*flags, sabotage=sabotage)
        assert code == (-signal.SIGKILL if sabotage else 0), script.said()
        if sabotage:
            assert script.run("--resume", "latest") == 0, script.said()
        results.append(result(script.only))
    assert same(*results)
    (checkpoint,) = sorted((script.only / "checkpoints").glob("*.pt"))[-1:]
    sample = Script(tmp_path)
    words = ["--cpu", "--sample_only", "--ckpt", checkpoint, "--backward_steps", 4]
    assert sample.run(*words) == 0, sample.said()
    arguments = json.loads((sample.only / "args.json").read_text())["arguments"]
    assert arguments["time_condition"] == "log_snr"


@pytest.mark.parametrize("trained", ["index", "log_snr"])
def test_a_network_that_was_told_other_times_is_refused(tmp_path, trained):
    """Its weights would fit, so this is the one thing that notices."""
    first, other = Script(tmp_path), {"index": "log_snr", "log_snr": "index"}[trained]
    assert first.run(*TRAIN, "--time_condition", trained) == 0, first.said()
    again = [*TRAIN, "--ckpt", first.only, "--epochs", 1]
    for script, flags in (("train", again), ("bilevel", [*TINY, *again[len(TRAIN) :][:2]])):
        next_one = Script(tmp_path / script, script)
        next_one.folder.mkdir()
        assert next_one.run(*flags, "--time_condition", other) == 2, next_one.said()
        line = next_one.last_line()
        assert f"--time_condition {other}:" in line
        assert f"trained with --time_condition {trained}" in line
        assert not (next_one.folder / "runs").exists()
    frozen = Script(tmp_path / "frozen", "bilevel")
    frozen.folder.mkdir()
    flags = ["--cpu", "--threads", 1, "--freeze_network", "--ckpt", first.only, "--backward_steps"]
    code = frozen.run(*flags, 4, "--zo_samples", 6, "--frozen_updates", 1, "--eval_samples", 0,
                      "--time_condition", "log_snr")  # fmt: skip
    assert code == (0 if trained == "log_snr" else 2), frozen.said()
    assert first.run(*again, "--time_condition", trained) == 0, first.said()
