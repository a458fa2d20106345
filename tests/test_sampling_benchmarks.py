"""What is found for a trained network by descent, search and grid, and what networks receive."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import frozen_search, predicted_noise, sampling_tables
from benchmarks.frozen import Measurement, Network, networks
from common.errors import Stop
from common.families import table_of
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.tables import read_csv
from common.upper_level import UpperLevel
from metrics import Reference
from model import Diffusion, visited_times
from scheduler import Schedule

MEAN, SPREAD, TIMESTEPS, STEPS = 0.3, 0.2, 100, 4


class Denoiser(torch.nn.Module):
    """The best prediction of the noise where the data is N(0.3, 0.2^2), times a factor."""

    def __init__(self, process, factor=1.0):
        super().__init__()
        self.process, self.factor = process, factor

    def forward(self, x, t):
        signal, noise, _ = (c[t] for c in self.process.levels())
        best = noise * (x - signal * MEAN) / ((signal * SPREAD) ** 2 + noise**2)
        return self.factor * best


def trained(factor=1.0) -> Network:
    process = Diffusion(Schedule("cosine", TIMESTEPS, end=0.97))
    return Network("exact", 2, 0, lambda: (Denoiser(process, factor), process))


class Measured(Measurement):
    """Images of four pixels, judged by their moments; no data."""

    objective = SimpleNamespace(
        extractor=lambda x: (x.flatten(1), None),
        reference=Reference(
            torch.full((4,), MEAN, dtype=torch.float64),
            SPREAD**2 * torch.eye(4, dtype=torch.float64), 9, "", "",
        ),
    )  # fmt: skip
    judges, shape = None, (1, 2, 2)

    def __init__(self, images=1000, noises=256, updates=40):
        self.images, self.noises, self.updates = images, noises, updates


def images(n: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return MEAN + SPREAD * torch.randn((n, 1, 2, 2), generator=random)


@pytest.fixture(scope="module", params=[None, 12])
def trials(request):
    return frozen_search.Trials(Measured(), trained(), STEPS, request.param)


def test_a_trial_is_the_fid_that_a_descent_begins_with(trials):
    schedule = Schedule.from_dict(trials.first.to_dict(), learned=True)
    sampler = trials.measure.sampler(trials.network, schedule, STEPS, clip=True)
    settings = UpperSettings(STEPS, trials.measure.noises, upper_gradient="exact")
    upper = UpperLevel(sampler, Measured.objective, schedule, settings)
    slope = upper.slope_of_schedule(trials.network.parts[0], 0)
    assert trials({}) == trials(trials.first.values()) == pytest.approx(slope.value, rel=1e-5)


def test_each_method_ends_below_the_training_schedule(trials):
    """The network is exact at every level: that there are few steps is all that is wrong."""
    first = trials({})
    assert trials(trials.descended()) < 0.7 * first
    few, more = (trials(trials.searched("random", count, seed=1)) for count in (3, 60))
    assert more < few
    assert trials.searched("random", 3, seed=1) == trials.searched("random", 3, seed=1)


def test_a_bayesian_search_begins_with_the_training_schedule(monkeypatch):
    trials, tried = frozen_search.Trials(Measured(), trained(), STEPS, None), []
    monkeypatch.setattr(
        frozen_search.Trials, "__call__", lambda _, point: tried.append(point) or point["tau"]
    )
    count = frozen_search.AT_RANDOM + 2
    assert trials.searched("bayesian", count, seed=1) == tried[0] == trials.first.values()
    assert len(tried) == count
    # of what it proposes itself, something is nearer to the least tau than its random points
    known = min(point["tau"] for point in tried[1 : frozen_search.AT_RANDOM])
    assert min(point["tau"] for point in tried[frozen_search.AT_RANDOM :]) < known


def test_a_search_looks_where_its_first_point_is(trials):
    box, values = frozen_search.box_around(trials.first), trials.first.values()
    table = table_of(trials.first.family, values)
    for name, (low, high) in box.items():
        assert low <= values[name] <= high
        assert low <= table[name].search[0] and high >= table[name].search[1]


def test_a_point_may_change_the_sampler():
    trials = frozen_search.Trials(Measured(), trained(0.8), STEPS, None)
    factors = {value: trials({"eps_scale": value}) for value in (0.8, 1.0, 1.25)}
    assert min(factors, key=factors.get) == 1.25  # which makes up for the network's
    assert trials.sampler({"tau": 1.3}).process.sampling_schedule.values()["tau"] == 1.3


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_the_best_factor_of_an_exact_prediction(factor):
    net, process = trained(factor).parts
    for t in (10, 50, 100):
        best, size = predicted_noise.on_images(net, process, images(4000), t)
        assert best == pytest.approx(1 / factor, rel=0.03)
        signal, noise, _ = (part[t] for part in process.levels())
        second_moment = signal**2 * (MEAN**2 + SPREAD**2) + noise**2
        assert size == pytest.approx(float(second_moment.sqrt()), rel=0.02)


def test_chains_of_few_steps_receive_too_little():
    """In the limit of small steps an exact network's chain has the levels of noised images."""
    net, process = trained().parts
    received = {
        steps: predicted_noise.on_the_way(net, process, (2000, 1, 2, 2), steps, {}, 1.0)[20]
        for steps in (5, 100)
    }
    _, right = predicted_noise.on_images(net, process, images(2000), 20)
    assert received[5] < received[100] == pytest.approx(right, rel=0.01)


def test_a_rescaled_chain_has_the_sizes_of_noised_data():
    """An exact network lacks small steps alone: the right sizes bring nothing out of place."""
    network = trained()
    net, process = network.parts
    times = visited_times(TIMESTEPS, STEPS)
    sizes = [predicted_noise.on_images(net, process, images(4000), t)[1] for t in times]
    plain = Sampler(process, SamplerSettings(STEPS, clip=False), (1, 2, 2))
    rescaled = Sampler(predicted_noise.Rescaled(process, sizes), plain.settings, plain.shape)
    with torch.no_grad():
        spreads = [float(s.all_of(net, 2000, "test").std()) for s in (plain, rescaled)]
    assert abs(spreads[1] - SPREAD) < abs(spreads[0] - SPREAD)
    seen = []
    predicted_noise.Rescaled(process, sizes).sample(
        lambda x, t: (seen.append((int(t), predicted_noise.size_of(x))), net(x, t))[1],
        torch.randn((50, 1, 2, 2)), STEPS,
    )  # fmt: skip
    assert seen == [
        (t, pytest.approx(size, rel=1e-5)) for t, size in list(zip(times, sizes, strict=True))[::-1]
    ]


def settings_seen(sampler, *_):
    """Instead of judges: the tau that the sampler has, and its factor."""
    tau = sampler.process.sampling_schedule.values().get("tau", 0)
    columns = dict.fromkeys(frozen_search.JUDGES_COLUMNS, tau)
    return columns | {"fid_first": sampler.settings.eps_scale}


def test_the_judges_see_each_chain(monkeypatch):
    monkeypatch.setattr(predicted_noise, "evaluate", settings_seen)
    rows = predicted_noise.fids_of(trained(), images(50), Measured())
    seen = {row["chain"]: row["fid_second"] for row in rows}
    assert seen == {"default": "1", "tau 1.15": "1.15", "rescaled": "1"}


def test_a_row_is_measured_once_for_each_budget(tmp_path, monkeypatch):
    table = tmp_path / "table.csv"
    monkeypatch.setattr(frozen_search, "TABLE", table)
    monkeypatch.setattr(frozen_search, "networks", lambda args, steps: [trained()])
    monkeypatch.setattr(
        frozen_search, "Measurement", lambda _, *sizes: Measured(*sizes)
    )  # the source is not read
    monkeypatch.setattr(frozen_search, "evaluate", settings_seen)

    def run(*flags):
        words = ["--steps", str(STEPS), "--noises", "64", "--calls", "3", *flags]
        frozen_search.main(frozen_search.make_parser().parse_args(words))
        return read_csv(table)

    rows = run("--updates", "2", "--methods", "none", "descent", "random", "grid")
    assert [(r["space"], r["method"], r["samplings"]) for r in rows] == [
        ("4 parameters", "none", 0), ("4 parameters", "descent", 8), ("4 parameters", "random", 8),
        ("12 knots", "none", 0), ("12 knots", "descent", 8), ("12 knots", "random", 8),
        ("tau", "grid", 11), ("eps_scale", "grid", 11),
    ]  # fmt: skip
    by_plan = {(r["space"], r["method"]): r for r in rows}
    assert all(r["minimised"] <= r["at_first"] for r in rows)
    factor = by_plan["eps_scale", "grid"]
    assert json.loads(factor["point"])["eps_scale"] == factor["fid_first"] < rows[0]["fid_first"]
    chosen = by_plan["4 parameters", "random"]
    assert json.loads(chosen["point"])["tau"] == pytest.approx(chosen["fid_second"], rel=1e-5)
    assert len(run("--updates", "2", "--methods", "none", "random")) == len(rows)
    assert len(run("--updates", "3", "--methods", "random")) == len(rows) + 2
    table_text = sampling_tables.of_frozen_search(rows).splitlines()
    assert len(table_text) == 2 + len(rows)
    assert f"eps_scale: {factor['fid_first']:g} | grid | 11 |" in table_text[-1]


def test_more_steps_than_a_network_has_times_are_refused():
    args = SimpleNamespace(ckpt=["assets/mnist.pt"])
    assert networks(args, 200)[0].key == ("U-Net, 32 channels", 28, 1)
    with pytest.raises(Stop, match="201 steps exceed"):
        networks(args, 201)


def test_rows_of_other_networks_stay(tmp_path):
    table, other = tmp_path / "table.csv", trained()
    other.name = "another"
    for network, value in ((other, 1), (trained(), 2), (trained(), 3)):
        place = dict(zip(predicted_noise.KEY, network.key, strict=True))
        predicted_noise.put(table, network, [place | {"value": value}])
    assert [row["value"] for row in read_csv(table)] == [1, 3]
