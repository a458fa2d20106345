"""Sealed checkpoints with odd content: resumed, judged, sampled from, exported."""

import contextlib
import io
import random
import shutil
from pathlib import Path
from unittest import mock

from harness import Script, TwoLayers
from test_runs import TINY

import train_mnist
from benchmarks.faults import scripts
from benchmarks.faults.damage import spoiled_content
from benchmarks.faults.folders import begun
from benchmarks.faults.row import Row
from common import checkpoint, cli, errors, evaluate, export, networks

KINDS = ["train", "coupled", "uncoupled", "study", "reward"]  # a search's trials are as of train


def odd_checkpoint(i: int, folder: Path) -> None:
    """Something is missing or of another type, and a run is resumed from it."""
    kind = KINDS[i % len(KINDS)]
    shutil.copytree(begun(kind), folder, dirs_exist_ok=True)
    (folder / "output.txt").unlink()
    for path in folder.glob("runs/*/checkpoints/*.pt"):
        state = checkpoint.load(path)
        spoiled_content(state, random.Random(i))
        checkpoint.save(path, state)
    script = Script(folder, scripts.FLAGS[kind][0])
    flags = ["--resume", "latest", *scripts.places(kind, folder)]
    code = script.run(*flags, **scripts.options(kind))
    output = script.said()
    assert code in (0, 1, 2) and "Traceback" not in output, (kind, code, output[-500:])
    assert code == 0 or "checkpoint" in output, (kind, output[-300:])


JUDGED = ["--eval_samples", "10", "--threads", "1", "--device", "cpu"]
SAMPLED = ["--cpu", "--threads", "1", "--n_samples", "2", "--backward_steps", "2"]


def odd_network(i: int, folder: Path) -> None:
    """It is judged, sampled from, exported, or the first weights of a run; its flags are odd."""
    (path,) = begun().glob("runs/*/checkpoints/step_00000007.pt")
    state = checkpoint.load(path)
    spoiled_content(state if i % 3 == 0 else state["args"], random.Random(i))
    path = folder / "run" / "checkpoints" / path.name
    path.parent.mkdir(parents=True)
    checkpoint.save(path, state)
    (folder / "work").mkdir()
    work = (judged, exported, sampled, continued)[i // 3 % 4]
    with (
        contextlib.chdir(folder / "work"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        mock.patch.object(networks, "network_class", lambda _: TwoLayers),
        mock.patch.object(train_mnist, "leave_figures"),
    ):
        code = work(path)
    line = f"{work.__name__}: {code} {stderr.getvalue()[-300:]!r}"
    assert code in (0, 1, 2) and (not code or stderr.getvalue().count("\n") == 1), line
    assert {p.name for p in folder.iterdir()} == {"run", "work"}, line


def judged(path: Path) -> int:
    args = evaluate.make_parser().parse_args(["--run", str(path.parents[1]), *JUDGED])
    return errors.guarded(evaluate.judge_again, args, "evaluate")


def exported(path: Path) -> int:
    args = export.make_parser().parse_args([str(path)])
    return errors.guarded(export.main, args, "export")


def sampled(path: Path) -> int:
    return trained("--sample_only", "--ckpt", str(path), *SAMPLED)


def continued(path: Path) -> int:
    return trained("--ckpt", str(path), *TINY)


def trained(*argv: str) -> int:
    """train_mnist.py in this process."""
    try:
        args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, list(argv))
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return errors.guarded(train_mnist.main, args, "train_mnist.py")


ROWS = [
    Row("a sealed checkpoint with odd content, resumed", "one line, or no effect",
        odd_checkpoint, 100, 5),
    Row("a sealed checkpoint with odd content, judged, sampled from, exported or trained on",
        "one line, or no effect; nothing outside is written", odd_network, 200, 12),
]  # fmt: skip
