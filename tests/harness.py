"""Runs a script's own main in a process of its own, forked from one that has imported torch.

Most tests here are about the run, not about the network or the figures: unless a test asks for the
real ones, a network of two layers takes the U-Net's place and no figures are drawn at the end.
"""

import importlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

from torch import nn

SCRIPTS = {
    "train": "train_mnist",
    "bilevel": "train_mnist_bilevel_ZO",
    "search": "train_mnist_bayesian",
    "lr_schedules": "studies.lr_schedules.__main__",
    "reward": "finetune_reward",
}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "train_mnist",
        "train_mnist_bilevel_ZO",
        "train_mnist_bayesian",
        "torchvision.utils",
        "matplotlib.pyplot",
        "skopt",
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
    module = importlib.import_module(SCRIPTS[script])
    from common import cli, errors, networks
    from search import results, trials

    trials.CONTEXT = multiprocessing.get_context("fork")  # trials with these changes, and at once
    if not real:
        networks.network_class = lambda _: TwoLayers
        results.pictures.plot_search = results.fitted = lambda *_: None
        module.leave_figures = trials.train_mnist.leave_figures = lambda *_: None
    parser = module.make_parser()
    parser.prog = f"{SCRIPTS[script]}.py"
    args = cli.parse(parser, script, module.check, argv)
    if sabotage:
        sabotage()
    code = errors.guarded(module.main, args, parser.prog)
    sys.stdout.flush()
    os._exit(code)


def until(condition, seconds=300):  # what takes seconds takes minutes on a busy machine
    """What the condition comes to, once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


class Script:
    """A script at work in a folder."""

    def __init__(self, folder: Path, script: str = "train"):
        self.folder, self.script, self.output = folder, script, folder / "output.txt"

    def start(self, *argv, sabotage=None, real=False):
        words = [*map(str, argv), "--runs_dir", str(self.folder / "runs")]
        process = CONTEXT.Process(
            target=main, args=(self.script, words, str(self.output), sabotage, real)
        )
        process.daemon = self.script != "search"  # daemons may have no children
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

    def start_until(self, text: str, *argv):
        """A process that has come to say so, and goes on."""
        process = self.start(*argv)
        until(lambda: text in self.said() or not process.is_alive())
        assert process.is_alive(), self.said()
        return process

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def last_line(self) -> str:
        return self.said().strip().splitlines()[-1]

    @property
    def only(self) -> Path:
        """The one run's folder."""
        (folder,) = (self.folder / "runs").glob("[0-9]*")
        return folder


def killed_twice(script: Script, flags: list, rng: random.Random, like: Path) -> tuple[Path, int]:
    """A run killed at a random moment and again while it resumes, then left to finish.

    The moments lie within the time that the run `like` took undisturbed. Returns the folder and how
    many of the kills met a run that had not finished.
    """
    seconds = json.loads((like / "summary.json").read_text())["seconds"]
    kills, process = 0, script.start(*flags)
    while process.is_alive() and not list(script.folder.glob("runs/*/args.json")):
        process.join(0.01)
    for _ in range(2):
        process.join(seconds * rng.random())
        kills += process.is_alive()
        process.kill()
        process.join()
        process = script.start("--resume", "latest")
    process.join(120)
    assert process.exitcode == 0, script.said()
    return script.only, kills


def mutated(whole: bytes, kind: int, rng: random.Random) -> bytes:
    """A flipped bit, a cut, inserted bytes, an inverted stretch, or two bytes exchanged."""
    content, where = bytearray(whole), rng.randrange(len(whole))
    match kind:
        case 0:
            content[where] ^= 1 << rng.randrange(8)
        case 1:
            del content[where:]
        case 2:
            content[where:where] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            content[where : where + 512] = bytes(b ^ 0xFF for b in content[where : where + 512])
        case 4:
            other = rng.choice([i for i, byte in enumerate(content) if byte != content[where]])
            content[where], content[other] = content[other], content[where]
    return bytes(content)


def is_read(flag: str, source: str) -> bool:
    """Whether code reads a flag: of args, of a run's arguments, or as a parameter of from_flags."""
    signatures = "".join(re.findall(r"def (?:\w+_)?from_flags\((.*?)\)", source, re.DOTALL))
    return bool(
        re.search(rf"\bargs\.{flag}\b", source)
        or f'arguments["{flag}"]' in source
        or re.search(rf'^ +"{flag}",$', source, re.MULTILINE)  # in a tuple of names
        or re.search(rf"\b{flag}\b", signatures)
    )


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)
