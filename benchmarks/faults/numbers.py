"""Numbers at their limits: schedules, distances, gradients that fail half-way."""

import itertools
import math
import random
from pathlib import Path

import torch
from harness import TwoLayers
from toys import small_upper

from benchmarks.faults.row import Row
from common.families import FAMILIES, complete
from common.weights import flat
from metrics import FeatureStatistics, Reference, frechet_distance
from scheduler import Schedule

LEARNED = ["cosine", "sigmoid", "linear", "knots"]


def _parameters(family: str, rng: random.Random, outside: bool) -> dict[str, float]:
    values = {}
    for name, p in FAMILIES[family].items():
        near = [p.default, rng.uniform(*p.search), rng.uniform(p.low, p.high), p.low, p.high]
        far = [math.inf, -math.inf, math.nan, 1e308, -1e308, p.low - 1e-9, p.high * 1.001 + 1]
        values[name] = rng.choice(near + far if outside else near)
    return values


def _sound(schedule: Schedule) -> None:
    log_ab = schedule.log_alpha_bar()
    ab, beta = log_ab.detach().exp(), -torch.expm1(log_ab.detach().diff())
    assert torch.isfinite(ab).all() and torch.isfinite(beta).all()
    assert (beta >= 0).all() and (beta <= 0.999 + 1e-12).all() and (ab.diff() <= 0).all()
    log_ab.sum().backward()
    assert all(torch.isfinite(p.grad) for p in schedule.parameters())


def schedule_inside(i: int, folder: Path) -> None:
    """Finite, 0 <= beta <= 0.999, alpha_bar falls, gradients finite; at the bounds too."""
    rng, family = random.Random(i), LEARNED[i % 4]
    while True:
        values = _parameters(family, rng, outside=False)
        try:
            complete(family, values)
            break
        except ValueError:  # end does not exceed start
            continue
    _sound(Schedule(family, rng.choice([1, 2, 10, 100, 1000]), learned=True, **values))


def schedule_outside(i: int, folder: Path) -> None:
    """A ValueError, or a sound schedule."""
    rng, family = random.Random(i), LEARNED[i % 4]
    values = _parameters(family, rng, outside=True)
    try:
        schedule = Schedule(family, rng.choice([1, 2, 100]), learned=True, **values)
    except ValueError:
        return
    _sound(schedule)


def _samples(kind: str, rng: random.Random) -> torch.Tensor:
    n, d = rng.choice([2, 3, 10, 50]), rng.choice([1, 2, 8, 20])
    torch.manual_seed(rng.randrange(10**6))
    x = torch.randn(n, d, dtype=rng.choice([torch.float32, torch.float64]))
    return {
        "plain": x, "single": x[:1], "none": x[:0], "constant": torch.ones_like(x),
        "nan": x * math.nan, "infinite": x / 0,
        "one nan": x.index_fill(0, torch.tensor([0]), math.nan),
        "huge": x * 1e30, "tiny": x * 1e-30, "low rank": x[:, :1].expand(n, d),
    }[kind]  # fmt: skip


KINDS = ["plain", "single", "none", "constant", "nan", "infinite", "one nan", "huge", "tiny",
    "low rank"]  # fmt: skip


def degenerate_samples(i: int, folder: Path) -> None:
    """The FID of odd samples with themselves and others: a number >= 0, or a ValueError."""
    rng = random.Random(i)
    x = _samples(KINDS[i % len(KINDS)], rng)
    y = x if i // len(KINDS) % 2 else torch.randn(30, x.shape[1], dtype=torch.float64)
    try:
        statistics = FeatureStatistics()
        statistics.update(y)
        reference = Reference(*statistics.moments(), len(y), "test", "extractor")
        value = float(frechet_distance(x, reference))
    except ValueError:
        return
    assert math.isfinite(value) and value >= 0
    if y is x:
        scale = float(x.double().pow(2).sum(1).mean()) or 1.0
        assert value <= 1e-6 * scale, value


# (directions, ZO_type, the call that fails): a direction takes two calls with two points, else one
FAILING = [(n, "two", call) for n in (1, 2, 3) for call in range(1, 2 * n + 1)]
FAILING += [(n, "one", call) for n in (1, 2, 3) for call in range(1, n + 1)]


def failing_gradient(i: int, folder: Path) -> None:
    """A zeroth-order gradient that raises half-way leaves the weights bit for bit."""
    directions, zo_type, fails = FAILING[i]
    torch.manual_seed(i)
    upper, net, _, _ = small_upper(
        TwoLayers(timesteps=40), upper_gradient="zo", directions=directions, zo_type=zo_type
    )
    upper.sampler.noise = lambda n, *_: torch.randn(n, 1, 8, 8, dtype=torch.float64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calls, real = itertools.count(1), upper.features

    def features(*args):
        if next(calls) == fails:
            raise RuntimeError("out of memory")
        return real(*args)

    upper.features = features
    try:
        upper.slope_of_weights(net, 0)
    except RuntimeError:
        pass
    else:
        raise AssertionError("it did not fail")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.isfinite(flat(net)).all()


ROWS = [
    Row("schedules inside their bounds", "finite, 0 <= beta <= 0.999, alpha_bar falls",
        schedule_inside, 8000, 400),
    Row("schedules outside", "ValueError, or a sound schedule", schedule_outside, 2000, 200),
    Row("FID of degenerate samples", "a number, or ValueError", degenerate_samples, 200, 100),
    Row("a gradient that raises half-way", "the weights are bit for bit as before",
        failing_gradient, len(FAILING), len(FAILING)),
]  # fmt: skip
