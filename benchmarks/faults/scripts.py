"""The runs of the campaign: every script at a size of seconds, and what must come out of it."""

import atexit
import fcntl
import functools
import json
import shutil
import tempfile
from pathlib import Path

from conftest import MNIST_DIR
from harness import Script
from test_bilevel import TINY as UNCOUPLED
from test_checkpoint import same
from test_coupled import EXACT
from test_reward_runs import TINY as REWARD
from test_reward_runs import kept
from test_runs import TINY as TRAIN
from test_runs import result
from test_search import FLAGS as SEARCH
from test_search import rows_of, weights_of

from benchmarks.faults.row import DoesNotApply

FLAGS = {
    "train": ("train", TRAIN),
    "uncoupled": ("bilevel", UNCOUPLED),
    "coupled": ("bilevel", [*UNCOUPLED, *EXACT, "--limit_batches", "4"]),
    "search": ("search", SEARCH),
    "search, two jobs": ("search", [*SEARCH, "--jobs", "2"]),
    "study": (
        "lr_schedules",
        """--cpu --threads 1 --steps 12 --batch_size 8 --points 60 --eval_points 20 --log_freq 5
        --save_seconds 0 --sets line --seeds 2""".split(),
    ),
    "reward": ("reward", [*REWARD, *"--lambda0 3 --iterations 60 --save_seconds 0".split()]),
}
KINDS = list(FLAGS)
SEEN = ("images of", "sets", " on cpu")  # in what a run of any kind says when it has begun


def few_sampling_steps() -> None:
    """In a run's own process: the study's evaluation visits 5 of its 100 steps."""
    from studies.lr_schedules import judging

    judging.TIMESTEPS = 5


def options(kind: str, sabotage=None) -> dict:
    """How a run's process is started; a reward is fine-tuned from the shipped network."""
    patch = few_sampling_steps if kind == "study" else None
    return {"sabotage": sabotage or patch, "real": kind == "reward"}


def places(kind: str, folder: Path) -> list:
    """Flags that a run of this kind needs in a folder, and again when it is resumed."""
    if kind != "reward":
        return []
    if not (MNIST_DIR / "MNIST" / "raw").is_dir():
        raise DoesNotApply("no MNIST")
    if not (folder / "cache").exists():
        shutil.copytree(reference(), folder / "cache")
    return ["--cache_dir", folder / "cache", "--data_dir", MNIST_DIR]


@functools.cache
def reference() -> Path:
    """A cache of the statistics of the test images alone: what is drawn, each run draws itself."""
    folder = Path(tempfile.mkdtemp(prefix="faults-cache-"))
    atexit.register(shutil.rmtree, folder)
    script = Script(folder / "run", "reward")
    script.folder.mkdir()
    flags = [*REWARD, "--method", "unguided", "--data_dir", MNIST_DIR]
    assert script.run(*flags, "--cache_dir", folder, real=True) == 0, script.said()
    shutil.rmtree(folder / "reward")
    shutil.rmtree(script.folder)
    return folder


def start(kind: str, folder: Path, *flags, sabotage=None):
    """A script of a kind in a folder, started."""
    folder.mkdir(exist_ok=True)
    script, flags = Script(folder, FLAGS[kind][0]), (*FLAGS[kind][1], *flags)
    return script, script.start(*flags, *places(kind, folder), **options(kind, sabotage))


def resume(script: Script, kind: str):
    """The process that resumes the run; those of a killed search let go of its folder first."""
    until_free(script)
    flags = places(kind, script.folder)
    return script.start("--resume", "latest", *flags, **options(kind))


def finish(script: Script, kind: str) -> None:
    """Resume to the end, and compare with a run that nothing disturbed."""
    process = resume(script, kind)
    process.join(300)
    assert process.exitcode == 0, script.said()[-500:]
    check(script, kind)


def check(script: Script, kind: str) -> None:
    assert same(outcome(script, kind), undisturbed(kind)[0]), "other bits"


def until_free(script: Script) -> None:
    for path in script.folder.glob("runs/*/.lock"):
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)


def has_begun(script: Script) -> bool:
    return bool(list(script.folder.glob("runs/*/args.json")))


def outcome(script: Script, kind: str):
    """What must be the same, however often a run was killed."""
    if kind.startswith("search"):
        return rows_of(script), weights_of(script)
    if kind == "reward":
        return kept(script.only)
    state = result(script.only)
    if kind == "study":
        for group in state["groups"].values():
            group.pop("clock")
    return state


@functools.cache
def undisturbed(kind: str):
    """The outcome of a run that nothing disturbs, and its seconds."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        script, process = start(kind, Path(folder))
        process.join(300)
        assert process.exitcode == 0, script.said()[-500:]
        summary = json.loads((script.only / "summary.json").read_text())
        return outcome(script, kind), summary["seconds"]
