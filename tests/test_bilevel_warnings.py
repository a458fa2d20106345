"""The warnings of a bilevel run: none on a healthy one, each once, and each says what to do."""

import math
from types import SimpleNamespace

import pytest
import torch

import train_mnist_bayesian
import train_mnist_bilevel_ZO
from common import cli
from common.bilevel_figures import on_the_clock
from common.bilevel_report import Warnings, report
from common.schedule_optimizer import ScheduleOptimizer
from common.step_rule import SteadySteps
from scheduler import Schedule

F64 = torch.float64
RATES = [0.001, 0.001, 0.01, 0.0001]
INSIDE = {"start": 0.3, "end": 0.7, "tau": 8.0, "epsilon": 0.5}
SLOPE = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64)


def warned(rule, gradient, updates=60, rates=RATES, how="zo", first=None, penalty=None):
    """Every warning of a run with these gradients, one report an update."""
    schedule = Schedule("cosine", 20, learned=True, **(INSIDE if first is None else first))
    q = rule(schedule, rates, updates)
    warnings, texts = Warnings(q, how, schedule), []
    for i in range(updates):
        slopes = gradient(i)
        q.step(slopes)
        silent = SimpleNamespace(warning=lambda: None, flat=not slopes.any())
        texts += warnings.new(penalty or silent)
    return texts


def noise(_):
    return torch.randn(4, dtype=F64)


@pytest.mark.parametrize("rule", [SteadySteps, ScheduleOptimizer])
@pytest.mark.parametrize("first", [INSIDE, {}])
def test_a_healthy_run_warns_of_nothing(rule, first):
    """A slope three times its noise, from inside and from the default corner, ten runs each."""
    for _ in range(10):
        assert warned(rule, lambda _: -SLOPE + torch.randn(4) / 3, first=first) == []


def test_noise_that_is_taken_for_a_slope_is_told_once():
    counts = []
    for how, advice in (("zo", "--upper_gradient exact"), ("forward", "--zo_samples")):
        torch.manual_seed(0)
        texts = [text for _ in range(20) for text in warned(ScheduleOptimizer, noise, how=how)]
        assert all("after 20 updates" in text and advice in text for text in texts)
        counts.append(len(texts))
    assert all(10 <= count <= 20 for count in counts)  # .95 to the power of 4 is .81
    assert [t for _ in range(20) for t in warned(SteadySteps, noise)] == []


def test_a_held_schedule_has_nothing_to_say():
    for rule in (SteadySteps, ScheduleOptimizer):
        assert warned(rule, noise, rates=[0] * 4, first={}) == []
        assert warned(rule, lambda _: 0 * SLOPE, rates=[0] * 4) == []


def test_a_bound_is_told_when_it_is_reached():
    to_the_end = {"start": 0.3, "end": 0.98, "tau": 8.0, "epsilon": 0.5}
    for rule in (SteadySteps, ScheduleOptimizer):
        (text,) = warned(rule, lambda _: SLOPE, first=to_the_end, rates=[0.001, 0.01, 0.001, 0])
        assert text.startswith("end reached a bound") and "--lr_beta" in text
        assert warned(rule, lambda _: SLOPE, first={}) == []  # it began there


def test_scores_whose_times_were_deleted_keep_their_place_on_the_clock():
    scores, timing = {"epoch": [1, 2], "fid": [9, 8]}, {"epoch": [2, 3], "seconds": [5, 7]}
    seconds = on_the_clock(scores, timing)["seconds"]
    assert math.isnan(seconds[0]) and seconds[1] == 5
    assert (
        len(on_the_clock(scores, {})["seconds"]) == 2 and on_the_clock({}, timing)["seconds"] == []
    )


def test_a_warning_reaches_the_terminal_beside_a_progress_bar():
    """Where the lines of the log do not."""
    lines = []
    run = SimpleNamespace(
        log=lambda text, echo=True: lines.append((text, echo)), row=lambda *_, **__: None,
        device=torch.device("cpu"),
    )  # fmt: skip
    schedule = Schedule("cosine", 20, learned=True, **INSIDE)
    q = SteadySteps(schedule, RATES, 60)
    penalty = SimpleNamespace(warning=lambda: "raise --gamma", flat=False)
    report(run, 10, {"loss_y": 0.5}, q, 8, Warnings(q, "exact", schedule), penalty, echo=False)
    assert lines[0][0].startswith("iteration 10: loss_y 0.5") and not lines[0][1]
    assert lines[1] == ("warning: raise --gamma", True)


@pytest.mark.parametrize("rate, told", [(0.01, 1), (0.0, 0)])
def test_an_fid_that_rose_after_the_schedule_moved_is_told_once(rate, told):
    schedule = Schedule("cosine", 20, learned=True, **INSIDE)
    q, texts = SteadySteps(schedule, [rate] * 4, 60), []
    silent = SimpleNamespace(warning=lambda: None, flat=False)
    warnings = Warnings(q, "exact", schedule, [50, math.nan])
    for fid in (40, 75, 38, 40, 210):  # as noise has it, and beyond
        q.step(SLOPE)
        texts += warnings.new(silent, fid)
    # of a run that is resumed after the step
    again = Warnings(q, "exact", Schedule("cosine", 20, **INSIDE), [40, 38])
    assert len(again.new(silent, 209)) == told
    assert len(texts) == told and all("5.5 times the lowest so far" in text for text in texts)


def test_a_gradient_of_exactly_0_is_told():
    for rule in (SteadySteps, ScheduleOptimizer):
        (text,) = warned(rule, lambda _: 0 * SLOPE)
        assert "exactly 0" in text and "a lower --initial_end" in text


def test_the_advice_of_the_penalty_is_given_once():
    texts = iter(
        [
            "theta_z has left argmin L, its loss is 7% higher: raise --gamma tenfold",
            "theta_z has left argmin L, its loss is 9% higher: raise --gamma tenfold",
            None,
        ]
        * 20
    )
    penalty = SimpleNamespace(warning=lambda: next(texts), flat=False)
    assert len(warned(SteadySteps, lambda _: SLOPE, penalty=penalty)) == 1


@pytest.mark.parametrize(
    "theta_z, every, inner_loop, shared, most",
    [
        ("coupled", 4, 1, 3, 4), ("coupled", 10, 1, 0, 10), ("kept", 4, 1, 0, 0),
        ("coupled", 4, 10, 0, 10), ("coupled", 10, 4, 2, 8),
    ],
)  # fmt: skip
def test_updates_that_share_an_exact_gradient_are_warned_of(
    theta_z, every, inner_loop, shared, most
):
    lines = []
    run, upper = SimpleNamespace(log=lines.append), SimpleNamespace(left_out=list)
    args = SimpleNamespace(
        recipe="exact", theta_z=theta_z, upper_gradient="exact", update_every=every, exact_every=10,
        inner_loop=inner_loop, extractor=None, dataset="mnist", image_size=None,
    )  # fmt: skip
    train_mnist_bilevel_ZO.log_hints(args, run, upper, None)
    warnings = [line for line in lines if "share one exact gradient" in line]
    assert warnings == [line for line in lines if f"up to {shared} updates share" in line]
    assert len(warnings) == bool(shared)
    assert all(f"an --exact_every of at most {most} avoids" in line for line in warnings)


@pytest.mark.parametrize("dataset", ["mnist", "folder"])
def test_both_scripts_warn_where_nothing_else_judges(dataset):
    lines = []
    run, upper = SimpleNamespace(log=lines.append), SimpleNamespace(left_out=list)
    for script, kind, parts in (
        (train_mnist_bilevel_ZO, "bilevel", (upper, None)),
        (train_mnist_bayesian, "search", ()),
    ):
        args = cli.parse(script.make_parser(), kind, script.check, ["--dataset", dataset])
        script.log_hints(args, run, *parts)
    assert sum("the only judge" in line for line in lines) == (2 if dataset == "folder" else 0)
