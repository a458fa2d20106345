"""No GPU is needed: a pretend one refuses to mix devices and counts waits, copies and launches.

It cannot show speed, or what a real kernel rounds: docs/cuda.md lists what no GPU has run.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

import train_mnist
from common import cli, errors, machine, provenance
from common.errors import Stop
from common.sampling import Sampler, SamplerSettings
from model import Diffusion
from scheduler import Schedule
from unet import UNet

# path -> waits of the host for the device, copies from the host to it
BUDGETS = {
    "training step": (1, 0),
    "training step with a pull": (1, 0),
    "static training step": (1, 0),
    "averaging": (0, 1),
    "sampling, DDIM": (0, 2),  # the visited times, before the chain; none inside it
    "sampling, static chain": (0, 2),
    "sampling, DDPM": (0, 2),
    "score of 8 images": (9, 0),
    "dF/dtheta, zeroth-order": (4, 4),
    "dF/dq, zeroth-order": (4, 5),
    "dF/dq, forward mode": (4, 2),
    "dF/dq and dF/dtheta, exact": (6, 2),
    "difference of losses": (0, 0),
    "schedule step": (2, 0),
    "coupled step": (8, 4),
    "save and load": (0, 0),
}
ITERATION = ("training step", "dF/dtheta, zeroth-order", "training step with a pull",
    "dF/dq, zeroth-order", "difference of losses", "schedule step")  # fmt: skip


def printed(script, *arguments):
    """What a script prints that registers the pretend device, in a process of its own."""
    command = [sys.executable, f"tests/{script}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def paths():
    return printed("gpu_paths.py")


def test_the_page_on_cuda_has_the_paths_as_they_are(paths):
    assert paths["table"] in (ROOT / "docs" / "cuda.md").read_text()


@pytest.mark.parametrize("path", BUDGETS)
def test_a_hot_path_stays_on_its_device_and_keeps_its_budget(paths, path):
    waits, copies = paths[path]["waits"], paths[path]["copies"]
    assert (sum(waits.values()), sum(copies.values())) == BUDGETS[path], (waits, copies)


def test_every_path_has_a_budget_and_an_iteration_of_one_step_waits_twelve_times(paths):
    assert set(paths) == {*BUDGETS, "launches", "table"}
    assert sum(BUDGETS[path][0] for path in ITERATION) <= 12


def test_a_step_of_training_and_of_sampling_launches_few_operators(paths):
    """At base 64; how many images a batch has does not change it."""
    found = paths["launches"]
    assert found["training step"] <= 750
    assert found["3 DDIM steps"] - found["2 DDIM steps"] <= 430


def test_the_scripts_give_the_numbers_of_the_cpu_and_runs_move_between_devices(tmp_path):
    found = printed("gpu_scripts.py", tmp_path)
    assert set(found) == {
        "train host", "train device", "train moved", "bilevel host", "bilevel device",
        "bilevel mps", "coupled host", "coupled device", "coupled mps", "coupled moved",
        "search host", "search device", "noise",
    }  # fmt: skip
    # what judges a run is drawn on the host, also on the device: cards differ in what they draw
    assert found["noise"] == {"evaluation": ["cpu"], "picture": ["cpu"], "step": ["pretend:0"]}
    assert found["search device"] == pytest.approx(found["search host"], rel=1e-5)
    assert len(found["search host"]) == 2
    for name in ("train", "bilevel", "coupled"):
        assert len(found[f"{name} host"]) == 4
        assert found[f"{name} device"] == pytest.approx(found[f"{name} host"], rel=1e-6)
    for name in ("bilevel", "coupled"):
        assert found[f"{name} mps"] == pytest.approx(found[f"{name} host"], rel=1e-6)
    for name in ("train", "coupled"):
        assert found[f"{name} moved"] == pytest.approx(found[f"{name} host"], rel=1e-6)


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that says it has two; returns the indices that are made current."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 12345)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    return chosen


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0", "cuda:1"])
def test_every_name_of_a_gpu_is_a_device_with_an_index(name, two_gpus):
    index = 1 if name == "cuda:1" else 0
    assert machine.setup(name) == torch.device("cuda", index)
    assert two_gpus == [index]


@pytest.mark.parametrize("name", ["cuda:9", "mps"])
def test_a_device_that_is_absent_is_one_line(name, two_gpus):
    with pytest.raises(Stop, match=f"--device {name}: not available") as stop:
        machine.setup(name)
    assert stop.value.code == 2 and not two_gpus


def test_cpu_is_the_cpu_beside_two_gpus(two_gpus):
    assert machine.setup("auto", cpu=True) == torch.device("cpu") and not two_gpus


def test_a_run_on_a_card_begins_with_a_peak_of_its_own(two_gpus, monkeypatch):
    """A search's worker makes many runs: the peak of one is not that of the largest before it."""
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    machine.setup("cuda:1")
    assert reset == [torch.device("cuda:1")]
    machine.setup("cpu")
    assert len(reset) == 1


def test_a_peak_is_that_of_the_device_of_the_run(two_gpus):
    assert machine.peak_memory(torch.device("cuda:0"))["cuda"] == 12345
    assert set(machine.peak_memory(torch.device("cpu"))) == {"host"}


def test_tf32_is_off_unless_asked_for(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)  # needs a driver
    for asked in (True, False):
        machine.setup("cuda", tf32=asked)
        facts = provenance.cuda_facts()
        assert facts["tf32"] == torch.backends.cuda.matmul.allow_tf32 == asked
    assert json.dumps(facts) and set(facts) >= {"cuda", "cudnn", "driver", "cudnn_benchmark"}


@pytest.mark.parametrize("first, then", [
    (["--cpu"], ["--device", "cuda:0"]), (["--device", "cuda:0"], ["--cpu"]),
    (["--device", "cpu"], ["--device", "cuda"]),
])  # fmt: skip
def test_a_run_may_be_resumed_on_another_device(first, then, tmp_path):
    def parse(argv):
        return cli.parse(train_mnist.make_parser(), "train", train_mnist.check, argv)

    folder = tmp_path / "00000-train-seed0"
    folder.mkdir()
    stored = {"kind": "train", "arguments": vars(parse(["--dataset", "digits", *first]))}
    (folder / "args.json").write_text(json.dumps(stored))
    args, alone = parse(["--resume", str(folder), *then]), parse(then)
    assert (args.device, args.cpu) == (alone.device, alone.cpu)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
])  # fmt: skip
def test_out_of_memory_is_one_line_that_says_what_helps(error, capsys):
    def main(_):
        raise error

    args = SimpleNamespace(batch_size=128, eval_chunk=500)  # the flags that the command has
    for given, flags in ((args, "--batch_size or --eval_chunk"), (None, "")):
        assert errors.guarded(main, given, "train_mnist.py") == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and flags in said and "--zo_samples" not in said


def test_another_error_is_not_called_out_of_memory():
    def main(_):
        raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        errors.guarded(main, None, "train_mnist.py")


@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_images_do_not_depend_on_how_many_are_sampled_at_once(chunk):
    process, net = Diffusion(Schedule("cosine", 20)), UNet(4, timesteps=20).eval()
    settings = [SamplerSettings(3, chunk=size) for size in (500, chunk)]
    images = [
        torch.cat(list(Sampler(process, each, (1, 8, 8)).many(net, 20, "chunks")))
        for each in settings
    ]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
