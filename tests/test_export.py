"""What leaves the project: read back by other programs, and images drawn from any folder."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from harness import Script

from common import checkpoint, export, portable
from common.errors import Stop
from common.optional import optional
from common.sampling import load_any, load_sampler, path_of, process_of, sample
from model import Diffusion
from scheduler import Schedule
from unet import UNet

FLAGS = """--dataset digits --model_base_dim 4 --timesteps 20 --backward_steps 4 --epochs 1 --cpu
    --threads 1 --limit_batches 3 --n_samples 4 --fid_samples 0 --eval_samples 20 --seed 3
    --end 0.9""".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    script = Script(tmp_path_factory.mktemp("run"))
    assert script.run(*FLAGS, real=True) == 0, script.said()
    return script.only


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("home") / "exported"
    export.main(export.make_parser().parse_args([str(run), str(folder)]))
    return folder


def test_the_times_and_noise_levels_are_those_of_the_closed_form():
    """cos(pi/2 t/T)^2 over its first value, with epsilon 0, and sigma^2 = (1 - ab)/ab."""
    schedule = Schedule("cosine", 100, start=0.1, end=0.9, tau=1.5, epsilon=0.0)
    found = portable.sampling_steps(Diffusion(schedule), 5)
    assert found["times"] == found["network_times"] + [0] == [100, 80, 60, 40, 20, 0]
    for t, ab, sigma in zip(found["times"], found["alpha_bar"], found["sigmas"], strict=True):
        f = [math.cos((0.1 + 0.8 * u) * math.pi / 2) ** 3 for u in (t / 100, 0)]
        assert ab == pytest.approx(f[0] / f[1], rel=1e-9)
        assert sigma == pytest.approx(math.sqrt((1 - f[0] / f[1]) / (f[0] / f[1])), rel=1e-9)


def test_the_steps_of_a_schedule_file_are_printed_and_written(tmp_path, capsys):
    path = "assets/schedules/quick-exact-seed0.json"
    argv = [str(ROOT / path), str(tmp_path / "out"), "--steps", "5", "--tau_type", "quadratic"]
    export.main(export.make_parser().parse_args(argv))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    found = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert [int(t) for t, _, _ in rows] == found["times"] == [100, 64, 36, 16, 4, 0]
    assert [float(s) for _, _, s in rows] == pytest.approx(found["sigmas"], rel=1e-6)
    betas = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert betas["trained_betas"] == Schedule.load(ROOT / path).betas().tolist()


def test_an_export_overwrites_its_own_files_alone(tmp_path, capsys):
    schedule, note = tmp_path / "schedule.json", tmp_path / "home" / "README.md"
    note.parent.mkdir()
    Schedule("linear", 20).save(schedule)

    def exported_to(folder):
        export.main(export.make_parser().parse_args([str(schedule), str(folder)]))

    note.write_text("of someone else")
    with pytest.raises(Stop, match="holds files that are no export") as stop:
        exported_to(note.parent)
    assert stop.value.code == 2 and [*note.parent.iterdir()] == [note]
    for _ in range(2):  # a folder of its own may be written again
        exported_to(tmp_path / "new")
    (tmp_path / "new" / "config.json").write_text("{}")  # but not beside a network
    with pytest.raises(Stop, match="new: the export of a network"):
        exported_to(tmp_path / "new")


def test_safetensors_reads_back_the_averaged_network(run, exported):
    from safetensors.torch import load_file

    net = UNet(4, timesteps=20)
    net.load_state_dict(load_file(exported / "model.safetensors"))
    ours, _ = load_any(run, "cpu")
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in net.state_dict().items())
    about = json.loads((exported / "config.json").read_text())
    assert about["schedule"]["end"] == 0.9 and "runs_dir" not in about["args"]


def test_diffusers_reads_back_the_schedule_and_draws_our_images(run, exported, monkeypatch):
    """The lines of the card itself, run in the folder where the export lies."""
    pytest.importorskip("diffusers")
    *_, code = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(exported.parent)
    found = {}
    exec(code.replace("torch.randn(", "torch.manual_seed(3); x = torch.randn("), found)
    net, sampler = load_sampler(str(run / "checkpoints" / "step_00000003.pt"), "cpu")
    noise = torch.randn(16, 1, 8, 8, generator=torch.manual_seed(3))
    with torch.inference_mode():
        ours = sampler(net, noise)
    torch.testing.assert_close(found["x"], ours, rtol=0, atol=1e-4)
    assert ours.std() > 0.1


def test_the_card_holds_the_runs_own_records(run, exported):
    text = (exported / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    about = json.loads((run / "args.json").read_text())
    for name in ("fid", "kid", "n", "extractor", "reference"):
        assert f"| {name} | {summary[name]} |" in text
    for fact in (about["command"], about["data"], about["versions"]["torch"], "Seed: 3", "MIT"):
        assert fact in text
    assert (exported / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "$" not in text


def test_one_line_draws_in_any_folder(run, exported, tmp_path):
    """A run, its export and the shipped network, each from another folder than the repository."""
    code = (
        "from common.sampling import sample\n"
        f"run, exported = sample({str(run)!r}, 6), sample({exported.name!r}, 6)\n"
        "assert run.shape == (6, 1, 8, 8) and run.equal(exported) and run.abs().max() <= 1\n"
        "assert not run.equal(sample('exported', 6, seed=1))\n"
        "assert sample('assets/mnist.pt', 2, steps=2).shape == (2, 1, 28, 28)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=exported.parent, env=environment, check=True)


def test_noise_in_the_steps_has_a_size_and_a_limit(run):
    assert sample(run, 6, eta=0.0, device="cpu").equal(sample(run, 6, device="cpu"))
    assert not sample(run, 6, eta=1.0, device="cpu").equal(sample(run, 6, device="cpu"))
    with pytest.raises(ValueError, match=r"eta 1\.5"):
        sample(run, 6, eta=1.5)
    assert sample(run, 6, eps_scale=1.0, device="cpu").equal(sample(run, 6, device="cpu"))
    assert not sample(run, 6, eps_scale=1.1, device="cpu").equal(sample(run, 6, device="cpu"))
    with pytest.raises(ValueError, match=r"eps_scale 3"):
        sample(run, 6, eps_scale=3)


def test_one_line_samples_in_float32_on_a_cpu(exported, tmp_path):
    """Whatever the run was trained in: a CPU that emulates bfloat16 takes five times as long."""
    for path in exported.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((exported / "config.json").read_text())
    config["args"]["amp"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sample(tmp_path, 6, device="cpu").equal(sample(exported, 6, device="cpu"))


def test_a_search_is_represented_by_its_best_trial(tmp_path, run):
    (tmp_path / "trials").mkdir()
    (tmp_path / "args.json").write_text("{}")
    (tmp_path / "trials" / "002").symlink_to(run)
    (tmp_path / "summary.json").write_text('{"best": 2}')
    assert load_any(tmp_path, "cpu")[1]["schedule"]["end"] == 0.9
    assert export.provenance(path_of(tmp_path))[1]["n"] == 20


def test_scaled_data_are_said_to_be_beyond_diffusers(run):
    _, state = load_any(run, "cpu")
    assert portable.fits_diffusers(process_of(state, "cpu"))
    state["args"] = {**state["args"], "input_scale": 0.5}
    assert not portable.fits_diffusers(process_of(state, "cpu"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tau_type": "quadratic"}, "quadratic spacing"),
        ({"eps_scale": 1.1}, "noise times 1.1"),
        ({"backward_steps": 3}, "in steps that do not divide T"),
    ],
)
def test_a_card_has_no_lines_for_diffusers_that_would_draw_otherwise(run, tmp_path, flags, said):
    state, _ = checkpoint.load_newest(run / "checkpoints")
    state["args"] |= flags
    checkpoint.save(tmp_path / "x.pt", state)
    out = tmp_path / "out"
    export.main(export.make_parser().parse_args([str(tmp_path / "x.pt"), str(out)]))
    card = (out / "README.md").read_text()
    assert said in card and "DDIMScheduler" not in card


def test_steps_are_those_of_the_sampling_schedule(capsys):
    process = Diffusion(Schedule("cosine", 20), sampling_schedule=Schedule("cosine", 10))
    with pytest.raises(Stop, match="exceeds T = 10"):
        export.write_steps(None, process, 11, "linear", clip=True)
    export.write_steps(None, process, 10, "linear", clip=True)
    assert capsys.readouterr().out.count("\n") == 12


def test_what_cannot_be_read_is_one_line(run, exported, tmp_path, monkeypatch):
    with pytest.raises(Stop, match="neither a run"):
        sample(tmp_path, 1)
    with pytest.raises(ValueError, match="exceeds the run's T = 20"):
        sample(run, 1, steps=21)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((exported / name).read_bytes()[:-9])
    with pytest.raises(Stop, match="not an exported network"):
        sample(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(Stop, match=r"requires safetensors: pip install safetensors"):
        export.main(export.make_parser().parse_args([str(run), str(tmp_path / "new")]))


def test_an_optional_package_that_is_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        optional("broken_package", "this test")
