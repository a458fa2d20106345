"""A run's folder from a stranger: edited, cut, linked; refused, and nothing outside is touched."""

import atexit
import contextlib
import functools
import io
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

from harness import Script, mutated
from test_runs import DieAtStep

import train_mnist
from benchmarks.faults import scripts
from benchmarks.faults.damage import spoiled_content
from benchmarks.faults.row import Row
from common import cli


@functools.cache
def begun(kind: str = "train") -> Path:
    """The folder of a run that was killed after its seventh step; it stays for all cases."""
    folder = Path(tempfile.mkdtemp(prefix="faults-begun-"))
    atexit.register(shutil.rmtree, folder)
    script, process = scripts.start(kind, folder, sabotage=DieAtStep(7))
    process.join(120)
    assert process.exitcode == -9, script.said()[-500:]
    return folder


def resumed(folder: Path) -> tuple[int, str]:
    script = Script(folder)
    code = script.run("--resume", "latest", timeout=60)
    output = script.said()
    assert "Traceback" not in output, output[-600:]
    assert code in (0, 1, 2), (code, output[-300:])
    return code, output


def edited_arguments(i: int, folder: Path) -> None:
    """args.json with something missing or else: one line, or no effect; nothing outside."""
    shutil.copytree(begun() / "runs", folder / "inner" / "runs")
    (path,) = folder.glob("inner/runs/*/args.json")
    rng, text = random.Random(i), path.read_text()
    if i % 4 == 3:
        path.write_bytes(mutated(text.encode(), i // 4 % 5, rng))
    else:
        content = json.loads(text)
        spoiled_content(content if i % 4 == 0 else content["arguments"], rng)
        content.get("arguments", {}).update(cache_dir=str(folder / "elsewhere")) if i % 4 else None
        path.write_text(json.dumps(content))
    with contextlib.suppress(ValueError):  # kind may have been spoiled: a folder of another name
        resumed(folder / "inner")
    assert {p.name for p in folder.iterdir()} == {"inner"}
    assert {p.name for p in (folder / "inner").iterdir()} <= {"runs", "output.txt"}


LINKED = ["losses.csv", "scores.csv", "log.txt", ".lock", "args.json", "summary.json", "samples",
    "schedule.json.tmp", "checkpoints/step_00000008.pt.tmp", "figures/loss.png"]  # fmt: skip


def link_in_a_run(i: int, folder: Path) -> None:
    """A symbolic link or a pipe in a shared run folder: refused, its target untouched."""
    shutil.copytree(begun() / "runs", folder / "inner" / "runs")
    (run,) = folder.glob("inner/runs/0*")
    victim, path = folder / "victim", run / LINKED[i % len(LINKED)]
    victim.write_text((run / "args.json").read_text())
    before = victim.read_text()
    path.parent.mkdir(exist_ok=True)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if i // len(LINKED) % 2 and path.name != "args.json":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
    code, output = resumed(folder / "inner")
    assert code == 2 and path.name in output, output[-300:]
    assert victim.read_text() == before


def damaged_table(i: int, folder: Path) -> None:
    """A CSV that was cut, saved again by a spreadsheet or edited: refused; deleted: said."""
    shutil.copytree(begun() / "runs", folder / "runs")
    (path,) = folder.glob("runs/*/" + ("losses.csv", "scores.csv", "timing.csv")[i % 3])
    whole, rng = path.read_bytes(), random.Random(i)
    match i // 3 % 4:
        case 0:
            path.write_bytes(whole.replace(b"\n", b"\r\n"))
        case 1:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        case 2:
            path.write_bytes(mutated(whole, rng.choice((0, 2, 4)), rng))
        case 3:
            path.unlink()
    code, output = resumed(folder)
    if i // 3 % 4 == 3:
        assert code == 0 and f"{path.name} is gone" in output, output[-300:]
    else:
        assert code == 1 and f"{path.name}: changed" in output, output[-300:]


def shared_arguments(i: int, folder: Path) -> None:
    """What a stranger's args.json says about places: read only, never written."""
    place = folder / "elsewhere"
    run = folder / "00000-train-seed0"
    run.mkdir()
    names = ["cache_dir", "runs_dir", "data_dir", "ckpt", "schedule_from", "inception_weights"]
    arguments = {names[i % len(names)]: str(place), "dataset": ("digits", "mnist")[i // 6 % 2]}
    (run / "args.json").write_text(json.dumps({"kind": "train", "arguments": arguments}))
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            argv = ["--resume", str(run)]
            args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, argv)
            assert args.cache_dir == "cache" and args.runs_dir == "runs"
        except SystemExit as stop:
            assert stop.code == 2 and stderr.getvalue().count("\n") == 1
    assert not place.exists()


ROWS = [
    Row("edited or damaged `args.json`", "one line, or no effect; nothing outside is written",
        edited_arguments, 100, 6),
    Row("places in a stranger's `args.json`", "nothing is written there", shared_arguments, 12, 12),
    Row("a link or a pipe in a run's folder", "refused; its target is untouched",
        link_in_a_run, 20, 3),
    Row("a CSV file that was edited, cut or deleted", "refused; a deleted one is reported",
        damaged_table, 36, 4),
]  # fmt: skip
