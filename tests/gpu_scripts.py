"""The scripts whole on the pretend accelerator, beside the CPU: python tests/gpu_scripts.py FOLDER.

Each script runs on the host and on the device with the same network, also without float64 there,
and a run of the host resumes on the device and the other way round. Printed is what each run's
losses were, a search's FIDs, and where the random numbers of a run on the device were drawn; an
operator that mixes devices ends it with an error.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from unittest import mock

import pretend_gpu
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import metrics
import train_mnist
import train_mnist_bayesian
import train_mnist_bilevel_ZO
from common import cli, judging, loop, networks, sampling, training
from common.errors import Stop
from search import results, trials
from unet import UNet

COMMON = """
    --dataset digits --model_base_dim 4 --timesteps 20 --batch_size 8 --limit_batches 2 --epochs 2
    --backward_steps 2 --n_samples 2 --fid_samples 0 --eval_samples 20 --log_freq 1
""".split()
BILEVEL = "--recipe ours --initial_epoch 1 --zo_samples 4 --initial_end 0.9".split()
COUPLED = """
    --initial_epoch 1 --zo_samples 4 --initial_end 0.9 --exact_every 3 --update_every 1
    --settle_steps 0 --difference_batches 1
""".split()
SEARCH = ["--n_calls", "2", "--strategy", "random", "--epochs", "1"]
SCRIPTS = {
    "search": (train_mnist_bayesian, "search", SEARCH),
    "train": (train_mnist, "train", []),
    "bilevel": (train_mnist_bilevel_ZO, "bilevel", BILEVEL),
    "coupled": (train_mnist_bilevel_ZO, "bilevel", COUPLED),
}
CPU = torch.device("cpu")


@contextlib.contextmanager
def like_mps():
    """A device without float64, which the code is told."""
    with contextlib.ExitStack() as stack:
        for module in (metrics, judging, train_mnist_bilevel_ZO):
            stack.enter_context(mock.patch.object(module, "float64_home", lambda _: CPU))
        stack.enter_context(pretend_gpu.pretend(float64=False))
        yield


class StopAfter:
    """Ends a run after some polls, as a signal does."""

    def __init__(self, polls):
        self.left = polls

    def __call__(self, run):
        run.save()
        self.left -= 1
        if not self.left:
            raise Stop("interrupted", code=143)


def run(
    name: str, folder: Path, device: torch.device, resume: bool = False, polls: int = 0
) -> None:
    """A script's own main, its device chosen for it."""
    script, kind, flags = SCRIPTS[name]
    argv = ["--runs_dir", str(folder), *(["--resume", "latest"] if resume else COMMON + flags)]
    args = cli.parse(script.make_parser(), kind, script.check, argv)
    with contextlib.ExitStack() as stack:
        for module in (loop, trials):
            stack.enter_context(mock.patch.object(module, "setup", lambda *_: device))
        if name == "search":
            stack.enter_context(mock.patch.object(script, "Workers", Here))
            stack.enter_context(mock.patch.object(results, "save_best", lambda *_: None))
        for figures in (train_mnist, train_mnist_bilevel_ZO):
            stack.enter_context(mock.patch.object(figures, "leave_figures", lambda *_: None))
        if polls:
            poll = StopAfter(polls)
            stack.enter_context(mock.patch("common.run.Run.poll", lambda self: poll(self)))
        with contextlib.suppress(Stop):
            script.main(args)


class Here:
    """A search's trials in this process, since another would not have the device."""

    def __init__(self, *_):
        pass

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda *_: None  # noqa: E731

    def __call__(self, tasks: dict):
        return ((i, trials.run_trial(*task)) for i, task in tasks.items())


def streams_of_a_run(root: Path) -> dict[str, list[str]]:
    """By purpose, the devices on which a run on the device draws its random numbers."""
    drawn = {}

    def noted(device, seed, *names):
        drawn.setdefault(names[0], set()).add(str(device))
        return real(device, seed, *names)

    real = sampling.stream
    with contextlib.ExitStack() as stack:
        for module in (sampling, training):
            stack.enter_context(mock.patch.object(module, "stream", noted))
        stack.enter_context(pretend_gpu.pretend())
        run("train", root, pretend_gpu.DEVICE)
    return {name: sorted(devices) for name, devices in drawn.items()}


def objectives(folder: Path) -> list[float]:
    (ledger,) = folder.glob("*/search.jsonl")
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    return [row["objective"] for row in rows]


def losses(folder: Path) -> list[float]:
    (csv,) = [p for n in ("losses", "iterations") for p in folder.glob(f"*/{n}.csv")]
    header, *rows = (line.split(",") for line in csv.read_text().splitlines())
    column = header.index("loss_y" if "loss_y" in header else "loss")
    return [float(row[column]) for row in rows]


def main(root: Path) -> None:
    found = {}
    networks.network_class = lambda _: UNet  # the same on both: no rounding differs
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for name in SCRIPTS:
            run(name, root / name / "host", CPU)
            with pretend_gpu.pretend():
                run(name, root / name / "device", pretend_gpu.DEVICE)
        for name in ("bilevel", "coupled"):
            with like_mps():
                run(name, root / name / "mps", pretend_gpu.DEVICE)
        run("train", root / "train" / "moved", CPU, polls=1)
        with pretend_gpu.pretend():
            run("train", root / "train" / "moved", pretend_gpu.DEVICE, resume=True, polls=1)
        run("train", root / "train" / "moved", CPU, resume=True)
        # after the first coupled step, whose gradients the next ones share
        run("coupled", root / "coupled" / "moved", CPU, polls=6)
        with pretend_gpu.pretend():
            run("coupled", root / "coupled" / "moved", pretend_gpu.DEVICE, resume=True)
        found["noise"] = streams_of_a_run(root / "noise")
    for folder in sorted(root.glob("*/*")):
        numbers = objectives if folder.parent.name == "search" else losses
        if folder.parent.name != "noise":
            found[f"{folder.parent.name} {folder.name}"] = numbers(folder)
    print(json.dumps(found), flush=True)
    os._exit(0)  # torch's threads know nothing of a backend in Python when they end


if __name__ == "__main__":
    main(Path(sys.argv[1]))
