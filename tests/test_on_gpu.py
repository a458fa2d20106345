"""What only an NVIDIA card can show; skipped elsewhere: TEST_GPU=1 python -m pytest -n0 -m gpu"""

import json

import pytest
import torch
from harness import Script

from common.networks import make_network
from common.sampling import Sampler, SamplerSettings
from model import Diffusion
from scheduler import Schedule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA card (or no TEST_GPU=1)"),
]
TRAIN = """
    --dataset digits --model_base_dim 8 --timesteps 50 --batch_size 32 --limit_batches 10 --epochs 2
    --backward_steps 5 --n_samples 4 --fid_samples 0 --eval_samples 100 --log_freq 1
""".split()
BILEVEL = [*TRAIN, "--initial_epoch", "1", "--zo_samples", "8", "--initial_end", "0.9"]


def losses(script: Script) -> list[float]:
    rows = (script.only / "losses.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    return [float(row.split(",")[column]) for row in rows[1:]]


def ran(folder, kind, *flags) -> Script:
    folder.mkdir()
    script = Script(folder, kind)
    assert script.run(*flags, real=True, timeout=300) == 0, script.said()
    return script


def test_a_loss_and_its_gradients_are_the_cpus():
    """Of the same weights, images, times and noise: a run on the card draws others."""
    torch.manual_seed(0)
    x0, eps, t = torch.rand(8, 1, 8, 8) * 2 - 1, torch.randn(8, 1, 8, 8), torch.arange(6, 51, 6)
    weights, results = make_network(8, 50, "cpu").state_dict(), []
    for device in ("cpu", "cuda"):
        net = make_network(8, 50, device)
        net.load_state_dict(weights)
        process = Diffusion(Schedule("cosine", 50), device=device)
        loss = process.loss(net, *(part.to(device) for part in (x0, t, eps)))
        loss.backward()
        gradients = {name: p.grad.cpu().flatten() for name, p in net.named_parameters()}
        results.append((loss.item(), torch.cat([gradients[name] for name in sorted(gradients)])))
    (loss, gradient), (of_card, gradient_of_card) = results
    assert of_card == pytest.approx(loss, rel=1e-4)
    assert (gradient_of_card - gradient).norm() <= 1e-3 * gradient.norm()


@pytest.mark.parametrize("flags", [["--amp"], ["--compile", "fused"], ["--compile", "graphs"]])
def test_bfloat16_and_compilation_train_alike(tmp_path, flags):
    plain = losses(ran(tmp_path / "plain", "train", *TRAIN, "--device", "cuda"))
    other = losses(ran(tmp_path / "other", "train", *TRAIN, "--device", "cuda", *flags))
    assert plain == pytest.approx(other, rel=0.05)


@pytest.mark.parametrize("kind", ["zo", "forward", "exact"])
def test_the_bilevel_script_runs_and_notes_its_card(tmp_path, kind):
    script = ran(tmp_path / "run", "bilevel", *BILEVEL, "--upper_gradient", kind)
    about = json.loads((script.only / "args.json").read_text())
    assert about["device"] == torch.cuda.get_device_name() and about["cuda"]["tf32"] is False
    summary = json.loads((script.only / "summary.json").read_text())
    assert summary["peak_memory"]["cuda"] > 0


def test_a_run_of_the_cpu_resumes_on_the_card(tmp_path):
    script = ran(tmp_path / "run", "train", *TRAIN[:-4], "--epochs", "1", "--cpu")
    (script.only / "summary.json").unlink()
    assert script.run("--resume", script.only, "--device", "cuda", real=True) == 0, script.said()


def test_nothing_waits_inside_a_sampling():
    net = make_network(8, 50, "cuda").eval()
    sampler = Sampler(
        Diffusion(Schedule("cosine", 50), device="cuda"), SamplerSettings(5), (1, 8, 8)
    )
    noise = sampler.noise(4, 0, "wait")
    with torch.inference_mode():
        sampler(net, noise)  # makes what is kept
        torch.cuda.set_sync_debug_mode("error")
        try:
            sampler(net, noise)
        finally:
            torch.cuda.set_sync_debug_mode("default")
