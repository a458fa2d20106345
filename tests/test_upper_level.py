"""The upper level of the uncoupled recipes: its estimates and its steps against known answers."""

import pytest
import torch
from harness import TwoLayers
from scipy.stats import norm
from test_checkpoint import same
from toys import small_upper

from common.fast_unet import FastUNet
from common.machine import stream
from common.schedule_optimizer import ScheduleOptimizer
from common.uncoupled import loss_difference
from common.weights import evaluating, flat, set_weights, weights_kept
from common.zeroth_order import one_point, two_point
from model import Diffusion
from scheduler import Schedule

F64 = torch.float64


def quadratic(a, centre):
    """F(p) = (p - c)' A (p - c)/2 at many points, and its gradient."""
    return (
        lambda points: ((points - centre) @ a * (points - centre)).sum(1) / 2,
        lambda p: a @ (p - centre),
    )


def test_the_two_point_estimate_is_unbiased_on_a_quadratic():
    """Each coordinate's mean over 40,000 directions, within its own 99.99 % confidence interval."""
    root = torch.randn(4, 4, dtype=F64)
    f, slope = quadratic(root @ root.T, torch.randn(4, dtype=F64))
    p, z = torch.randn(4, dtype=F64), torch.randn(40_000, 4, dtype=F64)
    estimate = two_point(f, p, z, 0.01)
    error = (estimate.gradient - slope(p)).abs() / estimate.spread
    assert error.max() < norm.ppf(1 - 0.0001 / 8)  # two-sided, four coordinates
    assert estimate.spread.max() < 0.1 * slope(p).abs().max()  # so that the test can fail


def test_the_spread_is_the_standard_error():
    f, _ = quadratic(torch.eye(3, dtype=F64), torch.ones(3, dtype=F64))
    p = torch.zeros(3, dtype=F64)
    runs = [two_point(f, p, torch.randn(50, 3, dtype=F64), 0.1) for _ in range(400)]
    seen = torch.stack([r.gradient for r in runs]).std(0)
    said = torch.stack([r.spread for r in runs]).mean(0)
    torch.testing.assert_close(seen, said, rtol=0.15, atol=0)


@pytest.mark.parametrize("kind", ["two", "one"])
def test_both_types_descend_a_quadratic(kind):
    centre = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    f, _ = quadratic(torch.eye(3, dtype=F64), centre)
    p, last = torch.zeros(3, dtype=F64), None
    step, steps = (0.05, 600) if kind == "two" else (0.005, 6000)
    for _ in range(steps):
        z = torch.randn(1, 3, dtype=F64)
        estimate = two_point(f, p, z, 0.01) if kind == "two" else one_point(f, p, z, 0.3, last)
        last = estimate.value
        p = p - step * estimate.gradient
    assert (p - centre).norm() < (1e-3 if kind == "two" else 0.3)


def test_the_first_one_point_call_moves_nothing():
    f, _ = quadratic(torch.eye(2, dtype=F64), torch.ones(2, dtype=F64))
    first = one_point(f, torch.zeros(2, dtype=F64), torch.randn(1, 2, dtype=F64), 0.1, None)
    assert (first.gradient == 0).all() and first.value > 0


@pytest.mark.parametrize(
    ("family", "n", "no_clip", "net"),
    [
        ("cosine", 8, False, FastUNet),
        ("cosine", 20, True, TwoLayers),
        ("linear", 8, False, TwoLayers),
    ],
    ids=["unet", "more images than features", "linear"],
)
def test_forward_mode_agrees_with_central_differences(family, n, no_clip, net):
    """At the FID itself, through every DDIM step; n on both sides of the feature dimension.

    Of one draw: a clipped pixel makes a kink, which a central difference may straddle.
    """
    net = net(4, timesteps=40)
    upper, net, schedule, noise = small_upper(net, n=n, family=family, no_clip=no_clip)
    q = schedule.vector()
    with torch.no_grad():
        slope = upper.forward_slope(net, q, noise)
        assert slope.value == pytest.approx(
            upper.fid(net, upper.levels(q), noise).item(), rel=1e-12
        )
        for i, h in enumerate([1e-6] * len(q)):
            step = torch.zeros_like(q)
            step[i] = h
            sides = [upper.fid(net, upper.levels(q + s), noise).item() for s in (step, -step)]
            expected = (sides[0] - sides[1]) / (2 * h)
            assert slope.gradient[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_truncation_leaves_out_the_start_of_the_chain():
    slopes = []
    for truncation in (1.0, 0.5, 1e-6):
        torch.manual_seed(3)
        upper, net, schedule, noise = small_upper(TwoLayers(timesteps=40), truncation=truncation)
        q = schedule.vector()
        with torch.no_grad():
            slopes.append(upper.forward_slope(net, q, noise).gradient)
    assert (slopes[2] == 0).all() and not torch.allclose(slopes[0], slopes[1])


def test_the_mean_of_many_directions_is_the_forward_slope():
    upper, net, schedule, noise = small_upper(
        TwoLayers(timesteps=40), upper_gradient="zo", directions=300, delta=1e-4
    )
    upper.sampler.noise = lambda *_: noise
    exact = upper.forward_slope(net, schedule.vector(), noise)
    estimate = upper.slope_of_schedule(net, 0)
    error = (estimate.gradient - exact.gradient).abs() / estimate.spread
    assert error.max() < 4 and estimate.spread.max() < exact.gradient.norm()
    assert upper.evaluations["upper"] == 2 * 300 * 8 * 5


@pytest.mark.parametrize("fails", [None, 1, 2, 3])
def test_weights_are_bit_for_bit_what_they_were(fails):
    """After a zeroth-order gradient over all weights, also when sampling raises on one side."""
    upper, net, _, _ = small_upper(TwoLayers(timesteps=40), upper_gradient="zo")
    upper.sampler.noise = lambda n, *_: torch.randn(n, 1, 8, 8, dtype=F64)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    calls, features = 0, upper.features

    def failing(*words):
        nonlocal calls
        calls += 1
        if calls == fails:
            raise RuntimeError("out of memory")
        return features(*words)

    upper.features = failing
    if fails:
        with pytest.raises(RuntimeError):
            upper.slope_of_weights(net, 0)
    else:
        slope = upper.slope_of_weights(net, 0)
        assert slope.gradient.norm() > 0 and calls == 4
    assert same(dict(net.state_dict()), before)
    assert [m.training for m in net.modules()] == modes


def test_weights_are_set_in_place():
    net = TwoLayers()
    optimizer = torch.optim.AdamW(net.parameters())
    held = [p.data_ptr() for p in optimizer.param_groups[0]["params"]]
    new = torch.randn_like(flat(net))
    with weights_kept(net):
        set_weights(net, new)
        assert torch.equal(flat(net), new)
    assert not torch.equal(flat(net), new)
    assert [p.data_ptr() for p in net.parameters()] == held


def test_a_perturbation_moves_the_fid_by_the_slope():
    """The zeroth-order slope over weights, against the directional derivative by autograd."""
    upper, net, schedule, noise = small_upper(
        TwoLayers(timesteps=40), directions=1, delta=1e-5, upper_gradient="zo"
    )
    upper.sampler.noise = lambda n, *_: noise
    levels = upper.levels(schedule.vector())
    slope = upper.slope_of_weights(net, 0)
    upper.fid(net, levels, noise).backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
    # the slope is (g.z) z: so slope.g is (g.z)^2, and |slope|^2/slope.g is |z|^2
    z_squared = (slope.gradient.norm() ** 2 / (slope.gradient @ gradient)).item()
    random = stream(torch.device("cpu"), 0, "direction", "z", 0)
    z = torch.randn(1, len(gradient), generator=random, dtype=F64)
    assert z_squared == pytest.approx((z**2).sum().item(), rel=1e-3)


def test_the_loss_difference_is_that_of_the_same_draws():
    schedule = Schedule("cosine", 20, learned=True, start=0.1, end=0.9, tau=1.3)
    process = Diffusion(schedule)
    y, z = TwoLayers(), TwoLayers()
    x0 = torch.randn(16, 1, 8, 8)
    zero = loss_difference(process, y, y, x0, 0, 3)
    assert (zero == 0).all()  # the same weights on the same draws: nothing but zero
    assert (loss_difference(process, y, y, x0, 0, 3, common_noise=False) != 0).any()
    assert (loss_difference(process, z, y, x0, 0, 3) != 0).all()
    assert all(p.grad is None for net in (y, z) for p in net.parameters())


def test_evaluating_does_not_move_batch_norm():
    net = TwoLayers().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with evaluating(net):
        net(torch.randn(4, 1, 8, 8), torch.tensor([3]))
    assert net.training and same(dict(net.state_dict()), before)


def gaussian_fid(schedule, steps, mean, std):
    """FID of DDIM with the exact denoiser on 1-D Gaussian data: affine, so two points tell."""
    process = Diffusion(schedule, dtype=F64)
    levels = process.levels()

    def net(x, t):
        signal, noise, _ = (c[t] for c in levels)
        return noise * (x - signal * mean) / ((signal * std) ** 2 + noise**2)

    ends = process.sample(
        net, torch.tensor([-1.0, 1.0], dtype=F64), steps, clip=False, levels=levels
    )
    got_mean, got_std = ends.mean(), (ends[1] - ends[0]).abs() / 2
    return (got_mean - mean) ** 2 + (got_std - std) ** 2


@pytest.mark.parametrize("start", [{"tau": 1.05, "end": 0.95}, {"tau": 4.0, "end": 0.6}])
def test_the_best_schedule_is_found_from_two_sides(start):
    """Exact denoiser, 4 DDIM steps: brute force over tau and end against the optimizer."""
    truth, fixed = (0.4, 0.3), {"start": 0.0, "epsilon": 0.008}
    grid = [
        gaussian_fid(Schedule("cosine", 100, tau=t, end=e, **fixed), 4, *truth).item()
        for t in torch.linspace(1, 5, 25).tolist()
        for e in torch.linspace(0.5, 1, 26).tolist()
    ]
    best = min(grid)
    schedule = Schedule("cosine", 100, learned=True, **fixed, **start)
    before = gaussian_fid(schedule, 4, *truth).item()
    q = ScheduleOptimizer(schedule, [0.0, 0.02, 0.1, 0.0], 150)
    for _ in range(150):
        gradient = torch.autograd.grad(
            gaussian_fid(schedule, 4, *truth), list(schedule.parameters())
        )
        q.step(torch.stack(gradient))
    after = gaussian_fid(schedule, 4, *truth).item()
    # the far start is 20 times, the near one 3 times worse than the best of the grid
    assert before > 3 * best and after <= 1.05 * best
    assert schedule.values()["start"] == 0 and schedule.values()["epsilon"] == 0.008


def test_the_schedule_optimizer_keeps_to_the_bounds():
    schedule = Schedule("cosine", 20, learned=True)
    q = ScheduleOptimizer(schedule, [0.05, 0.05, 1, 0.05], 50)
    for _ in range(50):
        q.step(torch.randn(4, dtype=F64) * 100)
        Schedule.from_dict(schedule.to_dict())  # raises outside the bounds


def test_the_noise_of_a_gradient_is_followed():
    q = ScheduleOptimizer(Schedule("linear", 20, learned=True), [0.0] * 4, 300)
    for _ in range(300):
        q.follow((torch.tensor([3.0, 0.0]) + torch.randn(2)).tolist(), memory=0.98)
    (mean, spread), (centre, _) = q.slopes()["start"], q.slopes()["end"]
    assert mean == pytest.approx(3, abs=0.5) and centre == pytest.approx(0, abs=0.5)
    assert spread == pytest.approx(1, abs=0.4)
