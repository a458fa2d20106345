"""Zeroth-order estimates inside the bounds, each parameter's own scale, one point, averages."""

import math
from types import SimpleNamespace

import pytest
import torch
from harness import TwoLayers
from toys import F64, small_upper

import common.upper_level as module
from common.families import FAMILIES, box_of, complete, project
from common.fast_unet import FastUNet
from common.training import Average, EmaRule
from common.uncoupled import Uncoupled, UncoupledSettings, loss_difference
from common.weights import flat, seen_by_loss
from common.zeroth_order import Slope, one_point, two_point
from model import Diffusion
from scheduler import Schedule, projected
from unet import UNet


@pytest.mark.parametrize("estimate", [two_point, one_point])
@pytest.mark.parametrize("at", [[0.0, 1.0, 1.0], [0.004, 0.997, 1.02], [0.5, 0.5, 3.0]])
def test_on_a_bound_the_estimate_is_unbiased(estimate, at):
    """A linear function, 200,000 directions: each coordinate within 5 standard errors."""
    slope, p = torch.tensor([2.0, -3.0, 0.5], dtype=F64), torch.tensor(at, dtype=F64)
    delta = torch.tensor([0.01, 0.005, 0.08], dtype=F64)
    box = torch.tensor([0.0, 0.0, 1.0], dtype=F64), torch.tensor([1.0, 1.0, math.inf], dtype=F64)
    seen = []

    def values(points):
        seen.append(points)
        return (points - p) @ slope

    z = torch.randn(200_000, 3, dtype=F64)
    last = [] if estimate is two_point else [0.0]
    found = estimate(values, p, z, delta, *last, box)
    assert ((found.gradient - slope).abs() < 5 * found.spread).all()
    assert found.spread.max() < 0.05 * slope.abs().max()  # so that the test can fail
    assert (seen[0] >= box[0]).all() and (seen[0] <= box[1]).all()


@pytest.mark.parametrize("perturbation", ["scaled", "published"])
@pytest.mark.parametrize("family", ["cosine", "linear"])
def test_only_the_published_perturbation_leaves_the_bounds(monkeypatch, perturbation, family):
    upper, net, schedule, _ = small_upper(
        TwoLayers(timesteps=40), family=family, upper_gradient="zo", directions=50,
        perturbation=perturbation,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in schedule.q.items():
            parameter.fill_(FAMILIES[family][name].default)
    before, points = schedule.vector(), []
    upper.sampler.noise = lambda n, *_: torch.randn(n, 1, 8, 8, dtype=F64)
    levels = upper.levels
    upper.levels = lambda q: points.append(q) or levels(q)
    upper.features = lambda net, levels, noise: torch.randn(len(noise), 12, dtype=F64)
    real, drawn = module.projected, []
    monkeypatch.setattr(module, "projected", lambda *a: drawn.append(real(*a)) or drawn[-1])
    two, (low, high) = [], (torch.tensor(x, dtype=F64) for x in box_of(family, list(schedule.q)))
    module_two = module.two_point
    monkeypatch.setattr(module, "two_point", lambda *a: two.append(a[3:]) or module_two(*a))
    upper.slope_of_schedule(net, 0)
    delta, box = two[0]
    if perturbation == "published":
        assert delta == 0.01 and box is None and not drawn
        return
    assert (drawn[0] >= low).all() and (drawn[0] <= high).all()
    for point in drawn[0].tolist():
        complete(family, dict(zip(schedule.q, point, strict=True)))  # raises outside
    steps = (drawn[0] - before).abs().amax(0)
    assert (steps > 0).all()
    if family == "cosine":  # 1/2 and 7.5 and .0875 times the step of start
        ratios = delta / delta[0]
        torch.testing.assert_close(ratios, torch.tensor([1, 0.5, 7.5, 0.0875], dtype=F64))
        assert steps[3] < 0.008 < steps[2]


@pytest.mark.parametrize("held", [(), ("start",), ("end",)])
@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f]])
def test_many_points_are_projected_as_one_is(family, held):
    """Against families.project, far outside the bounds and with start and end in any order."""
    names = list(FAMILIES[family])
    random = torch.Generator().manual_seed(0)
    points = 3 * torch.randn(2000, len(names), dtype=F64, generator=random)
    for name in held:
        points[:, names.index(name)] = 0.999 if name == "start" else 0.001
    inside = projected(family, names, points, held).tolist()
    for point, moved in zip(points.tolist(), inside, strict=True):
        expected = project(family, dict(zip(names, point, strict=True)), held)
        assert all(expected[name] == point[names.index(name)] for name in held)
        assert moved == pytest.approx(list(expected.values()), rel=1e-12, abs=1e-12)
        complete(family, dict(zip(names, moved, strict=True)))  # raises outside


def test_one_point_with_common_noise_has_less_noise_than_with_independent_noise():
    """The residual from one step to the next, at weights and a schedule that stand still."""
    spreads = {}
    for noise in ("common", "independent"):
        upper, net, _, _ = small_upper(
            TwoLayers(timesteps=40), upper_gradient="zo", zo_type="one", noise=noise, delta=1e-3,
            no_clip=False,
        )  # fmt: skip
        draws = {}

        def drawn(n, seed, *names, draws=draws):
            random = torch.Generator().manual_seed(sum(repr(names).encode()) + 7 * len(draws))
            draws[names] = torch.randn(n, 1, 8, 8, dtype=F64, generator=random)
            return draws[names]

        upper.sampler.noise = drawn
        slopes = torch.stack([upper.slope_of_schedule(net, i).gradient for i in range(30)][1:])
        spreads[noise] = slopes.std(0)
        assert len(draws) == (1 if noise == "common" else 30)
    assert (spreads["common"] < 0.5 * spreads["independent"]).all()


def test_biases_before_batch_norm_stay():
    """theta_z of its own: what L is blind to has no gradient from the FID either."""
    net, pulls = TwoLayers(), []
    learner = SimpleNamespace(
        net=net, count=0, step=lambda process, levels, pull: pulls.append(pull) or 0.0
    )
    ones = Slope(torch.ones_like(flat(net)), 1.0, torch.zeros(1))
    of_q = Slope(torch.ones(2, dtype=F64), 1.0, torch.zeros(2))
    upper = SimpleNamespace(slope_of_weights=lambda *_: ones, slope_of_schedule=lambda *_: of_q)
    process = Diffusion(Schedule("linear", 20, learned=True, end=0.9))
    coupled = Uncoupled(learner, learner, upper, UncoupledSettings(gamma=2.0, gamma_end=2.0), 5)
    coupled.slope(process, [torch.randn(4, 1, 8, 8)], 0, 0)
    blind = torch.cat(
        [
            torch.full((p.numel(),), float(name == "first.0.bias"))
            for name, p in net.named_parameters()
        ]
    )
    assert torch.equal(pulls[0], (1 - blind) / 2) and blind.sum() == 4
    assert torch.equal(seen_by_loss(net), 1 - blind)


@pytest.mark.parametrize("recopied", [False, True])
@pytest.mark.parametrize("common_noise", [False, True])
def test_the_published_gradient_after_the_steps_of_theta_z(recopied, common_noise):
    """Over three updates gamma goes from 4 to 2 in a straight line; a step moves a bias by 1."""
    y, z = TwoLayers(), TwoLayers()

    def step(*_):
        with torch.no_grad():
            z.last.bias.add_(1)
        return 0.0

    of_weights = Slope(torch.zeros_like(flat(z)), 1.0, torch.zeros(1))
    of_q = Slope(torch.tensor([0.5, -2.0], dtype=F64), 1.0, torch.zeros(2))
    upper = SimpleNamespace(
        slope_of_weights=lambda *_: of_weights, slope_of_schedule=lambda *_: of_q
    )
    theta_y, theta_z = SimpleNamespace(net=y), SimpleNamespace(net=z, count=0, step=step)
    settings = UncoupledSettings(3, recopied, common_noise, gamma=4.0, gamma_end=2.0)
    penalty = Uncoupled(theta_y, theta_z, upper, settings, updates=3)
    process, x0 = Diffusion(Schedule("linear", 20, learned=True, end=0.9)), torch.randn(4, 1, 8, 8)
    for update, gamma in enumerate([4.0, 3.0, 2.0]):
        slope = penalty.slope(process, [x0], 0, update)
        moved = (z.last.bias - y.last.bias).item()
        assert moved == pytest.approx(3 if recopied else 3 * (update + 1))
        difference = loss_difference(process, z, y, x0, 0, update, common_noise)
        torch.testing.assert_close(slope, of_q.gradient / gamma + difference)
        assert penalty.row()["gamma"] == gamma and difference.all()


@pytest.mark.parametrize("network", [UNet, FastUNet])
def test_what_the_loss_is_blind_to_is_found_by_its_gradient(network):
    """In the networks of the scripts: no gradient at all there, in float64, and some elsewhere."""
    net = network(4, timesteps=20).double().train()
    seen = seen_by_loss(net).split([p.numel() for p in net.parameters()])
    process = Diffusion(Schedule("cosine", 20), dtype=F64)
    x0, eps = torch.randn(2, 8, 1, 8, 8, dtype=F64)
    process.loss(net, x0, torch.randint(1, 21, (8,)), eps).backward()
    for (name, p), part in zip(net.named_parameters(), seen, strict=True):
        assert (p.grad.abs().max() > 1e-9) == part.all() == part.any(), name
    assert sum(not part.any() for part in seen) > 40


def test_the_rule_of_the_average():
    published = {"model_ema_decay": 0.995, "model_ema_steps": 10, "batch_size": 128}
    rule = EmaRule.from_flags(**published, epochs=100)
    assert rule.decay == pytest.approx(0.936) and rule.memory == pytest.approx(10 / 0.064)
    assert EmaRule.from_flags(**published, epochs=3) == (0.0, 10)
    never = EmaRule.from_flags(**published | {"model_ema_decay": 1.0}, epochs=3)
    assert never.decay == 1 and math.isfinite(never.memory)
    paper = EmaRule.from_flags(**published, epochs=3, recipe="paper", inner_loop=10)
    assert paper.decay == pytest.approx(0.8933, abs=1e-4) and paper.every == 100
    given = EmaRule.from_flags(**published, epochs=3, recipe="paper", inner_loop=10, ema_memory=200)
    assert given.memory == pytest.approx(200) and given.every == 10
    assert EmaRule.from_flags(**published, epochs=3, ema_memory=5).decay == 0


def test_the_average_is_updated_every_few_steps_and_at_the_last():
    """A copy at step 3, half of the old and half of the new at 6 and 8; statistics too."""
    net, averages = torch.nn.BatchNorm1d(1), []
    average = Average(net, decay=0.5, every=3, total_steps=8)
    for step in range(1, 9):
        for value in (net.weight.data, net.running_mean):
            value.fill_(step)
        average.after_step(net, step)
        of_net = average.model.module
        averages.append([of_net.weight.item(), of_net.running_mean.item()])
    assert averages == [[1, 0]] * 2 + [[x, x] for x in (3, 3, 3, 4.5, 4.5, 6.25)]
