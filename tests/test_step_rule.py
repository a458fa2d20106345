"""The step rule of q: still on noise, full steps on a slope, and what a resumed one remembers."""

import pytest
import torch

from common.errors import NotFinite
from common.null_band import null_band
from common.schedule_optimizer import ScheduleOptimizer
from common.step_rule import Moments, SteadySteps, sureness
from scheduler import Schedule

F64 = torch.float64
RATES = [0.01, 0.01, 0.1, 0.001]
INSIDE = {"start": 0.3, "end": 0.7, "tau": 8.0, "epsilon": 0.5}
UPDATES = 60


def band_at_the_end(schedule, updates, r):
    """Where noise alone takes each parameter, for a rule that has seen noise of this r."""
    rule = SteadySteps(schedule, RATES, updates)
    rule.moments.count = updates
    rule.moments.correlation = lambda: torch.tensor([r], dtype=F64)
    band = null_band(rule, schedule, RATES)
    return {name: (band[f"{name}_low"][-1], band[f"{name}_high"][-1]) for name in schedule.q}


def moved(rule_class, gradient):
    """How far each parameter goes, in full steps of all updates."""
    schedule = Schedule("cosine", 20, learned=True, **INSIDE)
    rule, before = rule_class(schedule, RATES, UPDATES), schedule.vector()
    for i in range(UPDATES):
        rule.step(gradient(i))
    return (schedule.vector() - before) / torch.tensor(RATES, dtype=F64) / UPDATES


@pytest.mark.parametrize("rule_class", [SteadySteps, ScheduleOptimizer])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(rule_class, value):
    schedule = Schedule("cosine", 20, learned=True, **INSIDE)
    rule, before = rule_class(schedule, RATES, UPDATES), schedule.vector()
    with pytest.raises(NotFinite, match="the gradient of the schedule"):
        rule.step(torch.tensor([0.0, 1.0, value, 0.0], dtype=F64))
    assert torch.equal(schedule.vector(), before) and rule.count == 0


def test_noise_moves_q_by_less_than_a_tenth_of_what_a_slope_does():
    """The mean of 20 runs each; the optimizer that the published method uses fails this."""
    slope = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64)
    noise = lambda _: torch.randn(4, dtype=F64)  # noqa: E731
    both = lambda _: slope + 0.5 * torch.randn(4, dtype=F64)  # noqa: E731
    ratios = {}
    for rule in (SteadySteps, ScheduleOptimizer):
        still, driven = (
            torch.stack([moved(rule, gradient).abs() for _ in range(20)]).mean(0)
            for gradient in (noise, both)
        )
        ratios[rule] = (still / driven).max().item()
    assert ratios[SteadySteps] < 0.1 < ratios[ScheduleOptimizer]


def test_a_slope_without_noise_takes_the_longest_steps():
    slope = torch.tensor([3.0, -2.0, 1e-3, -1e4], dtype=F64)
    steps = moved(SteadySteps, lambda _: slope)
    assert (steps.sign() == -slope.sign()).all()
    assert torch.allclose(
        steps[:2].abs(), torch.tensor(0.5, dtype=F64)
    )  # start and end are then on their bounds
    assert (steps[2:].abs() > 0.7).all() and (steps.abs() <= 1).all()  # the last half slows down


@pytest.mark.parametrize("rule_class", [SteadySteps, ScheduleOptimizer])
def test_a_rate_of_0_holds_start_where_end_comes_down_to_it(rule_class):
    schedule = Schedule("cosine", 20, learned=True, start=0.97, end=1.0)
    rule = rule_class(schedule, [0.0, 0.01, 0.1, 0.001], UPDATES)
    for _ in range(UPDATES):
        rule.step(torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=F64))
    values = schedule.values()
    assert values["start"] == 0.97 and 0.97 < values["end"] < 0.972


def test_it_leaves_a_bound_as_soon_as_the_slope_turns():
    schedule = Schedule("cosine", 20, learned=True)
    rule = SteadySteps(schedule, RATES, 10**6)
    outward = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=F64)
    for _ in range(50):
        rule.step(outward)
    assert schedule.values()["tau"] == 1
    for _ in range(20):
        rule.step(-outward)
    assert schedule.values()["tau"] > 1


def test_the_standard_error_is_that_of_the_running_mean():
    schedule = Schedule("linear", 20, learned=True)
    means, errors = [], []
    for _ in range(300):
        rule = SteadySteps(schedule, RATES, 10**6)
        for _ in range(30):
            rule.step(torch.randn(2, dtype=F64))
        slope, error = rule.slopes()["start"]
        means.append(slope)
        errors.append(error)
    assert torch.tensor(errors).square().mean().sqrt() == pytest.approx(
        torch.tensor(means).std().item(), rel=0.15
    )


def test_a_rule_goes_on_from_its_state():
    ends = []
    gradients = torch.randn(20, 4, dtype=F64) + 2
    for interrupted in (False, True):
        schedule = Schedule("cosine", 20, learned=True, **INSIDE)
        rule = SteadySteps(schedule, RATES, 20)
        for i, gradient in enumerate(gradients):
            if i == 8 and interrupted:
                state = rule.state_dict()
                schedule = Schedule("cosine", 20, learned=True)
                rule = SteadySteps(schedule, RATES, 20)
                rule.load_state_dict(state)
            rule.step(gradient)
        ends.append(schedule.values())
    assert ends[0] == ends[1] != INSIDE


def test_sureness():
    slope = torch.tensor([1.0, -3.0, 0.0, 0.0, -4.0, 1.0])
    error = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, float("inf")])
    full, at_the_edge, none, still, part, unknown = sureness(slope, error).tolist()
    assert full == 1 and at_the_edge == none == still == unknown == 0 and 0 < part < 1


def correlated(r, runs, updates=UPDATES):
    """AR(1) noise of variance 1, (updates, runs, 4)."""
    noise = [torch.randn(runs, 4, dtype=F64)]
    for _ in range(updates - 1):
        noise.append(r * noise[-1] + (1 - r * r) ** 0.5 * torch.randn(runs, 4, dtype=F64))
    return torch.stack(noise)


def travelled(gradients: torch.Tensor) -> float:
    """How far a parameter goes without bounds, in full steps of all updates: the mean."""
    moments, way = Moments(*gradients.shape[1:]), 0
    for gradient in gradients:
        moments.follow(gradient)
        way = way + moments.steps(len(gradients))
    return (way.abs() / len(gradients)).mean().item()


@pytest.mark.parametrize("r", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("updates, most", [(UPDATES, 1 / 10), (16, 1 / 6)])
def test_noise_that_is_correlated_moves_little_beside_a_slope(r, updates, most):
    """2,000 runs; with the standard error of independent noise r = 0.8 fails."""
    noise, slope = correlated(r, 2000, updates), 1 + 0.5 * correlated(r, 2000, updates)
    assert travelled(noise) < most * travelled(slope) and travelled(slope) > 0.15


@pytest.mark.parametrize("r", [0.0, 0.5, 0.8])
def test_the_correlation_is_found_and_the_standard_error_follows_it(r):
    moments = Moments(500, 4)
    for gradient in correlated(r, 500, 200):
        moments.follow(gradient)
    assert moments.correlation().mean().item() == pytest.approx(r, abs=0.1)
    mean, error = moments.slopes()
    assert error.square().mean().sqrt() == pytest.approx(mean.std().item(), rel=0.25)


def test_the_band_widens_with_the_correlation():
    schedule, widths = Schedule("cosine", 20, **INSIDE), []
    for r in (0.0, 0.8):
        band = band_at_the_end(schedule, 400, r)
        widths.append(
            sum((high - low) / rate for (low, high), rate in zip(band.values(), RATES, strict=True))
        )
    assert widths[1] > 2 * widths[0] > 0


def test_the_band_is_that_of_the_rule():
    """Against runs of the rule itself, one by one."""
    ends = []
    for _ in range(60):
        rule = SteadySteps(Schedule("cosine", 20, learned=True, **INSIDE), RATES, 20)
        for gradient in correlated(0.9, 1, 20)[:, 0]:
            rule.step(gradient)
        ends.append(rule.schedule.vector())
    ends = torch.stack(ends)
    band = band_at_the_end(Schedule("cosine", 20, **INSIDE), 20, 0.9)
    for i, (low, high) in enumerate(band.values()):
        inside = ((ends[:, i] >= low) & (ends[:, i] <= high)).double().mean()
        assert 0.75 < inside.item() <= 1


def test_it_stands_still_beyond_its_last_update():
    schedule = Schedule("cosine", 20, learned=True, start=0.3, end=0.9, tau=2.0)
    rule = SteadySteps(schedule, [0.01, 0.01, 0.1, 0.001], 6)
    path = []
    for _ in range(10):
        rule.step(torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64))
        path.append(schedule.q["tau"].item())
    assert path[5] < 2 and path == sorted(path, reverse=True) and path[6:] == [path[5]] * 4
