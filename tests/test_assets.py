"""What is shipped is whole, small, and does what the README says."""

import hashlib
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from common.extractors import load_extractor
from common.families import read_schedule
from common.networks import load_network
from common.sampling import process_of

ASSETS = ROOT / "assets"
FILES = [p for p in ASSETS.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]


def test_every_file_is_small_and_the_one_that_was_made():
    lines = (ASSETS / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {str(p.relative_to(ASSETS)): p for p in FILES if p.name != "SHA256SUMS"}
    assert set(sums) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name], name
    assert sum(p.stat().st_size for p in FILES) < 8e6


def test_the_shipped_network_draws_digits():
    """By the classifier's eyes: it is sure of most, and sees many kinds; of noise it sees one."""
    net, state = load_network(str(ASSETS / "mnist.pt"), torch.device("cpu"))
    noise = torch.randn(100, *state["shape"], generator=torch.manual_seed(0))
    with torch.inference_mode():
        images = process_of(state, "cpu").sample(net, noise, 20)
        sure, kinds = load_extractor("mnist", "cpu")(images)[1].max(dim=1)
    assert sure.median() > 0.7 and len(kinds.unique()) >= 7


def test_the_shipped_network_draws_at_once(tmp_path):
    words = ["--sample_only", "--ckpt", "assets/mnist.pt", "--cpu", "--backward_steps", "3"]
    words += ["--n_samples", "4", "--runs_dir", str(tmp_path)]
    subprocess.run([sys.executable, "train_mnist.py", *words], cwd=ROOT, check=True)
    assert len(list(tmp_path.rglob("samples.png"))) == len(list(tmp_path.rglob("*.gif"))) == 1


def test_the_shipped_schedules_can_be_trained_with():
    paths = sorted(ASSETS.glob("schedules/*.json"))
    assert len(paths) >= 9  # three methods, three seeds
    for path in paths:
        family, timesteps, values = read_schedule(str(path))
        assert family == "cosine" and timesteps > 1 and 0 <= values["start"] < values["end"] <= 1


def test_diffusers_samples_with_the_learned_schedule(monkeypatch):
    """The README's own lines draw what our DDIM draws."""
    pytest.importorskip("diffusers")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    torch.manual_seed(3)
    found = {}
    with torch.inference_mode():
        exec(code, found)
        torch.manual_seed(3)
        net, state = load_network(str(ASSETS / "mnist.pt"), "cpu")  # its first weights are drawn
        noise = torch.randn(found["x"].shape)
        process = process_of(state, "cpu")
        ours = process.sample(net, noise, len(found["ddim"].timesteps))
    torch.testing.assert_close(found["x"], ours, rtol=0, atol=2e-3)
