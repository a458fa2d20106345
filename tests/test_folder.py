"""--dataset folder: images of one's own."""

import numpy as np
import pytest
import torch
from harness import Script
from PIL import Image

from common.data import Source
from common.errors import Stop


@pytest.mark.parametrize("divided", [False, True])
def test_a_folder_of_images_is_read_in_grey_squares(tmp_path, divided):
    """A colour image wider than high: its middle, in grey; splits by folder or every tenth."""
    for i in range(20):
        folder = tmp_path / ("test" if i < 2 else "train") if divided else tmp_path
        folder.mkdir(exist_ok=True)
        pixels = np.zeros((16, 24, 3), np.uint8)
        pixels[:, 4:12] = 10 * i  # the left half of the middle square
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    source = Source("folder", str(tmp_path), 8)
    train, test = source.images("train"), source.images("test")
    assert train.shape == (18, 1, 8, 8) and test.shape == (2, 1, 8, 8)
    assert test[:, 0, 0, 0].tolist() == ([0, 10] if divided else [0, 100])
    assert (train[..., 4:] == 0).all() and (train[..., :4].double().flatten(1).std(1) == 0).all()
    assert len(source.planned_images()) == 18


def test_a_file_that_is_no_image_and_an_empty_folder_are_one_line(tmp_path):
    source = Source("folder", str(tmp_path))
    with pytest.raises(Stop, match="0 train images"):
        source.images("train")
    for i in range(20):
        (tmp_path / f"{i:02d}.png").write_bytes(b"no picture")
    with pytest.raises(Stop, match=r"01\.png: cannot be read as an image"):
        source.images("train")


def test_deep_and_transparent_images_are_read_as_they_look(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    drawn = np.zeros((8, 8, 4), np.uint8)  # black on a transparent ground
    drawn[:4, :, 3] = 255
    palette = Image.fromarray(drawn[..., 3]).convert("P")
    palette.info["transparency"] = 0
    for i in range(0, 20, 2):
        Image.fromarray(ramp).save(tmp_path / f"{i:02d}.png")
    for i in range(1, 20, 2):
        (palette if i == 3 else Image.fromarray(drawn)).save(tmp_path / f"{i:02d}.png")
    source = Source("folder", str(tmp_path), 8)
    deep, test = source.images("train")[1, 0], source.images("test")[0, 0]
    assert torch.equal(test, torch.from_numpy(np.rint(ramp / 257).astype(np.uint8)))
    assert test.float().mean() == pytest.approx(127.5, abs=1) and deep.float().mean() != 0
    seen = source.images("train")
    black = [x for x in seen if (x[0, :4] == 0).all() and (x[0, 4:] == 255).all()]
    white = [x for x in seen if (x[0] == 255).all()]  # of the palette only the drawing is opaque
    assert len(black) == 9 and len(white) == 1
    header = b"P5 8 8 65535\n"  # read as whole numbers of 32 bits
    (tmp_path / "00.png").rename(tmp_path / "unused")
    (tmp_path / "00.pgm").write_bytes(header + ramp.astype(">u2").tobytes())
    assert torch.equal(source.images("test")[0, 0], test)
    for kind, reason in ((np.float32, "whole numbers"), (np.int32, "those of 16 bits")):
        Image.fromarray(np.full((8, 8), 70000, kind)).save(tmp_path / "00.tiff")
        (tmp_path / "00.pgm").unlink(missing_ok=True)
        with pytest.raises(Stop, match=rf"00\.tiff: cannot be read as an image .*{reason}"):
            source.images("test")


def test_mnist_is_not_downloaded_among_somebodys_pictures(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "mine.png")
    with pytest.raises(Stop, match="--dataset folder") as refused:
        Source("mnist", str(tmp_path)).images("train")
    assert refused.value.code == 2 and not (tmp_path / "MNIST").exists()


@pytest.mark.parametrize("name, reason", [("missing", "no such folder"), ("", "0 train images")])
def test_a_folder_without_images_is_refused(tmp_path, name, reason):
    with pytest.raises(Stop, match=reason):
        Source("folder", str(tmp_path / name)).images("train")


def test_a_run_on_a_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 256, (8, 8)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    script = Script(tmp_path / "work")
    script.folder.mkdir()
    flags = ["--cpu", "--dataset", "folder", "--data_dir", tmp_path, "--image_size", 8]
    flags += ["--model_base_dim", 4, "--timesteps", 10, "--backward_steps", 2, "--epochs", 1]
    flags += ["--cache_dir", tmp_path / "work" / "cache", "--batch_size", 8]
    assert script.run(*flags, "--fid_samples", 0, "--eval_samples", 20) == 0, script.said()
    assert "36 images of folder 8x8" in script.said()
