"""A search's trials: trainings in processes of their own; one that dies takes no other with it."""

import functools
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import cycle
from pathlib import Path

import train_mnist
from common.data import Source, fingerprint
from common.errors import Stop, of_the_card, read_json
from common.judging import JUDGED_BY, Judges
from common.machine import peak_memory, setup
from common.run import Run

CONTEXT = multiprocessing.get_context("spawn")
GRACE_SECONDS = 0.5
ATTEMPTS = 3  # pools to start for one set of trials


class Pruned(Exception):
    """A trial that is hopeless at half its epochs."""


class Trial(Run):
    """A training run that ends at half its epochs if it is worse than `limit`, or when the search
    is interrupted."""

    stop = None  # what all processes of a search share: 1 when it is interrupted

    def __enter__(self):
        super().__enter__()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a pool that lost a process ends the others
        return self

    def __init__(self, folder: Path, arguments: dict, limit: float | None, device, **facts):
        self.epochs = arguments["epochs"]
        self.halfway, self.limit = self.epochs // 2, limit
        super().__init__(folder, "train", arguments, device, **facts)

    def prune(self, epoch: int, scores: dict) -> None:
        """Called after each epoch: end a trial that is worse than the median at half its epochs."""
        if epoch == self.halfway and self.limit is not None and scores["fid"] > self.limit:
            raise Pruned(
                f"FID {scores['fid']:.5g} (n {scores['n']}) after {epoch} of {self.epochs} "
                f"epochs, the median before it {self.limit:.5g}"
            )

    def poll(self):
        if self.stop and self.stop.value:
            self.signal = signal.SIGTERM
        super().poll()

    def half(self) -> float | None:
        fids = self.rows("scores.csv").get("fid", [])[: self.halfway]
        there = self.halfway and len(fids) == self.halfway and math.isfinite(fids[-1])
        return fids[-1] if there else None


@functools.lru_cache(maxsize=1)
def _training_images(source):
    return source.images("train")


@functools.lru_cache(maxsize=1)
def _check_judges(device, split, flags):
    """What is missing or damaged on this machine ends the search: it is no schedule's failure."""
    with suppress(RuntimeError):  # of the card: such is a trial's own failure
        Judges.from_flags(device, split=split, **dict(flags))


def run_trial(folder: Path, args, limit: float | None) -> dict:
    """One run of train_mnist.py with its `args`, from wherever it stands; an error is a result."""
    folder.mkdir(parents=True, exist_ok=True)
    device = setup(args.device, args.cpu, args.threads, args.tf32)
    images = _training_images(Source.from_flags(**vars(args))).to(device)
    names = ("dataset", "image_size", *JUDGED_BY)
    _check_judges(device, args.reference, tuple((name, getattr(args, name)) for name in names))
    with (
        open(os.devnull, "w") as nowhere,  # the trial's log.txt has it all
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        Trial(folder, vars(args), limit, device, data=fingerprint(images)) as trial,
    ):
        result = {"objective": None, "n": args.eval_samples, **_outcome(args, trial, images)}
        return {
            "seconds": round(trial.seconds(), 3),
            "network_evaluations": dict(trial.evaluations),
            "half": trial.half(),
            "peak_memory": peak_memory(device),
        } | result


def _outcome(args, trial: Trial, images) -> dict:
    """Status and reason of a trial; its objective if it comes to its end."""
    if trial.finished:  # but the search ended before it could write that down
        return _result(trial, read_json(trial.folder / "summary.json"))
    try:
        summary = train_mnist.train(args, trial, images, trial.prune)
    except Pruned as error:
        return {"status": "pruned", "reason": str(error)}
    except OSError:
        raise  # a full disk is the search's trouble, not the schedule's
    except Stop as error:
        status = "interrupted" if error.code >= 128 else "failed"
        return {"status": status, "reason": str(error).splitlines()[0]}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if of_the_card(error):
            trial.log(f"{reason}; this process ends")
            os._exit(1)
        return {"status": "failed", "reason": reason}
    return _result(trial, summary)


def _result(trial: Trial, summary: dict) -> dict:
    """What the summary of a finished trial says."""
    fid, seconds = summary.get("fid"), summary.get("seconds")
    spent = summary.get("network_evaluations")
    numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in (fid, seconds))
    if not numbers or not isinstance(spent, dict):
        raise Stop(f"{trial.folder}/summary.json: damaged; delete it to evaluate the trial again")
    trial.evaluations = Counter(spent)
    return {"status": "ok", "reason": None, "objective": fid, "seconds": seconds}


class Workers:
    """A pool of processes for the trials; one that dies takes only its own trial with it."""

    def __init__(self, jobs: int, run: Run, gpus: Sequence[str] = ()):
        """`gpus` are the cards that the processes share, each the same one for all its trials."""
        self.jobs, self.run, self.pool, self.stop = jobs, run, None, CONTEXT.RawValue("b", 0)
        self.gpus = gpus or [None]

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error:
            self.stop.value = 1
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def __call__(self, tasks: dict[int, tuple], last: bool = False) -> Iterator[tuple[int, dict]]:
        """Results of run_trial as they come, by the trial's number; `tasks` may grow meanwhile.

        A trial that was lost before it began is tried once more, unless this is the `last` time.
        """
        begun: set[int] = set()
        while tasks.keys() - begun:
            broken: list[int] = []
            yield from self._results(tasks, begun, broken)
            if broken:
                # a signal to the whole group ends a worker before it reaches this process
                time.sleep(GRACE_SECONDS)
            if self.run.signal:
                raise Stop(
                    f"interrupted; --resume {self.run.folder} continues", code=128 + self.run.signal
                )
            if broken:
                self._end_pool()
            for i in broken:  # one of them died: alone, each shows whether it was the one
                alone = len(broken) == 1
                lost = alone and (last or (tasks[i][0] / "args.json").exists())
                yield (i, killed(tasks[i])) if lost else next(self({i: tasks[i]}, last=alone))

    def _results(self, tasks, begun, broken):
        """Submit what has not begun and yield what ends, until nothing runs or all is broken."""
        futures, running = {}, set()
        while running or (tasks.keys() - begun and not (broken or self.run.signal)):
            new = {i: tasks[i] for i in sorted(tasks.keys() - begun)}
            if new and not (broken or self.run.signal):
                begun.update(new)
                futures |= (submitted := self._submit(new))
                running.update(submitted)
            done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            if self.run.signal:
                self.stop.value = 1
            for future in done:
                try:
                    result = future.result()
                except BrokenProcessPool:
                    broken.append(futures[future])
                    continue
                if not self.run.signal and result["status"] == "interrupted":
                    result["status"] = "failed"  # a signal to this trial alone
                if result["status"] != "interrupted":
                    yield futures[future], result

    def _submit(self, tasks: dict[int, tuple]) -> dict:
        """Futures of the tasks; a pool whose worker died since the last trial is replaced."""
        for _ in range(ATTEMPTS):
            if not self.pool:
                cards = CONTEXT.SimpleQueue()
                for _, card in zip(range(self.jobs), cycle(self.gpus)):
                    cards.put(card)
                self.pool = ProcessPoolExecutor(self.jobs, CONTEXT, _begin, (self.stop, cards))
            try:
                return {self.pool.submit(run_trial, *task): i for i, task in tasks.items()}
            except BrokenProcessPool:
                self._end_pool()
        raise Stop(
            f"{self.run.folder}: its worker processes are killed as they start, perhaps for "
            "lack of memory; --resume with fewer --jobs"
        )

    def _end_pool(self) -> None:
        self.pool.shutdown()  # when it returns the other workers are gone and hold no lock
        self.pool = None


def killed(task) -> dict:
    """The result of a trial whose process left none."""
    # what it spent is known up to its last checkpoint only, and not to be had without it
    reason = "its process was killed, perhaps out of memory, or ended by a GPU error"
    return {
        "status": "failed", "reason": reason, "objective": None, "n": task[1].eval_samples,
        "seconds": None, "network_evaluations": {}, "half": None, "peak_memory": {},
    }  # fmt: skip


def _begin(stop, cards):
    """A worker takes a card. Only its parent tells it of an interrupt; it ends when that does."""
    if (card := cards.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card  # before this process first asks for one
    Trial.stop = stop
    os.setpgid(0, 0)  # Ctrl-C goes to the parent's group
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
