"""Exact gradients of the upper level by reverse mode: values, bits, memory, and what is refused."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from harness import TwoLayers
from toys import F64, small_upper

from benchmarks.live_memory import LiveMemory
from common.errors import Stop
from common.fast_unet import FastUNet
from common.objective import UpperSettings
from common.weights import flat, set_weights, weights_kept
from train_mnist_bilevel_ZO import check, make_parser


def central(f, h=1e-6):
    return (f(h) - f(-h)) / (2 * h)


@pytest.mark.parametrize("tau_type", ["linear", "quadratic"])
@pytest.mark.parametrize(
    ("family", "n", "no_clip", "eps_scale", "net"),
    [
        ("cosine", 8, False, 1.0, partial(FastUNet, 4)),
        ("cosine", 20, True, 1.0, TwoLayers),
        ("linear", 8, False, 1.0, TwoLayers),
        ("cosine", 8, False, 1.15, TwoLayers),
    ],
    ids=["unet", "more images than features", "linear", "eps_scale"],
)
def test_reverse_mode_agrees_with_central_differences(family, n, no_clip, eps_scale, net, tau_type):
    """dF/dq in each parameter, and dF/dtheta along random directions over all weights."""
    torch.manual_seed(0)  # how well differences agree depends on the network
    upper, net, schedule, noise = small_upper(
        net(timesteps=40),
        n=n,
        family=family,
        no_clip=no_clip,
        tau_type=tau_type,
        eps_scale=eps_scale,
    )
    q = schedule.vector()
    of_q, of_weights = upper.reverse_slopes(net, q, noise)
    with torch.no_grad():
        fid = lambda q: upper.fid(net, upper.levels(q), noise).item()  # noqa: E731
        assert of_q.value == of_weights.value == pytest.approx(fid(q), rel=1e-12)
        for i, step in enumerate(torch.eye(len(q), dtype=F64)):
            expected = central(lambda h, step=step: fid(q + h * step))
            assert of_q.gradient[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        weights = flat(net)
        for _ in range(3):
            z = torch.randn_like(weights)

            def along(h, z=z):
                set_weights(net, weights + h * z)
                return fid(q)

            with weights_kept(net):
                expected = central(along)
            assert (of_weights.gradient @ z).item() == pytest.approx(expected, rel=1e-5)


def test_without_the_predicted_noise_the_network_has_no_gradient():
    upper, net, schedule, noise = small_upper(TwoLayers(timesteps=40), eps_scale=0.0)
    of_q, of_weights = upper.reverse_slopes(net, schedule.vector(), noise)
    assert of_q.gradient.any() and not of_weights.gradient.any()


@pytest.mark.parametrize("truncation", [1.0, 0.7, 0.5])
def test_reverse_and_forward_mode_agree(truncation):
    upper, net, schedule, noise = small_upper(no_clip=False, truncation=truncation)
    with torch.no_grad():
        forward = upper.forward_slope(net, schedule.vector(), noise)
    reverse = upper.reverse_slopes(net, schedule.vector(), noise, weights=False)[0]
    torch.testing.assert_close(reverse.gradient, forward.gradient, rtol=1e-9, atol=1e-9)
    assert reverse.value == pytest.approx(forward.value, rel=1e-12) and forward.gradient.any()


@pytest.mark.parametrize("net", [FastUNet, TwoLayers])
def test_computing_again_changes_no_bit(net):
    upper, net, schedule, noise = small_upper(net(4, timesteps=40), no_clip=False)
    net, noise, upper.sampler.process.dtype = net.float(), noise.float(), torch.float32
    kept, again = (
        upper.reverse_slopes(net, schedule.vector(), noise, store=store) for store in (True, False)
    )
    for ours, theirs in zip(kept, again, strict=True):
        assert torch.equal(ours.gradient, theirs.gradient) and ours.value == theirs.value


def test_parts_of_the_images_give_the_gradient_of_all():
    torch.manual_seed(0)
    parts, net, schedule, noise = small_upper(n=8, no_clip=False, at_once=3)
    torch.manual_seed(0)
    whole, net, schedule, noise = small_upper(n=8, no_clip=False)
    pairs = zip(
        *(u.reverse_slopes(net, schedule.vector(), noise) for u in (whole, parts)), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-9, atol=1e-9)


def test_what_is_left_out_is_a_constant():
    """The gradient of the weights, with the late evaluations of the network held as they are."""
    upper, net, schedule, noise = small_upper(
        TwoLayers(timesteps=40), no_clip=False, truncation=0.7
    )
    assert upper.left_out() == [40, 32]
    q, weights = schedule.vector(), flat(net)
    gradient = upper.reverse_slopes(net, q, noise)[1].gradient
    z, held, calls = torch.randn_like(weights), [], 0
    with torch.no_grad(), weights_kept(net):
        hook = net.register_forward_hook(lambda *call: held.append(call[2]))
        upper.fid(net, upper.levels(q), noise)
        hook.remove()

        def replay(_, __, out):
            nonlocal calls
            calls += 1
            return held[calls - 1] if calls <= 2 else out

        def along(h):
            nonlocal calls
            calls = 0
            set_weights(net, weights + h * z)
            return upper.fid(net, upper.levels(q), noise).item()

        net.register_forward_hook(replay)
        expected = central(along)
    assert (gradient @ z).item() == pytest.approx(expected, rel=1e-6)


def test_a_step_without_signal_is_left_out_unless_told_otherwise():
    upper, _, schedule, _ = small_upper(TwoLayers(timesteps=40), truncation=None)
    assert upper.left_out() == []  # at end 0.9 there is signal left
    schedule.end.data.fill_(1.0)
    assert upper.left_out() == [40]


def test_weights_and_modes_stay_and_gradients_are_not_left_behind():
    upper, net, _, _ = small_upper(
        TwoLayers(timesteps=40).train(), upper_gradient="exact", no_clip=False
    )
    upper.sampler.noise = lambda n, *_: torch.randn(n, 1, 8, 8, dtype=F64)
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    of_q, of_weights = upper.slopes(net, 0, "z")
    assert of_q.gradient.any() and len(of_weights.gradient) == len(flat(net))
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert upper.evaluations["upper"] == 4 * 8 * 5


def live_peak(steps, store):
    torch.manual_seed(0)
    upper, net, schedule, noise = small_upper(backward_steps=steps, no_clip=False, n=16)
    with LiveMemory() as memory:
        upper.reverse_slopes(net, schedule.vector(), noise, store=store)
    return memory.peak


def test_memory_does_not_grow_with_the_steps():
    few, many = live_peak(4, False), live_peak(32, False)
    assert many < 1.25 * few  # an image a step is all that is kept
    assert live_peak(32, True) > 4 * many  # so that the test can fail


@pytest.mark.parametrize("mode", ["exact", "forward"])
@pytest.mark.parametrize("named", ["initial_end", "truncation", "another schedule", "extractor"])
def test_a_gradient_of_zero_is_an_error_that_says_why(named, mode):
    truncation = 0.01 if named == "truncation" else 1.0
    upper, net, schedule, _ = small_upper(
        TwoLayers(timesteps=40), upper_gradient=mode, truncation=truncation, no_clip=False
    )
    upper.sampler.noise = lambda n, *_: torch.randn(n, 1, 8, 8, dtype=F64)
    features = upper.judge.extractor
    if named == "initial_end":  # every pixel is cut, as by an extractor of images
        upper.sampler.settings = replace(upper.sampler.settings, clip=False)
        upper.judge.extractor = lambda x: features((x * 1e9).clamp(-1, 1))
        sample = type(upper.sampler).__call__
        upper.sampler = SimpleSampler(upper.sampler, lambda *a, **k: 1e9 * sample(*a, **k).sign())
    if named == "another schedule":
        upper.schedule.curve = lambda q: (0 * q.sum()) + schedule.log_alpha_bar().detach()
    if named == "extractor":
        upper.judge.extractor = lambda x: features(0 * x)
    with pytest.raises(Stop, match=named):
        upper.slope_of_schedule(net, 0)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_gradient_of_zero_amid_a_run_is_a_gradient(restarted):
    """Only a run that begins with one is wrong."""

    def fresh():
        upper, net, _, _ = small_upper(TwoLayers(timesteps=40), upper_gradient="exact")
        upper.sampler.noise = lambda n, *_: torch.randn(n, 1, 8, 8, dtype=F64)
        return upper, net

    upper, net = fresh()
    assert upper.slope_of_schedule(net, 0).gradient.any()
    if restarted:
        state = upper.state_dict()
        upper, net = fresh()
        upper.load_state_dict(state)
    features = upper.judge.extractor
    upper.judge.extractor = lambda x: features(0 * x)
    assert not upper.slope_of_schedule(net, 1).gradient.any()
    upper.sloped = False
    with pytest.raises(Stop, match="extractor"):
        upper.slope_of_schedule(net, 1)


class SimpleSampler:
    """A sampler whose images another function makes."""

    def __init__(self, sampler, draw):
        self.__dict__.update(vars(sampler), sampler=sampler, draw=draw, steps=sampler.steps)

    def __call__(self, *args, **options):
        return self.draw(self.sampler, *args, **options)


@pytest.mark.parametrize(
    ("flags", "named"),
    [("--sampler ddpm", None), ("--noise independent", "independent"),
     ("--ZO_type one", "ZO_type"), ("--truncation 0.5", None)],
)  # fmt: skip
def test_exact_gradients_refuse_what_they_cannot_do(flags, named):
    parser = make_parser()
    args = parser.parse_args(["--upper_gradient", "exact", *flags.split()])
    if named:
        with pytest.raises(ValueError, match=named):
            check(args)
    else:
        check(args)
        assert UpperSettings.from_flags(**vars(args)).upper_gradient == "exact"
