"""Faults of files: damaged, foreign or hostile; refused and named, and nothing else is touched."""

import atexit
import contextlib
import errno
import functools
import io
import json
import os
import pickle
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from conftest import MNIST_DIR
from harness import CONTEXT, Script, mutated
from test_checkpoint import CALLS, STATE, Payload, _killed_save, same
from test_runs import TINY, DieAtStep

import train_mnist
from benchmarks.faults.row import DoesNotApply, Row
from common import checkpoint, cli, reference_cache
from common.data import Source
from common.datasets import idx_file
from common.errors import Stop, guarded
from common.extractors import load_extractor
from common.families import FAMILIES
from scheduler import Schedule
from search.ledger import Ledger

ODD = [None, True, -1, 10**400, 1e300, "", "x" * 5000, [], {}, [[]], "../..", "\x00", "nan"]


def stopped(work, *names: str) -> str:
    """The message of the Stop that some work ends in."""
    try:
        work()
    except Stop as error:
        text = str(error)
        assert "\n" not in text and all(name in text for name in names), text
        return text
    raise AssertionError("it was taken")


@functools.cache
def sealed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "a.pt", STATE)
        return (Path(folder) / "a.pt").read_bytes()


def damaged_checkpoint(i: int, folder: Path) -> None:
    """A flipped bit, a cut, inserted bytes, an inverted stretch, two bytes exchanged."""
    path = folder / "a.pt"
    path.write_bytes(mutated(sealed(), i % 5, random.Random(i)))
    stopped(lambda: checkpoint.load(path), "a.pt")


def pickled_code(i: int, folder: Path) -> None:
    """A payload in a plain pickle, in torch's format, and sealed."""
    call, container = CALLS[i % 10], ("pickle", "torch", "sealed")[i // 10 % 3]
    (folder / "victim").write_text("here")
    path, state = folder / "evil.pt", {"step": 1, "weights": Payload(*call)}
    with contextlib.chdir(folder), warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")  # of torch, about the age of the pickle
        if container == "pickle":
            path.write_bytes(pickle.dumps(state))
        elif container == "torch":
            torch.save(state, path)
        else:
            checkpoint.save(path, state)
        stopped(lambda: checkpoint.load(path), "evil.pt")
        if container != "sealed":
            with contextlib.redirect_stdout(nowhere):
                stopped(lambda: load_extractor("inception", "cpu", str(path)), "evil.pt")
    assert sorted(p.name for p in folder.iterdir()) == ["evil.pt", "victim"]
    assert (folder / "victim").read_text() == "here"


@functools.cache
def begun() -> Path:
    """The folder of a run that was killed after its seventh step; it stays for all cases."""
    folder = Path(tempfile.mkdtemp(prefix="faults-begun-"))
    atexit.register(shutil.rmtree, folder)
    script = Script(folder)
    assert script.run(*TINY, sabotage=DieAtStep(7)) == -9
    return folder


def leaves(content, place=()):
    """The places of everything in nested dictionaries and lists."""
    items = content.items() if isinstance(content, dict) else ()
    items = enumerate(content) if isinstance(content, list) else items
    for key, value in items:
        yield (*place, key)
        yield from leaves(value, (*place, key))


def spoiled_content(content, rng: random.Random) -> None:
    """Something in it is gone, or something else."""
    *way, last = rng.choice(list(leaves(content)))
    for key in way:
        content = content[key]
    if rng.random() < 0.3:
        del content[last]
    else:
        content[last] = rng.choice(ODD)


def resumed(folder: Path) -> tuple[int, str]:
    script = Script(folder)
    code = script.run("--resume", "latest", timeout=60)
    said = script.said()
    assert "Traceback" not in said, said[-600:]
    assert code in (0, 1, 2), (code, said[-300:])
    return code, said


def odd_checkpoint(i: int, folder: Path) -> None:
    """Sealed by whoever, with something missing or of another type: one line, or no effect."""
    shutil.copytree(begun() / "runs", folder / "runs")
    for path in folder.glob("runs/*/checkpoints/*.pt"):
        state = checkpoint.load(path)
        spoiled_content(state, random.Random(i))
        checkpoint.save(path, state)
    code, said = resumed(folder)
    assert code == 0 or "checkpoint" in said, said[-300:]


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
    code, said = resumed(folder / "inner")
    assert code == 2 and path.name in said, said[-300:]
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
    code, said = resumed(folder)
    if i // 3 % 4 == 3:
        assert code == 0 and f"{path.name} is gone" in said, said[-300:]
    else:
        assert code == 1 and f"{path.name}: changed" in said, said[-300:]


def damaged_data(i: int, folder: Path) -> None:
    """A file of MNIST with other bytes."""
    if not (MNIST_DIR / "MNIST" / "raw").is_dir():
        raise DoesNotApply("no MNIST")
    what = "labels" if i % 20 else "images"
    name = idx_file("test", what)
    path = folder / "MNIST" / "raw" / name
    path.parent.mkdir(parents=True)
    whole = (MNIST_DIR / "MNIST" / "raw" / name).read_bytes()
    path.write_bytes(mutated(whole, i % 5, random.Random(i)))
    stopped(lambda: getattr(Source("mnist", str(folder)), what)("test"), name)


LEDGER = [
    {
        "trial": n, "parameters": {"tau": 1.0 + n}, "seed": 0, "status": "ok", "reason": None,
        "objective": 9.0 - n, "n": 20, "half": None, "seconds": 1.0, "at": 1.0 + n,
        "network_evaluations": {"training": 10}, "peak_memory": {"host": 10},
    }
    for n in range(4)
]  # fmt: skip


def damaged_ledger(i: int, folder: Path) -> None:
    """A torn last line is taken away with a warning; any other damage is refused, named."""
    path, rng, said = folder / "search.jsonl", random.Random(i), []
    lines = [json.dumps(row).encode() for row in LEDGER]
    whole = b"\n".join(lines) + b"\n"
    if i % 3 == 0:
        path.write_bytes(whole[: len(whole) - 1 - rng.randrange(len(lines[-1]))])
        assert list(Ledger(path, said.append).rows) == [0, 1, 2] and "cut short" in said[0]
        return
    row = json.loads(lines[1])
    if i % 3 == 1:
        spoiled_content(row, rng)
        lines[1] = json.dumps(row).encode()
    else:
        lines[1] = mutated(lines[1], rng.choice((0, 1, 2, 3)), rng)
    path.write_bytes(b"\n".join(lines) + b"\n")
    try:
        ledger = Ledger(path, said.append, {"tau": (1.0, 9.0)})
    except Stop as error:
        assert "search.jsonl: line" in str(error) and "\n" not in str(error)
        return
    for n, found in ledger.rows.items():  # it still is a line that a search could have written
        with contextlib.suppress(Stop):
            ledger.known(n, {"tau": 1.0 + n})
        assert found["status"] != "ok" or abs(found["objective"]) < 1e300
    ledger.best()
    ledger.limit(9)


KEY = {"data": "d", "split": "digits test", "extractor": "mnist", "weights": "w", "version": 2}


def damaged_cache(i: int, folder: Path) -> None:
    """Computed again with a warning, or refused by name; never taken with other numbers."""
    path, rng = folder / "cache.npz", random.Random(i)
    arrays = np.arange(3.0), np.eye(3), np.ones((5, 3))
    reference_cache.write_statistics(path, KEY, *arrays)
    whole = path.read_bytes()
    match i % 6:
        case 5:
            with open(path, "wb") as file:
                np.save(file, [np.eye(3), [{"a": 1}], "text"][i // 6 % 3], allow_pickle=True)
        case kind:
            path.write_bytes(mutated(whole, kind, rng))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Stop):
            found = reference_cache.read_statistics(path, KEY)
            assert found is None or all(map(np.array_equal, found, arrays))


def odd_schedule(i: int, folder: Path) -> None:
    """A schedule.json with odd content is a ValueError that names it, or a sound schedule."""
    rng, path = random.Random(i), folder / "schedule.json"
    family = rng.choice(list(FAMILIES))
    content = Schedule(family, 20).to_dict()
    if i % 5 == 0:
        text = rng.choice(["", "[" * 10**5, "\xff\xfe", "null", "[1]", '"x"', "{", '{"a": NaN}'])
        path.write_bytes(text.encode("latin1"))
    elif i % 5 == 1:
        path.write_bytes(mutated(json.dumps(content).encode(), i // 5 % 5, rng))
    else:
        spoiled_content(content, rng)
        path.write_text(json.dumps(content))
    try:
        schedule = Schedule.load(path)
    except ValueError as error:
        assert "schedule.json" in str(error)
        return
    assert torch.isfinite(schedule.alpha_bar()).all() and schedule.timesteps <= 10**6


def killed_save(i: int, folder: Path) -> None:
    """SIGKILL before or after one of the system calls of a save; the run resumes."""
    for step in (1, 2):
        checkpoint.save_numbered(folder, step, {**STATE, "step": step})
    process = CONTEXT.Process(target=_killed_save, args=(folder, i + 1))
    process.start()
    process.join(60)
    if process.exitcode == 0:
        raise DoesNotApply("a save has fewer system calls")
    found, _ = checkpoint.load_newest(folder, warn=lambda text: None)
    assert same(found, {**STATE, "step": found["step"]}) and found["step"] in (2, 3)


FAILING = [(call, code) for call in ("fsync", "replace", "write", "mkdir", "unlink")
    for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)]  # fmt: skip


def failing_call(i: int, folder: Path) -> None:
    """Each system call of a save that fails is one line, and the old checkpoint is whole."""
    call, code = FAILING[i % len(FAILING)]
    for step in (1, 2):
        checkpoint.save_numbered(folder, step, {**STATE, "step": step})
    error = OSError(code, os.strerror(code), "somewhere")

    def fail(*_, **__):
        raise error

    owner = {"mkdir": Path, "unlink": Path}.get(call, checkpoint.os)
    name = "open" if call == "write" else call
    before = checkpoint.__dict__.get("open") if call == "write" else getattr(owner, name)
    said = io.StringIO()
    try:
        if call == "write":
            checkpoint.open = fail
        else:
            setattr(owner, name, fail)
        with contextlib.redirect_stderr(said):
            state = {**STATE, "step": 3}
            main = lambda _: checkpoint.save_numbered(folder, 3, state)  # noqa: E731
            code = guarded(main, None, "prog")
    finally:
        if call == "write":
            del checkpoint.open
        else:
            setattr(owner, name, before)
    assert code == 1 and said.getvalue().count("\n") == 1, said.getvalue()
    found, _ = checkpoint.load_newest(folder, warn=lambda text: None)
    assert found["step"] in (2, 3)


def shared_arguments(i: int, folder: Path) -> None:
    """What a stranger's args.json says about places: read only, never written."""
    place = folder / "elsewhere"
    run = folder / "00000-train-seed0"
    run.mkdir()
    names = ["cache_dir", "runs_dir", "data_dir", "ckpt", "schedule_from", "inception_weights"]
    arguments = {names[i % len(names)]: str(place), "dataset": ("digits", "mnist")[i // 6 % 2]}
    (run / "args.json").write_text(json.dumps({"kind": "train", "arguments": arguments}))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            argv = ["--resume", str(run)]
            args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, argv)
            assert args.cache_dir == "cache" and args.runs_dir == "runs"
        except SystemExit as stop:
            assert stop.code == 2 and said.getvalue().count("\n") == 1
    assert not place.exists()


NAMED = "one line that names the file; no code is run"
ROWS = [
    Row("damaged checkpoint", NAMED, damaged_checkpoint, 2000, 300),
    Row("code in a pickle: plain, torch's, sealed", NAMED, pickled_code, 30, 30),
    Row("a sealed checkpoint with odd content", "one line, or no effect", odd_checkpoint, 200, 6),
    Row("edited or damaged `args.json`", "one line, or no effect; nothing outside is written",
        edited_arguments, 200, 6),
    Row("places in a stranger's `args.json`", "nothing is written there", shared_arguments, 12, 12),
    Row("a link or a pipe in a run's folder", "refused; its target is untouched",
        link_in_a_run, 20, 3),
    Row("a CSV file that was edited, cut or deleted", "refused; a deleted one is said",
        damaged_table, 36, 4),
    Row("damaged data", "refused before the first step", damaged_data, 200, 40),
    Row("damaged ledger", "a torn last line is taken away, another one refused",
        damaged_ledger, 600, 150),
    Row("damaged cache", "computed again", damaged_cache, 300, 60),
    Row("`schedule.json` with odd content", "one error that names it, or a sound schedule",
        odd_schedule, 1000, 200),
    Row("SIGKILL at every system call of a save", "the run resumes", killed_save, 30, 4),
    Row("each system call of a save fails", "one line; the old checkpoint is whole",
        failing_call, len(FAILING), len(FAILING)),
]  # fmt: skip
