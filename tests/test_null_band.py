"""What noise does to a schedule: the simulation against the rules themselves, and its text."""

import json
from functools import partial

import pytest
import torch

from common.families import MIN_GAP
from common.null_band import Copies, null_band, null_text, within
from common.schedule_optimizer import ScheduleOptimizer
from common.step_rule import SteadySteps, null_paths
from scheduler import Schedule

F64 = torch.float64
RATES = [0.01, 0.01, 0.1, 0.001]
INSIDE = {"start": 0.3, "end": 0.7, "tau": 8.0, "epsilon": 0.5}
UPDATES = 60


def band_of(rule_class, first, rates=RATES, updates=UPDATES, made=None, **options):
    """Of a rule that is set for so many updates and has made all or some, without a slope."""
    rule = rule_class(Schedule.from_dict(first.to_dict(), learned=True), rates, updates)
    for _ in range(updates if made is None else made):
        rule.step(torch.zeros(len(rule.rates), dtype=F64))
    return null_band(rule, first, rates, **options)


def test_a_band_that_ends_early_is_the_beginning_of_the_whole_one():
    first = Schedule("cosine", 20, **INSIDE)
    whole, early = (band_of(ScheduleOptimizer, first, runs=20, made=n) for n in (None, 25))
    assert early == {name: values[:26] for name, values in whole.items()}
    assert band_of(ScheduleOptimizer, first, runs=20, made=0) == {}


def test_the_steady_rule_hardly_moves_and_adamw_does():
    first = Schedule("cosine", 20, **INSIDE)
    for rule, low, high in ((SteadySteps, 0, 0.2), (ScheduleOptimizer, 0.2, 1)):
        band = band_of(rule, first, runs=40)
        assert band["updates"] == list(range(UPDATES + 1))
        for (name, value), rate in zip(INSIDE.items(), RATES, strict=True):
            a, b = band[f"{name}_low"], band[f"{name}_high"]
            assert a[0] == b[0] == value and a[-1] <= value <= b[-1]
            assert low < (b[-1] - a[-1]) / (rate * UPDATES) < high


@pytest.mark.parametrize("first", [Schedule("cosine", 20), Schedule("linear", 20, start=0.497,
                                   end=0.503), Schedule("cosine", 20).as_knots(3)])  # fmt: skip
def test_copies_move_as_a_schedule_does(first):
    """Many copies at once against the optimizer of a run, draw for draw, at bounds and gaps."""
    rates, updates, runs = [0.02, 0.02, 0.3, 0.02], 30, 5
    copies = Copies(first, runs)
    many = ScheduleOptimizer(copies, rates, updates)
    noise = torch.randn(updates, len(copies.q), runs, dtype=F64)
    paths = []
    for step in noise:
        for parameter, gradient in zip(copies.q.values(), step, strict=True):
            parameter.grad = gradient.clone()
        many.optimizer.step()
        many.cycle.step()
        copies.project_()
        paths.append(copies.values())
    for run in range(runs):
        schedule = Schedule.from_dict(first.to_dict(), learned=True)
        one = ScheduleOptimizer(schedule, rates, updates)
        for step, path in zip(noise, paths, strict=True):
            one.step(step[:, run])
            assert torch.allclose(schedule.vector(), path[run], rtol=0, atol=1e-12)


def test_a_twentieth_of_other_runs_ends_on_either_side_of_the_band():
    first = Schedule("cosine", 20, **INSIDE)
    band = band_of(SteadySteps, first, runs=4000)
    (r,), random = band["correlation"], torch.Generator().manual_seed(1)
    ends = null_paths(first, RATES, UPDATES, r, 4000, random)[-1]
    for i, name in enumerate(INSIDE):
        low, high = (band[f"{name}_{side}"][-1] for side in ("low", "high"))
        sides = [(ends[:, i] < low).double().mean(), (ends[:, i] > high).double().mean()]
        assert sides == pytest.approx([0.05, 0.05], abs=0.02)


@pytest.mark.parametrize("rule_class", [SteadySteps, ScheduleOptimizer])
def test_a_start_that_is_held_stays_below_the_band_of_end(rule_class):
    first = Schedule("cosine", 20, start=0.97, end=0.972)
    band = band_of(rule_class, first, [0, 0.01, 0.1, 0.001], runs=200)
    assert min(band["end_low"]) == pytest.approx(0.97 + MIN_GAP, abs=1e-8)


def test_weight_decay_pulls_the_band_towards_0():
    first = Schedule("cosine", 20, **INSIDE)
    ends = []
    for decay in (0.0, 1.0):
        rule = partial(ScheduleOptimizer, weight_decay=decay)
        ends.append(band_of(rule, first, runs=40)["tau_high"][-1])
    assert ends[1] < ends[0] - 1


def test_a_parameter_that_is_held_has_no_band():
    first = Schedule("cosine", 20, **INSIDE)
    band = band_of(ScheduleOptimizer, first, [0, 0, 0.1, 0], runs=10)
    assert {"updates", "tau_low", "tau_high"} == set(band)
    text = null_text(first, {}, band)
    assert within(first, band) == ["tau"]
    assert text.startswith("learned: start 0.3 (held), ")
    assert "tau 8 (noise alone: 7." in text
    for rates, updates in ((RATES, 0), ([0] * 4, 9)):
        assert band_of(ScheduleOptimizer, first, rates, updates) == {}
        assert band_of(SteadySteps, first, rates, updates) == {}
    text = null_text(first, first.values(), {})
    assert within(first, {}) == [] and text.startswith("the schedule did not move: start 0.3, ")


def test_what_lies_outside_the_band_was_learned():
    first = Schedule("cosine", 20, **INSIDE)
    band = band_of(SteadySteps, first, runs=40)
    learned = Schedule("cosine", 20, **INSIDE | {"tau": 9.0, "end": 0.5})
    assert within(learned, band) == ["start", "epsilon"]
    assert json.loads(json.dumps(band)) == band


def test_a_long_band_is_thinned_to_a_few_updates():
    band = band_of(ScheduleOptimizer, Schedule("linear", 20), updates=700, runs=8)
    assert band["updates"][0] == 0 and band["updates"][-1] == 700
    assert len(band["updates"]) == len(band["end_low"]) == 201
