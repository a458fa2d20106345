"""The networks whose features are measured: shapes, damaged files, and InceptionV3."""

import json
import math
import shutil
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp, vmap

from common import extractors, inception
from common.classifiers import resize
from common.data import Source, fingerprint, to_unit
from common.errors import Stop
from common.extractors import load_extractor
from common.judge_files import weights_path
from common.judging import real_batches

MNIST_WEIGHTS = weights_path("mnist", "mnist", 28)


def test_classifier_is_the_one_its_record_describes(mnist, mnist_dir):
    """At least 99.3 % of MNIST's test images, in at most 1 MB."""
    record = json.loads(MNIST_WEIGHTS.with_suffix(".json").read_text())
    assert MNIST_WEIGHTS.stat().st_size == record["bytes"] <= 1_000_000
    assert record["sha256"].startswith(mnist.weights_hash) and len(mnist.weights_hash) == 16
    source = Source("mnist", mnist_dir)
    pixels, labels = source.images("test"), source.labels("test")
    assert record["data"]["test"] == fingerprint(pixels)
    guess = torch.cat([mnist(x)[1].argmax(1) for x in real_batches(pixels)])
    accuracy = float((guess == labels).double().mean())
    assert accuracy >= 0.993
    assert accuracy == pytest.approx(record["accuracy"], abs=2e-4)


def test_extractor_is_frozen_and_stays_in_eval_mode(mnist):
    holder = torch.nn.ModuleList([mnist]).train()
    assert not any(module.training for module in mnist.modules())
    assert not any(weight.requires_grad for weight in holder.parameters())


def test_extractor_shapes_and_dtypes(mnist):
    x = torch.rand(5, 1, 28, 28) * 2 - 1
    features, probs = mnist(x)
    assert features.shape == (5, mnist.dim) and probs.shape == (5, 10)
    torch.testing.assert_close(probs.sum(1), torch.ones(5))
    exact, _ = mnist(x.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(features, exact.float(), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mnist(x)[0], features, rtol=1e-5, atol=1e-5)


def test_an_extractor_does_without_tf32(mnist, monkeypatch):
    """Its statistics are kept for runs with and without --tf32."""
    matmul, cudnn, seen = torch.backends.cuda.matmul, torch.backends.cudnn, []
    before, fit = (matmul.allow_tf32, cudnn.allow_tf32), mnist.net.fit
    monkeypatch.setattr(
        mnist.net, "fit", lambda x: seen.append((matmul.allow_tf32, cudnn.allow_tf32)) or fit(x)
    )
    try:
        for asked in (True, False):
            matmul.allow_tf32 = cudnn.allow_tf32 = asked
            mnist(torch.zeros(1, 1, 28, 28))
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (asked, asked)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
    assert seen == [(False, False)] * 2


def test_extractor_sees_what_is_saved_and_hides_no_infinity(mnist):
    x = torch.randn(4, 1, 28, 28) * 2
    torch.testing.assert_close(mnist(x)[0], mnist(x.clamp(-1, 1))[0])
    x[2, 0, 3, 4] = math.inf
    assert mnist(x)[0].isfinite().all(1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28)])
def test_extractor_refuses_other_images(mnist, shape):
    with pytest.raises(ValueError, match="float images"):
        mnist(torch.zeros(shape))
    with pytest.raises(ValueError, match="float images"):
        mnist(torch.zeros(4, 1, 28, 28, dtype=torch.uint8))


def test_small_digits_are_framed_like_mnist(mnist):
    """Three in four are recognised, with no training on them."""
    source = Source("digits")
    pixels, labels = source.images("test"), source.labels("test")
    framed = mnist.net.fit(to_unit(pixels))
    assert framed.shape == (360, 1, 28, 28)
    assert (framed[..., :4, :] == -1).all() and (framed[..., 24:] == -1).all()
    assert (mnist(to_unit(pixels))[1].argmax(1) == labels).double().mean() > 0.7


@pytest.mark.parametrize(("size", "side"), [(8, 20), (28, 299), (5, 5), (12, 7)])
def test_resize_is_bilinear(size, side):
    x = torch.randn(2, 1, size, size + 1, dtype=torch.float64)
    expected = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(x, side), expected)


def test_an_unknown_extractor_is_refused():
    with pytest.raises(ValueError, match="mnist, first, second, pixels, inception"):
        load_extractor("vgg", "cpu")


@pytest.mark.parametrize("damage", ["weights", "no weights", "record", "no record"])
def test_damaged_classifier_is_one_line_that_names_the_file(damage, tmp_path, monkeypatch):
    weights, record = tmp_path / "c.pt", tmp_path / "c.json"
    shutil.copy(MNIST_WEIGHTS, weights)
    shutil.copy(MNIST_WEIGHTS.with_suffix(".json"), record)
    monkeypatch.setattr(extractors, "weights_path", lambda *_: weights)
    load_extractor("mnist", "cpu")
    damaged = record if "record" in damage else weights
    damaged.write_bytes(damaged.read_bytes()[:-9])
    if damage.startswith("no "):
        damaged.unlink()
    with pytest.raises(Stop, match=r"python -m assets\.train_classifier") as stop:
        load_extractor("mnist", "cpu")
    assert str(damaged) in str(stop.value) and "\n" not in str(stop.value)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """The network that pytorch-fid builds, with weights of chance, as a file."""
    import torchvision
    from pytorch_fid import inception

    with (
        mock.patch.object(inception, "load_state_dict_from_url"),
        mock.patch.object(torchvision.models.Inception3, "load_state_dict"),
    ):
        net = inception.fid_inception_v3()
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(net.state_dict(), path)
    return path


def test_inception_is_pytorch_fids(inception_file, capsys):
    from pytorch_fid import inception

    extractor = load_extractor("inception", "cpu", str(inception_file))
    assert f"SHA-256 {extractor.weights_hash}" in capsys.readouterr().out
    x = torch.rand(2, 1, 28, 28) * 2 - 1
    features, probs = extractor(x)
    assert features.shape == (2, extractor.dim) == (2, 2048) and probs.shape == (2, 1008)
    state = torch.load(inception_file, weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        theirs = inception.InceptionV3().eval()
    expected = theirs((x.expand(-1, 3, -1, -1) + 1) / 2)[0].flatten(1)
    assert expected.std() > 0
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    logits = expected @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(probs, logits.softmax(1), rtol=1e-3, atol=1e-6)


def test_inception_file_that_is_not_one(inception_file, tmp_path):
    missing = tmp_path / "missing.pth"
    renamed = tmp_path / "weights-0123abcd.pth"
    renamed.symlink_to(inception_file)
    text = tmp_path / "text.pth"
    text.write_text("<html>not found</html>")
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    says = {missing: "cannot be read", renamed: "its name says 0123abcd", text: "does not hold",
            other: "does not hold"}  # fmt: skip
    for path, reason in says.items():
        with pytest.raises(Stop, match=reason) as stop:
            load_extractor("inception", "cpu", str(path))
        assert str(path) in str(stop.value) and "\n" not in str(stop.value)


def test_inception_without_network_says_what_to_do(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(Stop, match=r"no network.*--inception_weights.*leave out") as stop:
        load_extractor("inception", "cpu")
    assert "\n" not in str(stop.value)
    damaged = tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    damaged.write_bytes(b"half of it")
    with pytest.raises(Stop, match=r"damaged.*6726825d"):
        load_extractor("inception", "cpu")


def test_inception_forward_and_reverse_mode(inception_file, monkeypatch):
    """On small images, for time: every layer has a forward and a batching rule."""
    monkeypatch.setattr(inception, "INCEPTION_SIDE", 75)
    extractor = load_extractor("inception", "cpu", str(inception_file))
    x, tangents = torch.rand(1, 1, 8, 8) * 1.8 - 0.9, torch.randn(2, 1, 1, 8, 8)
    forward = vmap(lambda v: jvp(lambda x: extractor(x)[0], (x,), (v,))[1])(tangents)
    weight = torch.randn(2048)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(extractor(leaf)[0] @ weight, leaf)
    expected = (gradient * tangents).flatten(1).sum(1)
    assert expected.abs().min() > 0
    torch.testing.assert_close((forward @ weight).flatten(), expected, rtol=1e-3, atol=1e-12)
