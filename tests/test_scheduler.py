"""Noise schedules against their closed forms, finite differences and their bounds."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.families import FAMILIES, MIN_GAP, complete
from scheduler import LOG_F, Schedule, log_alpha_bar

LEARNED = ["cosine", "sigmoid", "linear", "knots"]
HIGHEST = {"tau": 50.0, "start": 100.0, "end": 100.0, "epsilon": 5.0}  # where there is no bound


def limits(family):
    """Between which numbers each parameter of a family is drawn."""
    far = {name: HIGHEST.get(name, math.inf) for name in FAMILIES[family]}
    return {n: (max(p.low, -far[n]), min(p.high, far[n])) for n, p in FAMILIES[family].items()}


def corners(family):
    """All parameters at their bounds; start and end far apart, or close together at either one."""
    bounds, gap = limits(family), MIN_GAP * 1.001
    (low, high), others = bounds["start"], list(bounds)[2:]
    for start, end in ((low, high), (low, low + gap), (high - gap, high)):
        for sides in product((0, 1), repeat=min(2, len(others))):  # of every other parameter
            rest = {name: bounds[name][sides[k % 2]] for k, name in enumerate(others)}
            yield {"start": start, "end": end, **rest}


def inside(family):
    """Any parameters inside a family's bounds."""

    @st.composite
    def draw(pick):
        values = {name: pick(st.floats(*limit)) for name, limit in limits(family).items()}
        low, high = sorted([values["start"], values["end"]])
        if high - low < MIN_GAP * 1.001:
            top = min(FAMILIES[family]["end"].high, HIGHEST["end"])
            low = min(low, top - 2 * MIN_GAP)
            high = low + 2 * MIN_GAP
        return {**values, "start": low, "end": high}

    return draw()


@pytest.mark.parametrize("family", LEARNED)
def test_every_schedule_inside_its_bounds_is_sound(family):
    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(values=inside(family), timesteps=st.sampled_from([1, 2, 10, 100, 500]))
    def check(values, timesteps):
        schedule = Schedule(family, timesteps, learned=True, **values)
        log_ab = schedule.log_alpha_bar()
        ab, beta = log_ab.detach().exp(), -torch.expm1(log_ab.detach().diff())
        assert ab.shape == (timesteps + 1,) and ab[0] == 1
        assert torch.isfinite(ab).all() and torch.isfinite(beta).all()
        assert (beta >= 0).all() and (beta <= 0.999 + 1e-12).all()
        assert (ab.diff() <= 0).all() and ab[-1] < 1
        log_ab.sum().backward()
        assert all(torch.isfinite(p.grad) for p in schedule.parameters())

    for values, timesteps in product(corners(family), (1, 500)):
        check = example(values=values, timesteps=timesteps)(check)
    check()


def test_cosine_is_its_closed_form():
    start, end, tau, epsilon, T = 0.1, 0.9, 1.7, 0.02, 200
    u = np.arange(T + 1) / T
    v = start + (end - start) * u
    f = np.cos((v + epsilon) / (1 + epsilon) * np.pi / 2) ** (2 * tau)
    schedule = Schedule("cosine", T, start=start, end=end, tau=tau, epsilon=epsilon)
    np.testing.assert_allclose(schedule.alpha_bar().detach().numpy(), f / f[0], rtol=1e-12)


def test_sigmoid_is_its_closed_form():
    start, end, tau, epsilon, T = -2.0, 2.5, 0.7, 0.1, 200
    v = start + (end - start) * np.arange(T) / T  # t = T is cut off, and tested on its own
    s = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    top = s(end / tau + epsilon)
    f = (top - s(v / tau + epsilon)) / (top - s(start / tau + epsilon))
    schedule = Schedule("sigmoid", T, start=start, end=end, tau=tau, epsilon=epsilon)
    np.testing.assert_allclose(schedule.alpha_bar().detach().numpy()[:-1], f, rtol=1e-11)
    assert schedule.betas()[-1].item() == pytest.approx(0.999)


def test_linear_is_one_minus_time():
    schedule = Schedule("linear", 100, start=0.2, end=0.8)
    v = 0.2 + 0.6 * np.arange(101) / 100
    np.testing.assert_allclose(schedule.alpha_bar().numpy(), (1 - v) / 0.8, rtol=1e-12)


def test_ddpm_is_linear_in_beta():
    np.testing.assert_allclose(
        Schedule("ddpm", 1000).betas().numpy(), np.linspace(1e-4, 0.02, 1000), rtol=1e-10
    )
    coarse = Schedule("ddpm", 100).betas().numpy()
    assert coarse[0] == pytest.approx(1e-3) and coarse[-1] == pytest.approx(0.2)
    short = Schedule("ddpm", 10).betas().numpy()
    np.testing.assert_allclose(short, np.minimum(np.linspace(0.01, 2, 10), 0.999), rtol=1e-10)


def test_default_ends_in_noise():
    """The published sigmoid stopped at alpha_bar = 0.68: nothing like noise."""
    for family in FAMILIES:
        assert Schedule(family, 1000).alpha_bar()[-1] < 1e-4


@pytest.mark.parametrize("family", ["cosine", "sigmoid", "linear"])
def test_start_and_end_cut_the_curve(family):
    """The curve of (start, end) is the piece of the whole curve between them, rescaled."""
    low, high = (FAMILIES[family][name].default for name in ("start", "end"))
    whole = Schedule(family, 1000).alpha_bar()
    for a, b in ((200, 1000), (0, 800), (200, 800)):
        start, end = (low + (high - low) * k / 1000 for k in (a, b))
        part = Schedule(family, b - a, start=start, end=end).log_alpha_bar()
        if family == "sigmoid" and b != 1000:
            continue  # its `end` also moves the level that f falls to
        expected = (whole[a : b + 1] / whole[a]).log()
        torch.testing.assert_close(part[:-1], expected[:-1], rtol=1e-9, atol=1e-9)
    early = Schedule(family, 1000, end=low + 0.8 * (high - low)).alpha_bar()
    late = Schedule(family, 1000, start=low + 0.2 * (high - low)).alpha_bar()
    assert not torch.allclose(early, late, rtol=0.05)


@pytest.mark.parametrize("family", LEARNED)
def test_gradients_agree_with_finite_differences(family):
    point = {
        "cosine": {"start": 0.1, "end": 0.9, "tau": 1.5, "epsilon": 0.02},
        "sigmoid": {"start": -2.0, "end": 2.0, "tau": 0.6, "epsilon": 0.1},
        "linear": {"start": 0.1, "end": 0.9},
        "knots": {"start": -6.0, "end": 5.0, "knot_1": 1.0, "knot_2": 0.4, "knot_3": 2.0},
    }[family]
    names = list(point)
    q = torch.tensor([point[n] for n in names], dtype=torch.float64, requires_grad=True)

    def curve(q):
        return log_alpha_bar(family, 50, dict(zip(names, q, strict=True)))

    assert torch.autograd.gradcheck(curve, q, eps=1e-7, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "given", "named"),
    [
        ("cosine", {"start": -0.1}, "start"),
        ("cosine", {"end": 1.1}, "end"),
        ("cosine", {"tau": 0.5}, "tau"),
        ("cosine", {"epsilon": 2}, "epsilon"),
        ("cosine", {"start": 0.7, "end": 0.7}, "end must exceed start"),
        ("cosine", {"tau": math.nan}, "tau"),
        ("cosine", {"tau": math.inf}, "tau"),
        ("cosine", {"tau": 1e308}, "tau"),
        ("sigmoid", {"start": -1e308}, "start"),
        ("sigmoid", {"epsilon": 1e308}, "epsilon"),
        ("cosine", {"tau": "2"}, "tau"),
        ("cosine", {"gamma": 1.0}, "gamma"),
        ("sigmoid", {"tau": 0.05}, "tau"),
        ("sigmoid", {"tau": 2}, "tau"),
        ("sigmoid", {"start": 4}, "start"),
        ("linear", {"tau": 1}, "tau"),
        ("ddpm", {"start": 0}, "start"),
        ("knots", {"start": -21}, "start"),
        ("knots", {"start": 3, "end": 3}, "end must exceed start"),
        ("knots", {"knot_1": 1, "knot_2": 0}, "knot_2"),
        ("knots", {"knot_1": 1, "knot_2": 101}, "knot_2"),
        ("knots", {"knot_1": 1, "knot_3": 1}, "knot_3"),
        ("knots", {"tau": 1}, "tau"),
        ("cosine", {"knot_1": 1}, "knot_1"),
        ("cosin", {}, "family"),
    ],
)
def test_out_of_bounds_is_an_error_that_names_the_parameter(family, given, named):
    with pytest.raises(ValueError, match=named):
        Schedule(family, 100, **given)


@pytest.mark.parametrize("family", LEARNED)
def test_projection_lands_inside_and_leaves_the_inside_alone(family):
    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(values=st.lists(st.floats(-9, 9), min_size=14, max_size=14))
    def check(values):
        schedule = Schedule(family, 10, learned=True)
        for parameter, value in zip(schedule.parameters(), values, strict=False):
            parameter.data.fill_(value)
        complete(family, schedule.project_().values())  # raises if it is outside
        before = schedule.values()
        assert schedule.project_().values() == before
        assert min(schedule.to_bounds().values()) >= -1e-12

    check()


def test_start_and_end_are_also_bounded_by_each_other():
    close = Schedule("cosine", 10, start=0.4, end=0.5, tau=1.5, epsilon=0.1)
    apart = Schedule("sigmoid", 10, start=-2.0, end=3.0, tau=0.7)
    gap = 0.1 - MIN_GAP
    expected = {"start": gap, "end": gap, "tau": 0.5, "epsilon": 0.1}
    assert close.to_bounds() == pytest.approx(expected)
    assert apart.to_bounds()["end"] == 5 - MIN_GAP
    assert Schedule("linear", 10, start=0.1).to_bounds() == {"start": 0.1, "end": 0.0}


def test_projection_is_the_nearest_point():
    rng = np.random.default_rng(0)
    for start, end in [(2.0, 0.9), (-5.0, -1.0), (0.6, 0.2), (0.3, 7.0), (-1.0, 0.5)]:
        schedule = Schedule("cosine", 10, learned=True)
        schedule.start.data.fill_(start)
        schedule.end.data.fill_(end)
        schedule.project_()
        ours = math.dist((start, end), (schedule.start.item(), schedule.end.item()))
        a, b = np.sort(rng.random((2, 200_000)), axis=0)
        others = np.hypot(a - start, b - end)[b - a >= MIN_GAP]
        assert ours <= others.min() + 1e-5


def test_a_vector_is_a_copy_of_the_parameters_and_gives_their_curve():
    schedule = Schedule("cosine", 20, learned=True, start=0.1, end=0.9, tau=1.3)
    q = schedule.vector()
    assert q.tolist() == list(schedule.values().values()) and not q.requires_grad
    assert torch.equal(schedule.curve(q), schedule.log_alpha_bar())
    q[0] = 0.3
    assert schedule.values()["start"] == 0.1
    assert Schedule("ddpm", 20).vector().shape == (0,) and Schedule("ddpm", 20).values() == {}


def test_a_gradient_is_given_by_parameter():
    schedule = Schedule("cosine", 20, learned=True, start=0.5, end=0.9, tau=3.0, epsilon=0.5)
    optimizer = torch.optim.SGD(schedule.parameters(), lr=0.1)
    gradient = torch.tensor([1.0, -0.5, 2.0, 0.25], dtype=torch.float64)
    before = schedule.vector()
    schedule.set_gradient_(gradient)
    gradient.zero_()  # the caller's own from now on
    optimizer.step()
    moved = torch.tensor([-0.1, 0.05, -0.2, -0.025], dtype=torch.float64)
    torch.testing.assert_close(schedule.vector() - before, moved)
    with pytest.raises(ValueError, match="zip"):
        schedule.set_gradient_(gradient[:3])


def test_numbers_are_read_from_the_device_at_once(monkeypatch):
    """Each .item() waits for a GPU: the parameters come as one list."""
    schedule, reads, read = Schedule("cosine", 20, learned=True), [], torch.Tensor.tolist

    def counted(tensor):
        reads.append(tensor.shape)
        return read(tensor)

    def item(_):
        raise AssertionError("one parameter was read by itself")

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    monkeypatch.setattr(torch.Tensor, "item", item)
    schedule.values()
    schedule.project_()
    schedule.to_bounds()
    assert reads == [(4,)] * 3


def test_every_family_has_its_formula_and_its_ranges_lie_inside_its_bounds():
    for family, table in FAMILIES.items():
        assert (family in LOG_F) == bool(table)
        for p in table.values():
            assert p.low <= p.default <= p.high
            assert p.low <= p.search[0] < p.search[1] <= p.high


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("cosine", {"start": 1 / 3, "end": 0.9, "tau": 1.25, "epsilon": 0.01}),
        ("knots", {"start": -6.1, "end": 5, "knot_1": 1 / 3, "knot_2": 2, "knot_3": 0.7}),
    ],
)
def test_schedule_survives_its_json(tmp_path, family, values):
    schedule = Schedule(family, 300, **values)
    schedule.save(tmp_path / "schedule.json")
    again = Schedule.load(tmp_path / "schedule.json")
    assert again.to_dict() == schedule.to_dict()
    assert torch.equal(again.alpha_bar(), schedule.alpha_bar())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"family": "cosine"}', '{"family": "cosine", "timesteps": 0}',
     '{"family": "cosine", "timesteps": 10, "tau": 0.1}',
     '{"family": "cosine", "timesteps": 10, "colour": 1}',
     '{"family": ["cosine"], "timesteps": 10}', '{"family": "cosine", "timesteps": true}'],
)  # fmt: skip
def test_a_wrong_schedule_file_is_one_error_that_names_it(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.json: not a noise schedule"):
        Schedule.load(path)
    with pytest.raises(ValueError, match=r"gone\.json: cannot be read"):
        Schedule.load(tmp_path / "gone.json")


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("cosine", 100, start=0.1, end=0.9, tau=1.3),
        Schedule("knots", 100, start=-6, end=0.9, knot_1=1.0, knot_2=0.2, knot_3=3.0),
    ],
)
def test_diffusers_takes_the_betas(schedule):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(100, trained_betas=schedule.betas().detach().numpy())
    torch.testing.assert_close(
        theirs.alphas_cumprod.double(), schedule.alpha_bar().detach()[1:], rtol=1e-5, atol=1e-9
    )
    assert json.loads(json.dumps(schedule.to_dict()))["end"] == 0.9
