"""Runs a script's own main in a process of its own, forked from one that has imported torch.

Most tests here are about the run, not about the network or the figures: unless a test asks for the
real ones, a network of two layers takes the U-Net's place and no figures are drawn at the end.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from torch import nn

SCRIPTS = {"train": "train_mnist", "bilevel": "train_mnist_bilevel_ZO"}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "train_mnist",
        "train_mnist_bilevel_ZO",
        "sklearn.datasets",
        "torchvision.utils",
        "matplotlib.pyplot",
    ]
)


class TwoLayers(nn.Module):
    """What the runs need of a network: weights, batch norm, and a table of times."""

    def __init__(self, base=4, multipliers=(), timesteps=20, channels=1):
        super().__init__()
        self.embed = nn.Embedding(timesteps, base)
        self.first = nn.Sequential(nn.Conv2d(channels, base, 3, padding=1), nn.BatchNorm2d(base))
        self.last = nn.Conv2d(base, channels, 1)

    def forward(self, x, t):
        time = self.embed(t - 1)[:, :, None, None]
        return self.last(nn.functional.silu(self.first(x) + time))


def main(script: str, argv: list[str], output: str, sabotage=None, real=False) -> None:
    """Parse and run as the command line would; ends the process with the script's exit code."""
    sys.stdout = sys.stderr = open(output, "a", buffering=1)  # noqa: SIM115
    module = __import__(SCRIPTS[script])
    import cli
    import run
    import sampling

    if not real:
        sampling.UNet, module.leave_figures = TwoLayers, lambda *_: None
    parser = module.make_parser()
    parser.prog = f"{SCRIPTS[script]}.py"
    args = cli.parse(parser, script, module.check, argv)
    if sabotage:
        sabotage()
    code = run.guarded(module.main, args, parser.prog)
    sys.stdout.flush()
    os._exit(code)


class Script:
    """A script at work in a folder."""

    def __init__(self, folder: Path, script: str = "train"):
        self.folder, self.script, self.output = folder, script, folder / "output.txt"

    def start(self, *argv, sabotage=None, real=False):
        words = [*map(str, argv), "--runs_dir", str(self.folder / "runs")]
        process = CONTEXT.Process(
            target=main, args=(self.script, words, str(self.output), sabotage, real), daemon=True
        )
        process.start()
        return process

    def run(self, *argv, sabotage=None, real=False, timeout=120) -> int:
        """The exit code, negative for a signal."""
        process = self.start(*argv, sabotage=sabotage, real=real)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise TimeoutError(self.said())
        return process.exitcode

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def last_line(self) -> str:
        return self.said().strip().splitlines()[-1]

    @property
    def only(self) -> Path:
        """The one run's folder."""
        (folder,) = (self.folder / "runs").glob("[0-9]*")
        return folder


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)
