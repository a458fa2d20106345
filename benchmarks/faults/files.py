"""Files from anywhere: damaged, foreign or hostile; refused and named, and no code is run."""

import contextlib
import functools
import json
import os
import pickle
import random
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from conftest import MNIST_DIR
from harness import mutated
from test_checkpoint import CALLS, STATE, Payload

from benchmarks.faults.damage import spoiled_content, stopped
from benchmarks.faults.row import DoesNotApply, Row
from common import checkpoint, reference_cache
from common.data import Source
from common.datasets import idx_file
from common.errors import Stop
from common.extractors import load_extractor
from common.families import FAMILIES
from scheduler import Schedule
from search.ledger import Ledger, median_at_half


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
    path, rng, messages = folder / "search.jsonl", random.Random(i), []
    lines = [json.dumps(row).encode() for row in LEDGER]
    whole = b"\n".join(lines) + b"\n"
    if i % 3 == 0:
        path.write_bytes(whole[: len(whole) - 1 - rng.randrange(len(lines[-1]))])
        assert list(Ledger(path, messages.append).rows) == [0, 1, 2] and "cut short" in messages[0]
        return
    row = json.loads(lines[1])
    if i % 3 == 1:
        spoiled_content(row, rng)
        lines[1] = json.dumps(row).encode()
    else:
        lines[1] = mutated(lines[1], rng.choice((0, 1, 2, 3)), rng)
    path.write_bytes(b"\n".join(lines) + b"\n")
    try:
        ledger = Ledger(path, messages.append, {"tau": (1.0, 9.0)})
    except Stop as error:
        assert "search.jsonl: line" in str(error) and "\n" not in str(error)
        return
    for n, trial in ledger.rows.items():  # it still is a line that a search could have written
        with contextlib.suppress(Stop):
            ledger.known(n, {"tau": 1.0 + n})
        assert trial["status"] != "ok" or abs(trial["objective"]) < 1e300
    ledger.best()
    median_at_half(ledger.before(9))


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
            statistics = reference_cache.read_statistics(path, KEY)
            assert statistics is None or all(map(np.array_equal, statistics, arrays))


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


NAMED = "one line that names the file; no code is run"
ROWS = [
    Row("damaged checkpoint", NAMED, damaged_checkpoint, 2000, 300),
    Row("code in a pickle: plain, torch's, sealed", NAMED, pickled_code, 30, 30),
    Row("damaged data", "refused before the first step", damaged_data, 200, 40),
    Row("damaged ledger", "a torn last line is removed, other damage refused",
        damaged_ledger, 600, 150),
    Row("damaged cache", "computed again", damaged_cache, 300, 60),
    Row("`schedule.json` with odd content", "one error that names it, or a sound schedule",
        odd_schedule, 1000, 200),
]  # fmt: skip
