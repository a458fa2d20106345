"""The data: whole or refused, split without overlap, dealt out in batches without a state."""

import gzip
import random
import shutil
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from harness import Script, mutated
from sklearn.datasets import load_digits

from common import figures
from common.data import (
    DIGITS_TEST_EVERY,
    Batches,
    Source,
    fingerprint,
    to_pixels,
    to_unit,
)
from common.datasets import DATASETS, DIMENSIONS, idx_file
from common.errors import Stop

LABELS, IMAGES = (idx_file("test", what) for what in ("labels", "images"))


def folder_with(tmp_path, mnist_dir, *names) -> Path:
    """A data folder of our own that holds copies of some of the files; returns MNIST/raw."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in names:
        shutil.copyfile(Path(mnist_dir) / "MNIST" / "raw" / name, raw / name)
    return raw


# --- damage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "load", "times"), [(LABELS, Source.labels, 190), (IMAGES, Source.images, 10)]
)
def test_200_mutations_of_a_file_are_refused(mnist_dir, tmp_path, name, load, times):
    path, rng = folder_with(tmp_path, mnist_dir, name) / name, random.Random(0)
    whole = path.read_bytes()
    assert len(load(Source("mnist", str(tmp_path)), "test")) == 10000
    for i in range(times):
        changed = whole[: -1 - i] if times == 10 and i % 5 == 4 else mutated(whole, i % 5, rng)
        assert changed != whole
        path.write_bytes(changed)
        with pytest.raises(Stop) as refused:
            load(Source("mnist", str(tmp_path)), "test")
        said = str(refused.value)
        assert str(path) in said and "--data_dir" in said and "\n" not in said
    path.write_bytes(whole)
    assert len(load(Source("mnist", str(tmp_path)), "test")) == 10000


def test_a_file_in_the_place_of_another_is_refused(mnist_dir, tmp_path):
    raw = folder_with(tmp_path, mnist_dir, LABELS)
    train_labels = idx_file("train", "labels")
    (raw / LABELS).rename(raw / train_labels)
    with pytest.raises(Stop, match=rf"{train_labels}: not the file of MNIST"):
        Source("mnist", str(tmp_path)).labels("train")


@pytest.mark.parametrize("error", [
    URLError("no route to host"), RuntimeError("Error downloading it\nfrom every mirror"),
    OSError("read-only"), ConnectionResetError(), TimeoutError("timed out"),
    IncompleteRead(b"half"), EOFError("cut short"),
])  # fmt: skip
def test_a_missing_file_that_cannot_be_downloaded_is_one_line(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(Stop) as refused:
        Source("mnist", str(tmp_path)).images("test")
    said = str(refused.value)
    assert str(tmp_path / "MNIST" / "raw" / IMAGES) in said and "\n" not in said
    assert "MNIST/raw" in said and "--data_dir" in said and "--dataset digits" in said
    assert (str(error).splitlines() or [type(error).__name__])[-1] in said


def test_a_download_that_leaves_nothing_or_damage_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda *_, **__: None)
    with pytest.raises(Stop, match=rf"{LABELS}: still missing.*--data_dir"):
        Source("mnist", str(tmp_path)).labels("test")

    def half(folder, download):
        path = Path(folder) / "MNIST" / "raw" / LABELS
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))

    monkeypatch.setattr(torchvision.datasets, "MNIST", half)
    with pytest.raises(Stop, match=rf"{LABELS}: not the file of MNIST"):
        Source("mnist", str(tmp_path)).labels("test")


def test_a_download_is_put_in_its_place_file_by_file(mnist_dir, tmp_path, monkeypatch):
    """So that a second process, which may start meanwhile, never reads half a file."""
    place = tmp_path / "new" / "MNIST" / "raw" / LABELS
    place.parent.mkdir(parents=True)
    (place.parent / "some.gz").touch()  # an archive that is there already
    seen = []

    def fetch(folder, download):
        path = Path(folder) / "MNIST" / "raw" / LABELS
        seen.append([p.name for p in path.parent.iterdir()])
        path.write_bytes((Path(mnist_dir) / "MNIST" / "raw" / LABELS).read_bytes())
        seen.append(place.exists())

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    assert len(Source("mnist", str(tmp_path / "new")).labels("test")) == 10000
    assert seen == [["some.gz"], False]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["MNIST"]


def test_an_archive_is_read_where_it_lies_unless_it_is_damaged(mnist_dir, tmp_path):
    content = (Path(mnist_dir) / "MNIST" / "raw" / LABELS).read_bytes()
    archive = folder_with(tmp_path, mnist_dir) / f"{LABELS}.gz"
    source = Source("mnist", str(tmp_path))
    archive.write_bytes(gzip.compress(content))
    assert torch.equal(source.labels("test"), Source("mnist", str(mnist_dir)).labels("test"))
    assert not archive.with_suffix("").exists()

    packed = archive.read_bytes()
    for damaged in (packed[:-100], packed[:50] + b"x" + packed[51:], gzip.compress(bytes(9)), b""):
        archive.write_bytes(damaged)
        with pytest.raises(Stop, match=rf"{LABELS}\.gz: damaged, or not the file of MNIST; delete"):
            source.labels("test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_run_on_damaged_data_ends_before_its_first_step(mnist_dir, tmp_path, split):
    """Training images before there is a folder; the test images, for FID, before any step."""
    raw = folder_with(tmp_path, mnist_dir)
    for name in (idx_file("train", "images"), IMAGES):
        (raw / name).symlink_to(Path(mnist_dir) / "MNIST" / "raw" / name)
    name = idx_file(split, "images")
    (raw / name).unlink()
    (raw / name).write_bytes(bytes(1000))
    script = Script(tmp_path)
    cache = tmp_path / "cache"
    flags = ["--cpu", "--threads", 1, "--model_base_dim", 4, "--cache_dir", cache]
    assert script.run(*flags, "--data_dir", tmp_path) == 1
    said = script.last_line()
    assert f"{name}: not the file of MNIST" in said and "Traceback" not in script.said()
    assert (tmp_path / "runs").exists() == (split == "test")
    assert not list(tmp_path.glob("runs/*/*.csv"))


# --- splits and conversions ----------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_a_size_is_the_mean_of_blocks_of_the_framed_image(mnist_dir, size):
    """Against torch's own pooling of the padded image; 32 shows all of it, and 64 enlarged."""
    whole, source = Source("mnist", mnist_dir), Source("mnist", mnist_dir, size)
    images = source.images("test")
    framed = torch.nn.functional.pad(whole.images("test").double(), [2, 2, 2, 2])
    means = torch.nn.functional.interpolate(framed, size, mode="area")
    assert images.shape == (10000, 1, size, size) and images.dtype == torch.uint8
    assert (images - means).abs().max() <= 0.5
    assert source.name == f"mnist {size}x{size}" and whole.name == "mnist"
    assert source.planned_images().shape == (60000, 1, size, size)


def test_every_data_set_has_its_own_size_first_and_its_four_hashes():
    for name, entry in DATASETS.items():
        assert Source(name).size == entry.sizes[0] and Source(name).name == name
        assert all(size % 4 == 0 for size in entry.sizes)  # the U-Net halves them twice
        if entry.reader == "idx":
            assert {len(digest) for digest in entry.sha256.values()} == {64}
            assert set(entry.sha256) == {(s, w) for s in ("train", "test") for w in DIMENSIONS}


def test_mnist_is_read_as_it_is_written(mnist_dir):
    images, labels = (
        Source("mnist", mnist_dir).images("test"),
        Source("mnist", mnist_dir).labels("test"),
    )
    assert images.shape == (10000, 1, 28, 28) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]  # the first digits of the set
    assert images.min() == 0 and images.max() == 255


def test_the_digits_are_those_that_scikit_learn_loads():
    values, labels = load_digits(return_X_y=True)
    test = torch.arange(len(values)) % DIGITS_TEST_EVERY == 0
    for split, chosen in (("test", test), ("train", ~test)):
        expected = torch.from_numpy(values)[chosen].mul(255 / 16).round()
        assert torch.equal(Source("digits", "").images(split).flatten(1).double(), expected)
        assert torch.equal(Source("digits", "").labels(split), torch.from_numpy(labels)[chosen])


def test_the_digits_are_split_without_overlap():
    train, test = (Source("digits", "").images(split) for split in ("train", "test"))
    assert train.shape == (1437, 1, 8, 8) and test.shape == (360, 1, 8, 8)
    assert train.dtype == torch.uint8 and train.max() == 255 and train.min() == 0
    seen = {image.numpy().tobytes() for image in train}
    assert not seen & {image.numpy().tobytes() for image in test}
    for split, images in (("train", train), ("test", test)):
        labels = Source("digits", "").labels(split)
        assert len(labels) == len(images) and set(labels.tolist()) == set(range(10))
    assert fingerprint(train) != fingerprint(test)
    assert fingerprint(train) == fingerprint(Source("digits", "").images("train"))
    assert fingerprint(train) != fingerprint(train.reshape(1437, 1, 4, 16))


def test_a_grid_is_torchvisions():
    from torchvision.utils import make_grid

    for shape, columns in (((7, 1, 8, 8), 3), ((4, 3, 60, 50), None), ((40, 1, 28, 28), 10)):
        x = torch.rand(shape) * 2 - 1
        pixels = to_pixels(x)
        zoom = max(1, 56 // shape[-1])
        pixels = pixels.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
        theirs = make_grid(pixels, nrow=columns or 2, padding=6, pad_value=96)
        assert (figures.grid(x, columns) == theirs.permute(1, 2, 0).numpy()).all()


def test_pixels_survive_the_way_to_the_unit_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = to_unit(pixels)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(to_pixels(x), pixels)
    assert pixels.flatten().tolist() == list(range(256))  # neither writes into its argument
    outside = torch.tensor([-7.0, -1.001, 1.001, 7.0])
    assert to_pixels(outside).tolist() == [0, 0, 255, 255]
    assert outside.tolist()[0] == -7


# --- batches -------------------------------------------------------------------------------


def numbered(n):
    """n images of one pixel that tell which they are."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)


def dealt(batches, epoch):
    return [to_pixels(batches(epoch, i)).flatten().tolist() for i in range(batches.steps)]


@pytest.mark.parametrize(("n", "size"), [(10, 3), (12, 4), (7, 7), (5, 9), (200, 64), (9, 8)])
def test_an_epoch_shows_every_image_in_full_batches(n, size):
    batches = Batches(numbered(n), size, seed=0)
    full = min(size, n)
    assert batches.steps == -(-n // full)
    for epoch in range(3):
        parts = dealt(batches, epoch)
        assert all(len(part) == full for part in parts)
        flat = [image for part in parts for image in part]
        assert sorted(flat[:n]) == list(range(n))  # each once, before any comes again
        assert flat[n:] == flat[: len(flat) - n]


def test_batches_depend_on_seed_epoch_and_number_only():
    one, other = (Batches(numbered(50), 8, seed=3) for _ in range(2))
    straight = [one(epoch, i) for epoch in range(2) for i in range(one.steps)]
    torch.manual_seed(99)
    jumping = [(e, i) for e in range(2) for i in range(one.steps)]
    order = random.Random(0).sample(range(len(jumping)), len(jumping))
    got = {k: other(*jumping[k]) for k in order}
    assert all(torch.equal(got[k], x) for k, x in enumerate(straight))
    assert dealt(one, 0) != dealt(one, 1) != dealt(one, 2)
    assert dealt(one, 0) != dealt(Batches(numbered(50), 8, seed=4), 0)


def test_a_limit_cuts_the_epoch_short():
    assert Batches(numbered(50), 8, 0, limit=3).steps == 3
    assert Batches(numbered(50), 8, 0, limit=100).steps == 7
    whole, cut = (dealt(Batches(numbered(50), 8, 0, limit), 5) for limit in (0, 3))
    assert cut == whole[:3]
