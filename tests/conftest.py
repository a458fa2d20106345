"""The tests run from the repository's root, as a user does, and offline."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if not os.environ.get("TEST_GPU"):  # the suite's numbers are the CPU's, on any machine
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.set_num_threads(1)  # small tensors: a second thread only waits, worse so beside other work
MNIST_DIR = Path(os.environ.get("MNIST_DIR", ROOT.parent / "shared" / "datasets")).resolve()


@pytest.fixture(autouse=True)
def fresh_random_state():
    """No test depends on what ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder that holds MNIST/raw; set MNIST_DIR to point at another."""
    if not (MNIST_DIR / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST under {MNIST_DIR}; set MNIST_DIR")
    return str(MNIST_DIR)


@pytest.fixture(scope="session")
def mnist():
    """The digit classifier, as an extractor."""
    from common.extractors import load_extractor

    return load_extractor("mnist", "cpu")


@pytest.fixture
def tiny(monkeypatch):
    """The study's networks with 8 units: what is tested does not depend on the width."""
    from studies.lr_schedules import stack

    monkeypatch.setattr(stack, "HIDDEN", 8)
    monkeypatch.setattr(stack, "EMBEDDING", 4)
