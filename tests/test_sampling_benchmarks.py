"""What is found for a trained network by descent, search and grid, and what networks receive."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import frozen_search, predicted_noise, sampling_tables
from benchmarks.frozen import Network
from common.families import table_of
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.tables import read_csv
from common.upper_level import UpperLevel
from metrics import Reference
from model import Diffusion
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


class Measured:
    """Of a Measurement what the trials read: images of four pixels, judged by their moments."""

    noises, updates = 256, 40
    objective = SimpleNamespace(
        extractor=lambda x: (x.flatten(1), None),
        reference=Reference(
            torch.full((4,), MEAN, dtype=torch.float64),
            SPREAD**2 * torch.eye(4, dtype=torch.float64), 9, "", "",
        ),
    )  # fmt: skip

    def sampler(self, network, schedule, steps, clip, **others):
        process = network.parts[1].replaced(sampling_schedule=schedule, told="visited")
        return Sampler(process, SamplerSettings(steps, clip=clip, **others), (1, 2, 2))


@pytest.fixture(scope="module", params=[None, 12])
def trials(request):
    return frozen_search.Trials(Measured(), trained(), STEPS, request.param)


def test_a_trial_is_the_fid_that_a_descent_begins_with(trials):
    schedule = Schedule.from_dict(trials.first.to_dict(), learned=True)
    sampler = trials.measure.sampler(trials.network, schedule, STEPS, clip=True)
    settings = UpperSettings(STEPS, Measured.noises, upper_gradient="exact")
    upper = UpperLevel(sampler, Measured.objective, schedule, settings)
    slope = upper.slope_of_schedule(trials.network.parts[0], 0)
    assert trials({}) == trials(trials.first.values()) == pytest.approx(slope.value, rel=1e-5)


def test_each_method_finds_something_better_than_the_training_schedule(trials):
    """The network is exact at every level: that there are few steps is all that is wrong."""
    first = trials({})
    assert trials(trials.descended()) < 0.7 * first
    for strategy in ("random", "bayesian"):
        assert trials(trials.searched(strategy, 15, seed=1)) <= first
    few, more = (trials(trials.searched("random", count, seed=1)) for count in (3, 60))
    assert more < few <= first
    assert trials.searched("random", 3, seed=1) == trials.searched("random", 3, seed=1)


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
    random = torch.Generator().manual_seed(0)
    x0 = MEAN + SPREAD * torch.randn((4000, 1, 2, 2), generator=random)
    for t in (10, 50, 100):
        best, size = predicted_noise.on_images(net, process, x0, t)
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
    random = torch.Generator().manual_seed(0)
    x0 = MEAN + SPREAD * torch.randn((2000, 1, 2, 2), generator=random)
    _, right = predicted_noise.on_images(net, process, x0, 20)
    assert received[5] < received[100] == pytest.approx(right, rel=0.01)


def test_the_tables_have_a_line_a_kind(tmp_path):
    place = {"network": "n", "size": 8, "steps": 10}
    scores = dict.fromkeys(sampling_tables.FOUND, 2.0)
    rows = [
        {**place, "space": "tau", "method": "grid", "samplings": 11, "seed": seed, **scores}
        | {"found": json.dumps({"tau": tau})}
        for seed, tau in enumerate([1.1, 1.3])
    ]
    line = sampling_tables.of_frozen_search(rows).splitlines()[-1]
    assert "tau: 1.1, 1.3" in line and line.count("2 ± 0") == len(scores)


def test_a_rescaled_input_has_the_size_of_noised_images():
    seen, x = [], torch.full((3, 1, 2, 2), 0.5)

    def net(x, t):
        seen.append((predicted_noise.size_of(x), int(t)))
        return x

    wrapped = predicted_noise.Rescaled(net, {20: 0.8, 40: 0.4})
    for t in (40, 20):
        wrapped(x, torch.tensor([t]))
    assert seen == [(pytest.approx(0.4), 40), (pytest.approx(0.8), 20)]


def test_rows_of_other_networks_stay(tmp_path):
    table, other = tmp_path / "table.csv", trained()
    other.name = "another"
    for network, value in ((other, 1), (trained(), 2), (trained(), 3)):
        place = dict(zip(predicted_noise.KEY, network.key, strict=True))
        predicted_noise.put(table, network, [place | {"value": value}])
    assert [row["value"] for row in read_csv(table)] == [1, 3]
