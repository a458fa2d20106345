"""The learning-rate study: its data, its divergence, its stacked training, and the script."""

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_checkpoint import same
from torch.nn.utils import parameters_to_vector
from torch.optim import lr_scheduler

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import lr_study
from benchmarks.lr_study import Plain
from common import checkpoint, cli, errors, run
from common.training import LRSchedule
from model import Diffusion
from scheduler import Schedule
from studies.lr_schedules import __main__ as lr_schedules
from studies.lr_schedules import judging, points, report, stack, together
from studies.lr_schedules.together import Recipe, Together

SCHEDULES = lr_schedules.SCHEDULES


def gaussians(n, m, mean, scale, d=2):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)), mean + scale * rng.standard_normal((m, d))


@pytest.mark.parametrize(
    ("n", "m", "mean", "scale"),
    [(8000, 8000, 0, 1), (20000, 4000, 0.5, 1), (4000, 20000, 0, 2), (9000, 3000, 0.5, 1.5)],
)
def test_the_divergence_of_gaussians_is_the_known_one(n, m, mean, scale):
    p, q = gaussians(n, m, mean, scale)
    known = 2 * (np.log(scale) + (1 + mean**2) / (2 * scale**2) - 0.5)
    assert points.kl_divergence(p, q) == pytest.approx(known, abs=0.06)


def test_the_divergence_of_repeated_points_is_that_of_their_masses():
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    p_mass, q_mass = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    p, q = places[rng.choice(3, 6000, p=p_mass)], places[rng.choice(3, 2500, p=q_mass)]
    known = (p_mass * np.log(p_mass / q_mass)).sum()
    assert points.kl_divergence(p, q) == pytest.approx(known, abs=0.05)


def test_some_repeated_points_leave_the_divergence_finite_and_near():
    p, q = gaussians(6000, 2000, 0.5, 1)
    p[:20], q[:10] = p[0], p[0]
    assert points.kl_divergence(p, q) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((10, 2), np.nan)])
def test_too_few_or_non_finite_points_are_an_error(bad):
    good = np.random.default_rng(0).standard_normal((50, 2))
    for p, q, name in ((bad, good, "p"), (good, bad, "q")):
        with pytest.raises(ValueError, match=f"^{name}:"):
            points.kl_divergence(p, q)


def test_the_data_sets_are_where_their_formulas_put_them():
    circle, line, moons = (points.points(name, 5000, 42) for name in ("circle", "line", "moons"))
    radius = np.linalg.norm(circle, axis=1)
    centre = radius < 0.1
    assert np.all((np.abs(radius - 3) <= 0.0901) | (radius <= 0.0901))
    # of the length .5 that is rounded, .1 goes to 0: a fifth, and squared for both coordinates
    assert centre.mean() == pytest.approx(0.04, abs=0.01)
    angles = np.degrees(np.arctan2(*circle[~centre].T)) % 360
    assert len(set((angles / 2).round().astype(int) % 180)) <= 16 * 3
    assert np.all(np.abs(line) <= [2, 4])
    assert line.std(axis=0) == pytest.approx(np.array([4, 8]) / 12**0.5, rel=0.03)
    from sklearn.datasets import make_moons

    theirs, _ = make_moons(5000, noise=0.03, random_state=42)
    assert np.array_equal(moons, (theirs + 0.3) * [2, 3] - 1)
    assert np.array_equal(points.points("line", 100, 1), points.points("line", 100, 1))
    assert not np.array_equal(points.points("line", 100, 1), points.points("line", 100, 2))


def test_dino_scatters_the_142_points():
    pytest.importorskip("data_morph")
    xy = points.dino_points()
    assert xy.mean(axis=0) == pytest.approx([54.26, 47.83], abs=0.01)  # Datasaurus, as published
    assert xy.std(axis=0, ddof=1) == pytest.approx([16.77, 26.94], abs=0.01)
    drawn = (points.points("dino", 20000, 0) / 4 + 1) * [54, 48]
    gap = drawn[:, None] - xy[None]
    nearest = gap[np.arange(len(drawn)), (gap**2).sum(axis=2).argmin(axis=1)]
    assert nearest.std() == pytest.approx(0.15, rel=0.05)


def test_the_noise_schedule_is_linear_in_beta_and_unscaled():
    betas = Schedule("ddpm_unscaled", 100).betas().numpy()
    assert np.allclose(betas, np.linspace(1e-4, 0.02, 100), rtol=1e-10)


def test_the_networks_embeddings_are_sines_and_cosines():
    x, t = torch.tensor([[0.3, -1.2]], dtype=torch.float64), torch.tensor([7])
    seen = stack.embed(x, t)[0].numpy()
    frequencies = 10000.0 ** (-np.arange(64) / 63)
    values = (7, 0.3 * 25, -1.2 * 25)
    parts = [f(v * frequencies) for v in values for f in (np.sin, np.cos)]
    assert np.allclose(seen, np.concatenate(parts), atol=1e-12)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of 8 units: what is tested does not depend on the width."""
    monkeypatch.setattr(stack, "HIDDEN", 8)
    monkeypatch.setattr(stack, "EMBEDDING", 4)


RECIPES = [
    Recipe("constant", "constant", {}),
    Recipe("step", "step", {"step_size": 4}),
    Recipe("exponential", "exponential", {}),
    Recipe("plateau", "plateau", {"plateau_patience": 0}),
    Recipe("cosine", "cosine", {}),
]


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_training_together_is_training_one_by_one(tiny, gain):
    """In float64: losses, weights and averages; a large gain makes every gradient be clipped."""
    process = Diffusion(Schedule("ddpm_unscaled", 100), dtype=torch.float64)
    net = together.first_net(0).double()
    for parameter in net.last.parameters():
        parameter.data *= gain
    group = Together(RECIPES, 0.01, 24, 6, net)
    plains = [Plain(recipe, 0.01, 24, 6, net) for recipe in RECIPES]
    data = {"d": torch.randn(50, 2, dtype=torch.float64)}
    clipped = 0
    for step in range(24):
        x0s, t, eps = together.batch(data, 16, 0, step)
        eps = eps.double()
        losses, norms = group.step(process, x0s["d"], t, eps)
        clipped += int((norms > together.MAX_NORM).sum())
        alone = [plain.step(process, x0s["d"], t, eps) for plain in plains]
        assert losses.tolist() == pytest.approx(alone, abs=1e-10, rel=1e-10)
    assert clipped > 0
    for i, plain in enumerate(plains):
        for ours, theirs in ((group.rows[i], plain.net), (group.ema.module.weights[i], plain.ema)):
            assert torch.allclose(ours, parameters_to_vector(theirs.parameters()), atol=1e-10)
        assert torch.equal(
            parameters_to_vector(group.net(i).parameters()), group.ema.module.weights[i]
        )
    rates = [plain.optimizer.param_groups[0]["lr"] for plain in plains]
    assert group.lrs() == rates and len(set(rates)) >= 4


def test_the_written_out_gradient_is_the_true_one(tiny):
    nets = [stack.Net().double() for _ in range(3)]
    stacked = stack.Stack(nets)
    x, t = torch.randn(5, 3, 2, dtype=torch.float64), torch.randint(1, 101, (5,))
    seen = stack.embed(x.transpose(0, 1), t)
    weights = stacked.weights.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: stack._Layers.apply(w, seen), weights)
    one_by_one = torch.stack([net(x[:, i], t) for i, net in enumerate(nets)], dim=1)
    assert torch.allclose(stacked(x, t), one_by_one, atol=1e-12)


def test_rows_are_clipped_as_clip_grad_norm_does():
    gradient = torch.randn(4, 30) * torch.tensor([[0.01], [1], [10], [1e-9]])
    expected = gradient.clone()
    for row in expected:
        parameter = torch.nn.Parameter(torch.zeros(30))
        parameter.grad = row
        torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    norms = stack.clip_rows_(gradient, 0.5)
    assert torch.allclose(gradient, expected, rtol=1e-6)
    assert norms[1] > 0.5 and gradient.norm(dim=1).max() <= 0.5


def rates(name, optimizer_steps, epoch_losses, **options):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, seen = LRSchedule(name, optimizer, optimizer_steps, **options), []
    for step in range(optimizer_steps):
        optimizer.step()
        schedule.after_step()
        if (step + 1) % 4 == 0:
            schedule.after_epoch(epoch_losses[step // 4])
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_the_options_of_the_lr_schedules_are_torchs():
    losses = [1.0, 2.0, 2.0, 2.0, 2.0]
    steps = np.arange(1, 21)
    assert rates("step", 20, losses, step_size=5, step_decay=0.5) == pytest.approx(
        0.1 * 0.5 ** (steps // 5)
    )
    assert rates("step", 20, losses) == pytest.approx(0.1 * 0.1 ** (steps // 6))
    assert rates("exponential", 20, losses, exponential_end=0.25) == pytest.approx(
        0.1 * 0.25 ** (steps / 20)
    )
    assert rates("cosine", 20, losses) == pytest.approx(0.05 * (1 + np.cos(np.pi * steps / 20)))
    assert rates("constant", 20, losses) == [0.1] * 20
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs, expected = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=1), []
    for loss in losses:
        expected += [optimizer.param_groups[0]["lr"]] * 3
        optimizer.step()
        theirs.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    found = rates("plateau", 20, losses, plateau_decay=0.3, plateau_patience=1)
    assert found == expected and min(found) < 0.1


def test_sampling_reaches_the_law_of_gaussian_data():
    """An exact denoiser of N(0, 4), started from its own law at time T, ends in N(0, 4)."""
    process = Diffusion(Schedule("ddpm_unscaled", 100))
    levels = process.levels()

    def exact(x, t):
        variance = 4 * levels.signal[t] ** 2 + levels.noise[t] ** 2
        return levels.noise[t] * x / variance

    spread = (4 * levels.signal[-1] ** 2 + levels.noise[-1] ** 2).sqrt()
    drawn = judging.sample(process, exact, spread * torch.randn(4000, 2), seed=0)
    assert drawn.std() == pytest.approx(2.0, rel=0.03)


TINY = """--cpu --threads 1 --steps 12 --batch_size 8 --points 60 --eval_points 20 --log_freq 5
    --save_seconds 1000 --sets line""".split()


def parse(*words):
    parser = lr_schedules.make_parser()
    words = [str(word) for word in words]
    return cli.parse(parser, "lr_schedules", lr_schedules.check, words)


def study(folder, *words):
    """The script's main in this process; the run's folder."""
    args = parse(*TINY, "--runs_dir", folder, *words)
    code = errors.guarded(lr_schedules.main, args, "lr_schedules.py")
    (made,) = Path(folder).glob("[0-9]*")
    return code, made


def kept(folder):
    """What must not depend on interrupts."""
    state, _ = checkpoint.load_newest(folder / "checkpoints")
    for group in state["groups"].values():
        group.pop("clock")
    rows = {p.name: p.read_text() for p in sorted(folder.glob("*.csv")) if p.name != "timing.csv"}
    return {k: state[k] for k in ("at", "groups")} | {"csv": rows}


def test_the_study_runs_resumes_and_reports(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "SHOWN", 4)
    monkeypatch.setattr(judging, "TIMESTEPS", 5)  # what sampling visits of the 100
    words = ["--seeds", 2]
    code, whole = study(tmp_path / "whole", *words)
    said = capsys.readouterr().out
    assert code == 0 and all(f"Table {i}." in said for i in range(1, 6))
    rows = list(csv.DictReader((whole / "results.csv").open()))
    who = {(r["seed"], r["set"], r["schedule"]) for r in rows}
    assert len(rows) == len(who) == 2 * 5
    assert [int(r["step"]) for r in csv.DictReader((whole / "losses.csv").open())] == [
        5,
        10,
        12,
    ] * 2

    # interrupts in training, in the evaluation, and in the second seed
    polls, real = {"left": 0}, run.Run.poll

    def poll(self):
        polls["left"] -= 1
        if polls["left"] == 0:
            self.signal = signal.SIGINT
        real(self)

    monkeypatch.setattr(run.Run, "poll", poll)
    folder = tmp_path / "interrupted"
    for polls["left"] in (5, 10, 9):
        assert study(folder, *words)[0] == 130
        words = ["--resume", "latest"]
    polls["left"] = 0
    code, resumed = study(folder, *words)
    assert code == 0 and same(kept(resumed), kept(whole))
    assert study(folder, *words)[0] == 0 and "nothing to resume" in capsys.readouterr().out

    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    _, sweep = study(tmp_path / "sweep", "--sweep", "--sets", "line", "--steps", 3)
    report.publish([whole, sweep])
    text = (tmp_path / "docs" / "lr_schedules.md").read_text()
    assert "2 seeds" in text and " nan" not in text
    mean = np.mean([float(r["loss"]) for r in rows if r["set"] == "line" and
                    r["schedule"] == "cosine"])  # fmt: skip
    assert "| CosineAnnealingLR | " in text and f"{mean:.3f} ±" in text
    figures = re.findall(r"\((figures/\S+)\)", text)
    assert len(figures) == 4
    assert all((tmp_path / "docs" / name).stat().st_size > 1000 for name in figures)
    report.publish([])
    assert (tmp_path / "docs" / "lr_schedules.md").read_text() == text
    _, third = study(tmp_path / "third", "--seed", 2)
    for _ in range(2):  # another seed joins the others, once
        report.publish([third])
        assert "3 seeds" in (tmp_path / "docs" / "lr_schedules.md").read_text()
        known = report.read_csv(tmp_path / "docs" / "results" / "lr_results.csv")
        assert sorted({row["seed"] for row in known}) == [0, 1, 2] and len(known) == 3 * 5


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(
    tiny, tmp_path, monkeypatch, capsys
):
    real = together.batch

    def poisoned(data, size, seed, step):
        x0s, t, eps = real(data, size, seed, step)
        return x0s, t, eps * float("nan") if step == 7 else eps

    monkeypatch.setattr(lr_schedules, "batch", poisoned)
    code, folder = study(tmp_path / "runs", "--save_seconds", 0)
    assert code == 1 and "step 8" in capsys.readouterr().err
    state, _ = checkpoint.load_newest(folder / "checkpoints")
    assert state["at"]["step"] == 7
    assert all(group["stack"]["weights"].isfinite().all() for group in state["groups"].values())


def test_without_dino_the_other_sets_run_and_a_line_says_how_to_get_it(
    tiny, tmp_path, monkeypatch, capsys
):
    def missing():
        raise ImportError("no data-morph-ai")

    monkeypatch.setattr(lr_schedules, "dino_points", missing)
    code, folder = study(tmp_path / "some", "--sets", "dino", "line", "--steps", 2)
    said = capsys.readouterr().out
    assert code == 0 and said.count("pip install data-morph-ai") == 1
    sets = {row["set"] for row in csv.DictReader((folder / "results.csv").open())}
    assert sets == {"line"}
    args = parse(*TINY, "--sets", "dino", "--runs_dir", tmp_path / "none")
    assert errors.guarded(lr_schedules.main, args, "lr_schedules.py") == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("words", [
    "--sets square", "--steps 0", "--lr 0", "--lr nan", "--step_decay 0", "--step_decay 2",
    "--exponential_end -1", "--plateau_decay 1", "--plateau_patience -1", "--seeds 0",
    "--points 5", "--sweep --digits", "--resume latest --runs_dir none", "--cpu --device cuda",
    "--report --resume .", "--digits --resume .", "--no_such_flag",
])  # fmt: skip
def test_wrong_flags_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*words.split())
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == "" and said.err.count("\n") == 1


def test_the_script_answers_before_torch_is_imported():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['studies/lr_schedules/__main__.py', '--no_such_flag']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stopped: code = stopped.code\n"
        "assert code == 2 and not {'torch', 'numpy', 'sklearn'} & set(sys.modules), code\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_every_flag_is_read_and_explained():
    files = [*(ROOT / "studies" / "lr_schedules").glob("*.py"), *(ROOT / "common").glob("*.py")]
    source = "\n".join(path.read_text() for path in files)
    for action in lr_schedules.make_parser()._actions:
        assert action.help
        if action.dest != "help":
            assert re.search(rf"args\.{action.dest}\b", source), f"nothing reads --{action.dest}"


def test_reports_take_finished_runs_only(tmp_path, capsys):
    (tmp_path / "args.json").write_text(json.dumps({"kind": "lr_schedules", "arguments": {}}))
    with pytest.raises(errors.Stop, match="not a finished run"):
        report.publish([tmp_path])


def test_the_digits_go_through_the_training_script(monkeypatch, tmp_path):
    import train_mnist
    from common import loop

    seen = []
    monkeypatch.setattr(loop, "run_script", lambda *given: seen.append(given))
    args = parse("--digits", "--cpu", "--seed", 3, "--runs_dir", tmp_path)
    lr_schedules.main(args)
    assert [given[1].lr_schedule for given in seen] == SCHEDULES
    assert all(g[2] is train_mnist.train and g[1].seed == 3 and g[1].device == "cpu" for g in seen)


def test_the_benchmark_counts_the_products():
    """Of the layers' shapes: a product of (B,i) and (i,o) is 2Bio, three a layer, two the first."""
    shapes = [(384, 256), (256, 256), (256, 256), (256, 256), (256, 2)]
    expected = sum(2 * 256 * i * o * (2 if n == 0 else 3) for n, (i, o) in enumerate(shapes))
    assert lr_study.flops() == expected


def test_a_report_may_name_no_run():
    assert parse("--report").report == [] and parse().report is None
