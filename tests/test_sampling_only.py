"""A sampling schedule for a frozen network: an exact denoiser, and the command of a user."""

import json
import math
import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from harness import Script, TwoLayers
from test_bilevel import TRAIN

import train_mnist_bilevel_ZO
from common import cli, evaluate, networks
from common.compare.records import read_record
from common.compare.samples import sampler_of
from common.errors import NotFinite
from common.families import TOLD
from common.locate import ROOT
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.sampling_only import learn, steps_table
from common.scores import JUDGES
from common.upper_level import UpperLevel
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
        signal, noise, _ = (c[t] for c in self.process.levels(self.process.sampling_schedule))
        return noise * (x - signal * 0.3) / ((signal * 0.2) ** 2 + noise**2)


def learned_of_an_exact_network(updates: int) -> tuple[Schedule, list[dict]]:
    """A schedule of four steps after at most so many updates, and the rows of the descent."""
    trained = Diffusion(Schedule("cosine", 100, start=0.0, end=0.97), dtype=F64)
    schedule = Schedule("cosine", 100, learned=True, end=0.97)
    process = trained.replaced(sampling_schedule=schedule, told="visited")
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
    rates = [0.02, 0.02, 0.1, 0.001]
    q = learn(run, ExactDenoiser(process), sampler, judge, settings, rates, updates)
    assert q.count == len(rows)  # what the summary says and the null band follows
    return schedule, rows


def test_a_better_schedule_for_few_steps_is_found():
    """The network is exact at every level: that there are few steps is all that is wrong."""
    schedule, rows = learned_of_an_exact_network(60)
    best = min(row["fid"] for row in rows)
    assert best < 0.5 * rows[0]["fid"]
    row = next(row for row in rows if row["fid"] == best)
    assert schedule.values() == {name: row[name] for name in schedule.values()}


@pytest.mark.parametrize("cause", ["zero", "not finite"])
def test_a_descent_that_comes_where_there_is_no_gradient_keeps_its_best(cause, monkeypatch, capsys):
    whole, calls = UpperLevel.slope_of_schedule, []

    def ends(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4 and cause == "not finite":
            raise NotFinite("the FID (nan)")
        found = whole(self, *arguments)
        return found._replace(gradient=0 * found.gradient) if len(calls) == 4 else found

    monkeypatch.setattr(UpperLevel, "slope_of_schedule", ends)
    schedule, rows = learned_of_an_exact_network(60)
    assert len(rows) == 3 and "the best schedule so far is kept" in capsys.readouterr().out
    assert rows[2]["fid"] < rows[1]["fid"] < rows[0]["fid"]
    assert schedule.values() == {name: rows[2][name] for name in schedule.values()}
    if cause == "not finite":
        calls[:] = [None] * 3
        with pytest.raises(NotFinite):  # at the first update there is nothing to keep
            learned_of_an_exact_network(60)


@pytest.mark.parametrize("told", ["visited", "nearest"])
def test_the_table_of_steps_is_what_the_sampler_visits(told):
    trained = Diffusion(Schedule("cosine", 100))
    process = trained.replaced(sampling_schedule=Schedule("linear", 100), told=told)
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


@pytest.fixture(scope="module", params=["visited", "nearest"])
def learned(request, tmp_path_factory):
    """A trained run, and what was learned for its network, told the times in one of two ways."""
    folder = tmp_path_factory.mktemp(request.param)
    train, frozen = Script(folder, "train"), Script(folder / "frozen", "bilevel")
    frozen.folder.mkdir()
    assert train.run(*TRAIN) == 0, train.said()
    flags = ["--freeze_network", "--ckpt", train.only, "--eval_samples", 40, "--scheduler", "knots"]
    flags += ["--knots", 3, "--told", request.param]
    assert frozen.run(*FROZEN, *flags) == 0, frozen.said()
    return SimpleNamespace(told=request.param, trained=train.only, frozen=frozen)


def test_a_schedule_is_learned(learned):
    content = json.loads((learned.frozen.only / "schedule.json").read_text())
    assert content["family"] == "knots" and content["timesteps"] == 20 and "knot_3" in content
    assert content["told"] == learned.told
    table = json.loads((learned.frozen.only / "steps.json").read_text())
    assert len(table["steps"]) == 4 and "sigma" in learned.frozen.said()
    summary = json.loads((learned.frozen.only / "summary.json").read_text())
    assert summary["fid_before"] > 0 and summary["fid"] > 0
    assert summary["upper_reference"] == "digits train, 1437 images" != summary["reference"]
    for scores in (summary, summary["before"]):
        assert all(scores[f"fid_{name}"] > 0 for name in JUDGES)


def rewritten(learned, path, **changes):
    """A copy of the learned schedule's file with other content."""
    content = json.loads((learned.frozen.only / "schedule.json").read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def test_the_schedule_samples_and_is_judged_elsewhere_as_it_was_learned(
    learned, monkeypatch, capsys
):
    """common.evaluate finds the FID that the frozen run reported, unless --told says otherwise."""
    monkeypatch.setattr(networks, "network_class", lambda _: TwoLayers)  # as Script does
    path = learned.frozen.only / "schedule.json"
    words = ["--run", str(learned.trained), "--eval_samples", "40", "--device", "cpu"]
    words += ["--backward_steps", "4", "--sampling_schedule", str(path)]
    fids = {}
    for told in (None, *TOLD):
        evaluate.judge_again(
            evaluate.make_parser().parse_args([*words, *(["--told", told] if told else [])])
        )
        fids[told] = json.loads(capsys.readouterr().out)["fid"]
    reported = json.loads((learned.frozen.only / "summary.json").read_text())["fid"]
    assert fids[None] == fids[learned.told] == pytest.approx(reported, rel=1e-9)
    assert fids["nearest"] != fids["visited"]
    judged = json.loads((learned.trained / "summary.json").read_text())["judged_again"]
    assert [entry["told"] for entry in judged] == [learned.told, *TOLD]
    assert all(entry["sampling_schedule"]["knot_1"] for entry in judged)


def pixels(script, *flags):
    """The pictures of a --sample_only run."""
    known = set(script.folder.glob("runs/*"))
    assert script.run("--cpu", "--sample_only", "--backward_steps", 4, *flags) == 0, script.said()
    (folder,) = set(script.folder.glob("runs/*")) - known
    return (folder / "samples" / "samples.png").read_bytes()


def test_pictures_of_a_checkpoint_with_a_learned_schedule(learned, tmp_path):
    (checkpoint,) = sorted((learned.trained / "checkpoints").glob("*.pt"))[-1:]
    script, path = Script(tmp_path), learned.frozen.only / "schedule.json"
    plain = ["--ckpt", checkpoint]
    with_it = [*plain, "--sampling_schedule", path]
    seen = pixels(script, *with_it)
    other = next(told for told in TOLD if told != learned.told)
    assert seen == pixels(script, *with_it, "--told", learned.told)
    assert len({seen, pixels(script, *plain), pixels(script, *with_it, "--told", other)}) == 3


@pytest.mark.parametrize(
    ("changes", "flags", "named"),
    [
        ({"timesteps": 30, "told": "visited"}, [], "T of --sampling_schedule is 30"),
        ({"told": "guessed"}, [], "guessed"),
        ({"timesteps": 3, "told": None}, [], "exceeds the T of --sampling_schedule"),
    ],
)
def test_a_schedule_that_does_not_fit_is_one_line(learned, tmp_path, changes, flags, named):
    (checkpoint,) = sorted((learned.trained / "checkpoints").glob("*.pt"))[-1:]
    path = rewritten(learned, tmp_path / "schedule.json", **changes)
    script = Script(tmp_path)
    words = ["--cpu", "--ckpt", checkpoint, "--sampling_schedule", path, "--backward_steps", 4]
    assert script.run(*words, "--sample_only", *flags) == 2
    assert named in script.last_line() and not (tmp_path / "runs").exists()


def test_the_schedule_trains_and_is_told_as_it_was_learned(learned, tmp_path):
    script, path = Script(tmp_path), learned.frozen.only / "schedule.json"
    assert script.run(*TRAIN, "--sampling_schedule", path) == 0, script.said()
    arguments = json.loads((script.only / "args.json").read_text())["arguments"]
    assert arguments["told"] == learned.told and "told" in arguments["sampling_schedule"]


def test_diffusers_samples_with_a_learned_schedule_that_is_told_the_visited_times():
    """The snippet of docs/diffusers.md with a schedule.json of --freeze_network."""
    diffusers = pytest.importorskip("diffusers")
    net = TwoLayers(timesteps=100).double().eval()
    schedule = Schedule("cosine", 100, end=0.9).as_knots(5)
    process = Diffusion(Schedule("cosine", 100), dtype=F64)
    process = process.replaced(sampling_schedule=schedule, told="visited")
    x = torch.randn(4, 1, 8, 8, dtype=F64)
    with torch.no_grad():
        ours = process.sample(net, x, 10)
        ddim = diffusers.DDIMScheduler(
            100, trained_betas=schedule.betas().detach().numpy(), timestep_spacing="trailing"
        )
        ddim.set_timesteps(10)
        for t in ddim.timesteps:
            x = ddim.step(net(x, t[None] + 1), t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours, x.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "named"),
    [("", "ckpt"), ("--ckpt nowhere", "nowhere")],
)
def test_a_frozen_network_needs_a_checkpoint(tmp_path, flags, named):
    script = Script(tmp_path, "bilevel")
    assert script.run(*FROZEN, "--freeze_network", *flags.split()) == 2
    assert named in script.last_line()


def test_the_plan_of_a_frozen_network_is_what_it_costs(tmp_path, learned):
    script = Script(tmp_path, "bilevel")
    words = [*FROZEN, "--freeze_network", "--ckpt", learned.trained, "--eval_samples", 30]
    assert script.run(*words, "--dry_run") == 0, script.said()
    said = script.said()
    assert "4 updates of the schedule" in said and "about " in script.last_line()
    assert not (tmp_path / "runs").exists()
    assert script.run(*words) == 0, script.said()
    spent = json.loads((script.only / "summary.json").read_text())["network_evaluations"]
    for name, count in spent.items():
        assert f"\n{name}: {count:,} images through the network" in f"\n{said}"
    assert set(spent) == {"upper", "sampling"}


def test_it_is_judged_by_more_images_than_a_bilevel_run_unless_told_otherwise():
    def parse(*words):
        script = train_mnist_bilevel_ZO
        return cli.parse(script.make_parser(), "bilevel", script.check, list(words))

    frozen = ["--freeze_network", "--ckpt", str(ROOT / "assets" / "mnist.pt")]
    args = parse(*frozen)
    assert (args.zo_samples, args.frozen_updates, parse().zo_samples) == (256, 100, 64)
    args = parse(*frozen, "--zo_samples", "64", "--frozen_updates", "200")
    assert (args.zo_samples, args.frozen_updates) == (64, 200)


UNREAD = """--eta 1;--resume latest;--scheduler sigmoid;--upper_gradient zo;--amp
    --knots 3
    --upper_gradient forward;--recipe paper;--compile fused;--delta 0.1;--update_every 5
    --theta_z kept;--noise independent;--perturbation published
    --sampler ddpm;--gamma 3;--inner_loop 5;--epochs 7;--n_samples 3;--ema_memory 9"""


@pytest.mark.parametrize("flags", re.split(";|\n +", UNREAD))
def test_a_flag_that_a_frozen_network_does_not_read_is_refused(tmp_path, flags):
    script = Script(tmp_path, "bilevel")
    (tmp_path / "runs" / "00000-bilevel-seed0").mkdir(parents=True)
    assert script.run(*FROZEN, "--freeze_network", "--ckpt", "assets/mnist.pt", *flags.split()) == 2
    assert flags.split()[0] in script.last_line()


@pytest.mark.parametrize(
    "flags", ["--model_base_dim 8", "--timesteps 50", "--image_size 16", "--input_scale 0.5"]
)
def test_a_frozen_network_is_as_it_was_trained(tmp_path, learned, flags):
    script = Script(tmp_path, "bilevel")
    network = ["--freeze_network", "--ckpt", learned.trained]
    assert script.run(*FROZEN, *network, *flags.split()) == 2
    assert f"{flags}: {learned.trained}" in script.last_line()


@pytest.mark.parametrize("family", ["cosine", "knots"])
def test_a_frozen_network_may_begin_with_another_schedule(tmp_path, family, monkeypatch):
    """At end 1 nearly all unclipped pixels are cut, and no gradient leads away from it."""
    train, frozen = Script(tmp_path, "train"), Script(tmp_path, "bilevel")
    assert train.run(*TRAIN) == 0, train.said()
    flags = ["--ckpt", train.only, "--eval_samples", 40, "--no_clip", "--initial_end", 0.9]
    flags += ["--eps_scale", 1.1]
    flags += ["--scheduler", family, "--lr_beta", 0, 0, 0, 0]
    assert frozen.run(*FROZEN, "--freeze_network", *flags) == 0, frozen.said()
    # the command that uses what was learned
    assert "--eps_scale 1.1" in frozen.last_line() and "--no_clip" in frozen.last_line()
    (folder,) = (tmp_path / "runs").glob("*-frozen-*")
    monkeypatch.setattr(networks, "network_class", lambda _: TwoLayers)
    sampler = sampler_of(read_record(folder), "cpu")[1]
    assert sampler.process.told == "visited" and sampler.settings.eps_scale == 1.1
    ours, its = Schedule.load(folder / "schedule.json"), Schedule("cosine", 20, end=0.9)
    its = its.as_knots(12) if family == "knots" else its
    torch.testing.assert_close(ours.log_alpha_bar(), its.log_alpha_bar())


@pytest.mark.parametrize(
    ("flags", "named"),
    [("--initial_end 2", "end is 2"), ("--initial_start 1", "must exceed start")],
)
def test_where_a_frozen_network_begins_is_checked(tmp_path, learned, flags, named):
    frozen, network = Script(tmp_path, "bilevel"), ["--freeze_network", "--ckpt", learned.trained]
    assert frozen.run(*FROZEN, *network, *flags.split()) == 2, frozen.said()
    assert named in frozen.last_line()


def test_a_schedule_without_parameters_is_refused(tmp_path):
    train = Script(tmp_path, "train")
    assert train.run(*TRAIN, "--scheduler_type", "ddpm") == 0, train.said()
    frozen = Script(tmp_path, "bilevel")
    assert frozen.run(*FROZEN, "--freeze_network", "--ckpt", train.only) == 2, frozen.said()
    assert "--scheduler knots" in frozen.last_line()
