"""Reference statistics, their cache, and what is measured against them."""

import dataclasses
import json
import math
import shutil
import warnings

import numpy as np
import pytest
import torch

from common import extractors
from common.classifiers import MnistClassifier
from common.data import Source, to_unit
from common.errors import Stop
from common.judging import Judge, real_batches, reference_statistics
from metrics import kid


@pytest.fixture
def cached(mnist, tmp_path):
    """A reference in its cache."""
    reference = reference_statistics(
        Source("digits"), "test", mnist, "cpu", str(tmp_path / "cache")
    )
    (path,) = (tmp_path / "cache").iterdir()
    return reference, path


def again(mnist, path, split="test"):
    return reference_statistics(Source("digits"), split, mnist, "cpu", str(path.parent))


def test_reference_is_that_of_the_images(mnist, cached):
    reference, _ = cached
    x = mnist(to_unit(Source("digits", "").images("test")))[0].double()
    torch.testing.assert_close(reference.mean, x.mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(reference.cov, x.T.cov(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(reference.root @ reference.root.mT, reference.cov)
    assert (reference.n, reference.name) == (360, "digits test, 360 images")
    assert (reference.extractor, reference.weights_hash) == ("mnist", mnist.weights_hash)


def test_cache_saves_the_computation(mnist, cached, monkeypatch):
    reference, path = cached
    monkeypatch.setattr(extractors.Extractor, "forward", lambda *_: pytest.fail("computed again"))
    twin = again(mnist, path)
    assert torch.equal(twin.mean, reference.mean) and torch.equal(twin.cov, reference.cov)
    assert twin.name == reference.name
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        again(mnist, path, "train")


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "swapped", "text"])
def test_damaged_cache_is_computed_again(mnist, cached, damage):
    reference, path = cached
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "swapped":  # a whole npz file, whose numbers are not those that were written
        with np.load(path) as file:
            parts = dict(file)
        np.savez(path, **{**parts, "mean": parts["mean"] + 1})
        content = path.read_bytes()
    else:
        content = {"empty": b"", "cut": content[:-50], "text": b"not an archive"}[damage]
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged.*computed again"):
        twin = again(mnist, path)
    assert torch.equal(twin.cov, reference.cov)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again(mnist, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_cache_of_something_else_is_an_error(mnist, cached):
    _, path = cached
    again(mnist, path, "train")
    (other,) = set(path.parent.iterdir()) - {path}
    shutil.copy(other, path)
    with pytest.raises(Stop, match="split is digits train, not digits test"):
        again(mnist, path)


def test_cache_is_not_used_for_other_weights(mnist, cached):
    _, path = cached
    other = extractors.Extractor("mnist", MnistClassifier(), "0" * 16)
    reference = again(other, path)
    assert len(list(path.parent.iterdir())) == 2 and reference.weights_hash == "0" * 16
    with pytest.raises(ValueError, match="made with mnist 0000"):
        Judge(mnist, reference).score([])


def test_cache_that_cannot_be_written_is_done_without(mnist, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not cached"):
        reference_statistics(
            Source("digits"), "test", mnist, "cpu", str(tmp_path / "file" / "cache")
        )


def test_evaluate_reports_plain_numbers_and_what_they_were_measured_by(mnist, cached):
    reference, _ = cached
    pixels = Source("digits", "").images("test")
    scores = Judge(mnist, reference).score(real_batches(pixels, size=77), splits=5)
    assert json.loads(json.dumps(scores)) == scores
    assert 0 <= scores["fid"] < 1e-4 * float(reference.trace)
    assert 1 < scores["is_mean"] <= 10 and scores["is_std"] > 0
    assert (scores["n"], scores["extractor"]) == (360, "mnist")
    assert scores["reference"] == "digits test, 360 images"
    noise = [torch.randn(90, 1, 8, 8).clamp(-1, 1) for _ in range(2)]
    assert Judge(mnist, reference).score(noise)["fid"] > 10 * (scores["fid"] + 1e-3)


def test_evaluate_refuses_what_it_cannot_measure(mnist, cached):
    reference, _ = cached
    x = torch.rand(12, 1, 8, 8)
    with pytest.raises(ValueError, match="at least 2 samples, not 0"):
        Judge(mnist, reference).score([])
    with pytest.raises(ValueError, match="10 splits needs that many samples, not 6"):
        Judge(mnist, reference).score([x[:6]])
    with pytest.raises(ValueError, match="finite"):
        Judge(mnist, reference).score([x, x * math.nan])


def test_the_score_of_a_judge_has_kid_of_the_features_themselves(mnist, cached):
    """The same number as from the features in one piece, and no value without a sample."""
    reference, _ = cached
    x = torch.rand(60, 1, 8, 8) * 2 - 1
    scores = Judge(mnist, reference).score(iter(x.split(25)), 1)
    assert scores["kid"] == pytest.approx(kid(mnist(x)[0], reference.sample), rel=1e-12)
    assert len(reference.sample) == 360 and scores["kid"] > 0.01
    bare = dataclasses.replace(reference, sample=None)
    assert Judge(mnist, bare).score([x], 1)["kid"] is None
