"""What is shipped is whole, small, and does what its page says."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from harness import Script

import train_mnist
from assets import judge, make, train_classifier
from common import cli, extractors
from common.data import Source
from common.errors import Stop
from common.extractors import load_extractor, make_classifier
from common.networks import load_network
from common.sampling import process_of
from common.tables import read_text_csv, write_csv

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


def test_the_shipped_schedules_are_those_of_the_results(tmp_path):
    make.write_schedules(make.RESULTS, tmp_path)
    made, shipped = tmp_path / "schedules", ASSETS / "schedules"
    names = sorted(path.name for path in made.iterdir())
    assert names and names == sorted(path.name for path in shipped.iterdir())
    assert all((made / name).read_text() == (shipped / name).read_text() for name in names)


def test_the_shipped_sampling_schedule_is_the_one_of_the_results(tmp_path):
    make.write_sampling_schedule(make.RESULTS, tmp_path)
    (made,) = tmp_path.iterdir()
    assert made.read_text() == (ASSETS / made.name).read_text()


def test_the_shipped_schedules_can_be_trained_with():
    for path in sorted(ASSETS.glob("schedules/*.json")):
        words = ["--schedule_from", str(path)]
        args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, words)
        trained, content = train_mnist.fixed_schedule(args), json.loads(path.read_text())
        assert trained.to_dict() == content and content["family"] == "cosine"


def test_diffusers_samples_with_the_learned_schedule(monkeypatch):
    """The lines of docs/diffusers.md draw what our DDIM draws."""
    pytest.importorskip("diffusers")
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "diffusers.md").read_text(), re.DOTALL
    )
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


def test_a_finished_run_becomes_a_network_and_a_gif_that_are_sealed(tmp_path):
    """The averaged network, without the places of the machine that it was trained on."""
    flags = ["--cpu", "--dataset", "digits", "--model_base_dim", 4, "--timesteps", 4]
    flags += ["--backward_steps", 2, "--epochs", 1, "--limit_batches", 2, "--n_samples", 3]
    flags += ["--fid_samples", 0, "--eval_samples", 20, "--lr", 0.002]
    script, assets, docs = Script(tmp_path), tmp_path / "assets", tmp_path / "docs"
    assets.mkdir()
    docs.mkdir()
    (docs / "network.md").write_text((ROOT / "docs" / "network.md").read_text())
    assert script.run(*flags, real=True) == 0, script.said()
    make.main(make.make_parser().parse_args(["--run", str(script.only)]), assets, docs)
    assert "| 1 | 2 | 0.0 |" in (docs / "network.md").read_text()
    assert (docs / "figures" / "shipped_network.png").exists()
    net, state = load_network(str(assets / "mnist.pt"), "cpu")
    assert sum(p.numel() for p in net.parameters()) > 0 and "runs_dir" not in state["args"]
    record = json.loads((assets / "mnist.json").read_text())
    summary = json.loads((script.only / "summary.json").read_text())
    assert record["fid"] == summary["fid"] and "--lr 0.002" in record["command"]
    lines = (assets / "SHA256SUMS").read_text().splitlines()
    sums = dict(line.split("  ")[::-1] for line in lines)
    assert set(sums) == {"mnist.pt", "mnist.json", "denoising.gif"}
    for name, digest in sums.items():
        assert hashlib.sha256((assets / name).read_bytes()).hexdigest() == digest


def test_the_page_on_the_shipped_network_holds_its_table():
    record = json.loads((ASSETS / "mnist.json").read_text())
    assert make.training_table(record) in (ROOT / "docs" / "network.md").read_text()


def test_the_stages_of_a_training_are_in_their_order():
    record = {"steps": 3, "began_with": {"steps": 2, "began_with": {"steps": 1}}}
    assert [stage["steps"] for stage in make.stages_of(record)] == [1, 2, 3]


def test_a_run_that_has_not_finished_is_not_shipped(tmp_path):
    with pytest.raises(Stop, match="has no checkpoint"):
        make.main(make.make_parser().parse_args(["--run", str(tmp_path)]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_samples_of_the_page_are_those_of_the_shipped_network():
    rows = read_text_csv(make.RESULTS / judge.FILE)
    assert {row["network"] for row in rows} == {judge.short(ASSETS / "mnist.pt")}
    assert {judge.key(row) for row in rows} == set(judge.CELLS)
    assert judge.table(rows) in (ROOT / "docs" / "network.md").read_text()


def test_judging_resumes_and_forgets_another_network(tmp_path, mnist_dir):
    """A row a cell; what is there is not drawn again."""
    docs = tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "network.md", docs)
    rows = read_text_csv(make.RESULTS / judge.FILE)
    other = {**rows[0], "steps": "3", "network": "another"}
    write_csv(docs / "results" / judge.FILE, [rows[0], other])
    args = judge.make_parser().parse_args(["--data_dir", mnist_dir, "--cache_dir", str(tmp_path)])
    cells = [judge.key(rows[0]), (20, 2, 0.0, 1.0), (20, 2, 0.0, 1.1), (20, 2, 1.0, 1.0)]
    judge.main(args, docs=docs, cells=cells)
    made = read_text_csv(docs / "results" / judge.FILE)
    assert [judge.key(row) for row in made] == cells and made[0] == rows[0]
    assert len({row["fid"] for row in made[1:]}) == 3
    assert "| 20 | 2 | 1 |" in (docs / "network.md").read_text()


def test_train_classifier_writes_what_load_extractor_reads(mnist_dir, tmp_path, monkeypatch):
    """The whole script, on the first images of both splits."""
    for name in ("images", "labels"):
        whole = getattr(Source, name)
        monkeypatch.setattr(Source, name, lambda *args, whole=whole: whole(*args)[:500])
    out = tmp_path / "new" / "classifier"
    argv = ["--data_dir", mnist_dir, "--out", str(out), "--train_images", "300", "--epochs", "1"]
    argv += ["--batch_size", "100", "--seed", "3"]
    train_classifier.main(train_classifier.parse(argv))
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["arguments"]["seed"] == 3 and record["parameters"] == 245098
    assert record["test_images"] == 500
    assert 0 < record["accuracy"] == pytest.approx(1 - record["errors"] / 500)
    monkeypatch.setattr(extractors, "weights_path", lambda *_: out.with_suffix(".pt"))
    assert record["sha256"].startswith(load_extractor("mnist", "cpu").weights_hash)


def test_folding_batch_norm_changes_nothing():
    net, x = train_classifier.trainable("mnist", 28), torch.rand(50, 1, 28, 28) * 2 - 1
    for _ in range(3):
        net(x)
    expected = net.eval()(x)
    torch.testing.assert_close(
        train_classifier.folded(net, make_classifier("mnist", 28))(x)[1],
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("flags", [["--epochs", "0"], ["--lr", "nan"], ["--unknown", "1"]])
def test_train_classifier_refuses_wrong_flags(flags):
    with pytest.raises(SystemExit):
        train_classifier.make_parser().parse_args(flags)


def test_distorted_images_are_still_images():
    x = torch.rand(64, 1, 28, 28) * 2 - 1
    moved = train_classifier.distort(x)
    assert moved.shape == x.shape and moved.min() >= -1 and moved.max() <= 1 + 1e-6
    assert (moved != x).flatten(1).any(1).all()
