"""A sampling schedule for a frozen network: an exact denoiser, and the command of a user."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from harness import Script
from test_bilevel import TRAIN

from common.sampling import Sampler, SamplerSettings
from common.sampling_only import learn, sampling_process, steps_table
from common.scores import JUDGES
from common.upper_level import UpperSettings
from metrics import Reference
from model import Diffusion
from scheduler import Schedule

F64 = torch.float64


class ExactDenoiser(torch.nn.Module):
    """The best prediction of the noise where the data is N(0.3, 0.2^2): it knows its levels."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x, t):
        signal, noise, _ = (c[t] for c in self.process.levels())
        return noise * (x - signal * 0.3) / ((signal * 0.2) ** 2 + noise**2)


def test_a_better_schedule_for_few_steps_is_found():
    """The network is exact at every level: that there are few steps is all that is wrong."""
    trained = Diffusion(Schedule("cosine", 100, start=0.0, end=0.97), dtype=F64)
    schedule = Schedule("cosine", 100, learned=True, end=0.97)
    process = sampling_process(trained, schedule, "visited")
    process.dtype = F64
    net = ExactDenoiser(process)
    sampler = Sampler(process, SamplerSettings(4, clip=False), (1, 2, 2))
    judge = SimpleNamespace(
        extractor=lambda x: (x.flatten(1), None),
        reference=Reference(
            torch.full((4,), 0.3, dtype=F64), 0.04 * torch.eye(4, dtype=F64), 9, "", ""
        ),
    )
    rows = []
    run = SimpleNamespace(
        evaluations=Counter(), row=lambda _, **row: rows.append(row), log=print, poll=lambda: None
    )
    settings = UpperSettings(4, 256, upper_gradient="exact")
    learn(run, net, sampler, judge, settings, [0.02, 0.02, 0.1, 0.001], 60)
    best = min(row["fid"] for row in rows)
    assert best < 0.5 * rows[0]["fid"]
    row = next(row for row in rows if row["fid"] == best)
    before = rows[rows.index(row) - 1]  # a row holds where its step led to
    assert schedule.values() == {name: before[name] for name in schedule.values()}


@pytest.mark.parametrize("told", ["visited", "nearest"])
def test_the_table_of_steps_is_what_the_sampler_visits(told):
    trained = Diffusion(Schedule("cosine", 100))
    process = sampling_process(trained, Schedule("linear", 100), told)
    table = steps_table(Sampler(process, SamplerSettings(5), (1, 2, 2)))
    assert [row["time"] for row in table] == [100, 80, 60, 40, 20]
    for row in table:
        ab = 1 - row["time"] / 100 if row["time"] < 100 else None
        if ab:
            assert row["sigma"] == pytest.approx(math.sqrt((1 - ab) / ab), rel=1e-6)
        if told == "visited":
            assert row["told"] == row["time"]
    assert told == "visited" or any(row["told"] != row["time"] for row in table)


FROZEN = ["--cpu", "--threads", 1, "--backward_steps", 4, "--zo_samples", 6, "--frozen_updates", 4]


def test_a_schedule_is_learned_and_sampled_with(tmp_path):
    train = Script(tmp_path, "train")
    assert train.run(*TRAIN) == 0, train.said()
    trained = train.only
    (tmp_path / "frozen").mkdir()
    frozen = Script(tmp_path / "frozen", "bilevel")
    flags = ["--freeze_network", "--ckpt", trained, "--eval_samples", 4, "--scheduler", "knots"]
    assert frozen.run(*FROZEN, *flags, "--knots", 3) == 0, frozen.said()
    learned = json.loads((frozen.only / "schedule.json").read_text())
    assert learned["family"] == "knots" and learned["timesteps"] == 20 and "knot_3" in learned
    table = json.loads((frozen.only / "steps.json").read_text())
    assert len(table["steps"]) == 4 and "sigma" in frozen.said()
    summary = json.loads((frozen.only / "summary.json").read_text())
    assert summary["fid_before"] > 0 and summary["fid"] > 0
    assert summary["upper_reference"] == "digits train, 1437 images" != summary["reference"]
    for scores in (summary, summary["before"]):
        assert all(scores[f"fid_{name}"] > 0 for name in JUDGES)
    again = Script(tmp_path / "frozen", "train")
    words = [*TRAIN, "--sampling_schedule", frozen.only / "schedule.json"]
    assert again.run(*words) == 0, again.said()


@pytest.mark.parametrize(
    ("flags", "named"),
    [("", "ckpt"), ("--ckpt nowhere", "nowhere")],
)
def test_a_frozen_network_needs_a_checkpoint(tmp_path, flags, named):
    script = Script(tmp_path, "bilevel")
    assert script.run(*FROZEN, "--freeze_network", *flags.split()) == 2
    assert named in script.last_line()


@pytest.mark.parametrize("flags", ["--dry_run", "--resume latest", "--scheduler sigmoid",
                                   "--initial_end 0.9"])  # fmt: skip
def test_a_flag_that_a_frozen_network_does_not_read_is_refused(tmp_path, flags):
    script = Script(tmp_path, "bilevel")
    (tmp_path / "runs" / "00000-bilevel-seed0").mkdir(parents=True)
    assert script.run(*FROZEN, "--freeze_network", "--ckpt", "assets/mnist.pt", *flags.split()) == 2
    assert flags.split()[0] in script.last_line()


def test_a_schedule_without_parameters_is_refused(tmp_path):
    train = Script(tmp_path, "train")
    assert train.run(*TRAIN, "--scheduler_type", "ddpm") == 0, train.said()
    frozen = Script(tmp_path, "bilevel")
    assert frozen.run(*FROZEN, "--freeze_network", "--ckpt", train.only) == 2, frozen.said()
    assert "--scheduler knots" in frozen.last_line()
