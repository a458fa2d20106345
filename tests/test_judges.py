"""Judges that nothing is tuned to: pixels in closed form, two independent networks, one table."""

import json
import math
import shutil
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch.func import jvp, vmap

import train_mnist_bilevel_ZO
from common import cli, extractors, judge_files
from common.classifiers import SIZES
from common.data import Source, fingerprint
from common.errors import Stop
from common.extractors import load_extractor, make_classifier
from common.judge_files import default_extractor, made_for, warn_of_one_judge
from common.judging import Judge, Judges, evaluate, real_batches
from common.scores import COLUMNS, JUDGES, JUDGES_COLUMNS
from metrics import Reference, frechet_distance, precision_recall

FOLDER = ROOT / "assets" / "judges"
CASES = [*(f"mnist {size}" for size in SIZES), "fashion 8", "fashion 16"]
RECORDS = sorted(FOLDER.glob("*.json"))
FLAGS = {"extractor": None, "dataset": "digits", "data_dir": "", "inception_weights": None}


def of_digits(tmp_path, **flags):
    return Judges.from_flags("cpu", cache_dir=str(tmp_path), eval_samples=10, **FLAGS | flags)


# --- pixels --------------------------------------------------------------------------------


def test_pixels_are_the_means_of_blocks():
    """An image whose blocks are constant; at 28 pixels in a black frame of two."""
    pixels, blocks = load_extractor("pixels", "cpu"), torch.rand(3, 1, 8, 8) * 2 - 1
    for side in (8, 16, 32):
        x = blocks.repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)
        features, probs = pixels(x)
        assert probs is None
        torch.testing.assert_close(features, blocks.flatten(1))
    framed = F.pad(torch.ones(1, 1, 28, 28), [2] * 4, value=-1.0)
    features = pixels(torch.ones(1, 1, 28, 28))[0]
    torch.testing.assert_close(features, pixels(framed)[0])
    torch.testing.assert_close(features.view(8, 8)[0, 0], torch.tensor(-0.5))  # 4 of 16 are white
    odd = pixels(torch.ones(1, 1, 9, 15))[0].view(8, 8)  # to 16x16: 3 rows above, 4 below
    torch.testing.assert_close(odd[0], torch.full((8,), -1.0))
    torch.testing.assert_close(odd[1, 0], torch.tensor(0.0))


def test_the_distance_of_pixels_of_two_gaussians():
    """(difference of means)² + (difference of deviations)², a pixel each, with exact moments."""
    half = torch.randn(200, 64, dtype=torch.float64)
    z = torch.linalg.qr(torch.cat([half, -half]))[0]  # means zero, columns orthonormal
    z = z * math.sqrt(len(z) - 1)  # covariance exactly 1
    reference = Reference(z.mean(0) * 0.1, (0.1 * z).T.cov(), len(z), "", "pixels", "blocks8x8")
    shifted = (0.3 + 0.04 * z).view(-1, 1, 8, 8)
    found = frechet_distance(load_extractor("pixels", "cpu")(shifted)[0], reference)
    assert float(found) == pytest.approx(64 * (0.3**2 + 0.06**2), rel=1e-9)


def test_a_run_can_be_judged_by_pixels_alone(tmp_path):
    """No probabilities, so no Inception Score."""
    judge = Judge.load("pixels", Source("digits"), "cpu", str(tmp_path))
    scores = judge.score(real_batches(Source("digits").images("test")))
    assert scores["fid"] < 1e-9 and scores["is_mean"] is scores["is_std"] is None


# --- networks ------------------------------------------------------------------------------


def test_which_extractor_is_the_default():
    table = {
        ("mnist", 28): "mnist", ("mnist", 32): "first", ("mnist", 8): "first",
        ("digits", 8): "mnist", ("mnist", 16): "first", ("folder", 28): "pixels",
        ("fashion", 16): "first", ("fashion", 28): "pixels",
    }  # fmt: skip
    assert {case: default_extractor(*case) for case in table} == table


@pytest.mark.parametrize("case, warned", [
    ((None, "folder", None), True), ((None, "fashion", 32), True), ((None, "mnist", 64), True),
    (("inception", "folder", None), False), (("pixels", "mnist", 8), False),
    ((None, "mnist", None), False), ((None, "digits", None), False),
])  # fmt: skip
def test_a_judge_that_is_alone_and_optimised_is_warned_of(case, warned):
    lines = []
    warn_of_one_judge(*case, lines.append)
    assert len(lines) == warned


def test_there_are_two_small_networks_for_every_size():
    names = {f"{case.replace(' ', '-')}-{n}" for case in CASES for n in ("first", "second")}
    assert {path.stem for path in RECORDS} == names
    files = [path.with_suffix(".pt") for path in RECORDS]
    assert max(f.stat().st_size for f in files) < 250e3
    assert sum(f.stat().st_size for f in files) < 2.5e6


@cache
def halves_of(mnist_dir):
    images = Source("mnist", mnist_dir, 32).images("train")
    return [fingerprint(part) for part in (images[:30000], images[30000:])]


@pytest.mark.parametrize("case", CASES)
def test_the_two_have_learned_from_different_images(case, mnist_dir):
    """By their records, whose fingerprints are those of the two halves of the training images."""
    dataset, size = case.split()
    of = [
        json.loads((FOLDER / f"{dataset}-{size}-{n}.json").read_text()) for n in ("first", "second")
    ]
    (a, b), (c, d) = (record["training_images"] for record in of)
    assert (a, b, c, d) == (0, 29999, 30000, 59999)
    if dataset == "mnist":  # Fashion-MNIST is not on every machine
        assert [record["data"]["train"] for record in of] == halves_of(mnist_dir)
    kinds = {type(make_classifier(name, int(size))) for name in ("first", "second")}
    assert len(kinds) == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["first", "second"])
def test_a_network_reads_what_its_record_says(name, size, mnist_dir):
    record = json.loads((FOLDER / f"mnist-{size}-{name}.json").read_text())
    source = Source("mnist", mnist_dir, size)
    pixels, labels = source.images("test"), source.labels("test")
    assert record["data"]["test"] == fingerprint(pixels) and record["accuracy"] > 0.95
    network = load_extractor(name, "cpu", None, "mnist", size)
    assert record["sha256"].startswith(network.weights_hash)
    guess = torch.cat([network(x)[1].argmax(1) for x in real_batches(pixels[:2000])])
    assert float((guess == labels[:2000]).double().mean()) > record["accuracy"] - 0.02


def test_framed_images_are_judged_by_their_middle():
    x = torch.rand(4, 1, 28, 28) * 2 - 1
    framed = F.pad(x, [2] * 4, value=-1.0)
    for name in ("mnist", "first", "second"):
        network = load_extractor(name, "cpu", None, "mnist", 32)
        assert torch.equal(network(framed)[0], network(x)[0])
    assert made_for("digits", 8) == made_for("mnist", 32) == ("mnist", 28)


@pytest.mark.parametrize("size", [8, 28])
def test_the_second_networks_derivatives(size):
    """Against a finite difference, in reverse and in forward mode, which vmap takes together."""
    network = load_extractor("second", "cpu", None, "mnist", size)
    x, v = torch.rand(2, 3, 1, size, size, dtype=torch.float64) * 1.8 - 0.9
    w = torch.randn(network.dim, dtype=torch.float64)

    def f(x):
        return (network(x)[0] @ w).sum()

    central = (f(x + 1e-6 * v) - f(x - 1e-6 * v)) / 2e-6
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close((slope * v).sum(), central, rtol=1e-6, atol=1e-9)
    forward = vmap(lambda v: jvp(f, (x,), (v,))[1])(torch.stack([v, 2 * v]))
    torch.testing.assert_close(forward, torch.stack([central, 2 * central]), rtol=1e-6, atol=1e-9)


def test_a_missing_network_says_which_there_are():
    with pytest.raises(
        Stop, match=r"for mnist of 20x20 pixels; .*mnist 16.*--extractor pixels"
    ) as stop:
        load_extractor("second", "cpu", None, "mnist", 20)
    assert stop.value.code == 2 and "\n" not in str(stop.value)


@pytest.mark.parametrize("damage", ["weights", "record"])
def test_a_damaged_network_is_one_line_with_the_command_that_makes_it(
    damage, tmp_path, monkeypatch
):
    shutil.copytree(FOLDER, tmp_path / "judges")
    monkeypatch.setattr(judge_files, "ASSETS", tmp_path)
    load_extractor("second", "cpu", None, "mnist", 8)
    path = tmp_path / "judges" / f"mnist-8-second.{'pt' if damage == 'weights' else 'json'}"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Stop, match="--network second --dataset mnist --image_size 8") as stop:
        load_extractor("second", "cpu", None, "mnist", 8)
    assert str(path) in str(stop.value) and "\n" not in str(stop.value)


# --- scores --------------------------------------------------------------------------------


def test_precision_and_recall_by_hand():
    """Points on a line; a ball reaches to the third nearest neighbour."""
    real = torch.tensor([0.0, 1, 2, 3, 100])[:, None]  # radii 3, 2, 2, 3, 99
    drawn = torch.tensor([-2.9, -3.1, 2.5, 250, 300])[:, None]  # radii 252.9 …, 303.1
    precision, recall = precision_recall(drawn, real)
    assert precision == pytest.approx(2 / 5)  # -2.9, 2.5; 250 is 150 from 100
    assert recall == 1.0
    close = torch.tensor([0.0, 0.1, 0.2, 0.3])[:, None]
    assert precision_recall(close, real) == (1.0, pytest.approx(1 / 5))


def test_precision_and_recall_of_another_library():
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    x, y = torch.randn(300, 5), torch.randn(300, 5) * 1.3 + 0.5
    theirs = prc.prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=100, verbose=False, save_cpu_ram=False
    )
    ours = precision_recall(x, y)
    assert ours == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert 0.1 < ours[0] < 1 > ours[1] > 0.1


def test_all_judges_are_in_the_scores_and_saw_the_same_images(tmp_path, monkeypatch):
    judges, seen = of_digits(tmp_path), {}
    forward = extractors.Extractor.forward

    def watched(self, x):
        seen.setdefault(self.name, []).append(x.clone())
        return forward(self, x)

    monkeypatch.setattr(extractors.Extractor, "forward", watched)
    batches = [torch.rand(40, 1, 8, 8) * 2 - 1 for _ in range(2)]
    scores = judges.score(iter(batches), 1)
    assert set(scores) == {*COLUMNS, *JUDGES_COLUMNS, "n", "extractor", "reference"}
    assert set(seen) == {"mnist", *JUDGES}
    for images in seen.values():
        assert all(torch.equal(a, b) for a, b in zip(images, batches, strict=True))
    alone = judges.main.score(iter(batches), 1)
    assert alone == {name: scores[name] for name in alone}
    for name, judge in judges.others.items():
        assert scores[f"fid_{name}"] == judge.score(iter(batches), 1)["fid"] > 0
        assert judge.reference.name == "digits test, 360 images"
    assert len({scores[f"fid_{name}"] for name in JUDGES}) == 3
    assert 0.1 < scores["confidence"] <= 1 and 0 <= scores["precision"] <= 1


def test_only_a_runs_own_judge_takes_the_training_images(tmp_path):
    judges = of_digits(tmp_path, split="train", extractor="second")
    assert judges.main.reference.name == "digits train, 1437 images"
    assert judges.others["second"].reference.name == "digits test, 360 images"
    scores = judges.score([torch.rand(40, 1, 8, 8) * 2 - 1], 1)
    assert scores["fid"] != scores["fid_second"]


class Asked(Exception):
    pass


@pytest.mark.parametrize(
    "flags", ["--recipe exact", "--recipe ours", "--recipe paper", "--gamma 1"]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_upper_level_looks_at_training_images(flags, split, tmp_path, monkeypatch):
    """In every recipe, unless --reference test asks for what the published code did."""

    def upper(sampler, judge, *_):
        raise Asked(judge.reference.name)

    monkeypatch.setattr(train_mnist_bilevel_ZO, "UpperLevel", upper)
    argv = f"{flags} --dataset digits --cpu --threads 1 --model_base_dim 4 --timesteps 20"
    argv += f" --backward_steps 2 --runs_dir {tmp_path}/runs --cache_dir {tmp_path}/cache"
    argv += " --reference test" * (split == "test")
    script = train_mnist_bilevel_ZO
    args = cli.parse(script.make_parser(), "bilevel", script.check, argv.split())
    with pytest.raises(Asked, match=f"digits {split}"):
        script.main(args)


def test_images_that_no_network_has_learned_are_judged_by_pixels(tmp_path, monkeypatch):
    pixels = Source("digits").images("test")
    monkeypatch.setattr(Source, "images", lambda *_: pixels)
    scores = of_digits(tmp_path, dataset="folder").score([torch.rand(40, 1, 8, 8) * 2 - 1], 1)
    assert scores["extractor"] == "pixels" and scores["fid"] == scores["fid_pixels"] > 0
    assert scores["fid_second"] is scores["precision"] is scores["is_mean"] is None


def test_without_images_every_column_is_empty(tmp_path):
    for judge, columns in ((of_digits(tmp_path), {*COLUMNS, *JUDGES_COLUMNS}), (None, {*COLUMNS})):
        scores = evaluate(None, None, 0, judge, "evaluation")
        assert set(scores) == columns | {"n"} and set(scores.values()) == {None}
