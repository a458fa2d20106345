"""A search's trials: trainings in processes of their own; one that dies takes no other with it."""

import functools
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import train_mnist
from common.data import fingerprint, load_images
from common.errors import Stop
from common.machine import peak_memory, setup
from common.run import Run

CONTEXT = multiprocessing.get_context("spawn")


class Pruned(Exception):
    """A trial that is hopeless at half its epochs."""


class Trial(Run):
    """A training run that knows how its elders stood at half their epochs, and that may be told
    to stop."""

    stop = None  # what all processes of a search share: 1 when it is interrupted

    def __enter__(self):
        super().__enter__()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a pool that lost a process ends the others
        return self

    def __init__(self, folder: Path, args, limit: float | None, device, **facts):
        self.epochs, self.halfway, self.limit = args.epochs, args.epochs // 2, limit
        super().__init__(folder, "train", vars(args), device, **facts)

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
def _training_images(dataset, data_dir):
    return load_images(dataset, data_dir, "train")


def run_trial(folder: Path, args, limit: float | None) -> dict:
    """One training in its folder, from wherever it stands; what goes wrong is its result."""
    folder.mkdir(parents=True, exist_ok=True)
    device = setup(args.device, args.cpu, args.threads)
    images = _training_images(args.dataset, args.data_dir).to(device)
    result = {"status": "failed", "reason": None, "objective": None, "n": args.eval_samples}
    with (
        open(os.devnull, "w") as nowhere,  # the trial's log.txt has it all
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        Trial(folder, args, limit, device, data=fingerprint(images)) as trial,
    ):
        try:
            if trial.finished:  # but the search ended before it could write that down
                summary = json.loads((folder / "summary.json").read_text())
            else:
                summary = train_mnist.train(args, trial, images, trial.prune)
            result |= {"status": "ok", "objective": summary["fid"], "seconds": summary["seconds"]}
            trial.evaluations = summary["network_evaluations"]
        except Pruned as error:
            result |= {"status": "pruned", "reason": str(error)}
        except OSError:
            raise  # a full disk is the search's trouble, not the schedule's
        except Exception as error:
            interrupted = isinstance(error, Stop) and error.code >= 128
            said = str(error) if isinstance(error, Stop) else f"{type(error).__name__}: {error}"
            status = "interrupted" if interrupted else "failed"
            result |= {"status": status, "reason": said.splitlines()[0]}
        found = {"network_evaluations": dict(trial.evaluations), "half": trial.half()}
        found["peak_memory"] = peak_memory()
        return {"seconds": round(trial.seconds(), 3)} | found | result


class Workers:
    """A pool of processes for the trials; one that dies takes only its own trial with it."""

    def __init__(self, jobs: int, run: Run):
        self.jobs, self.run, self.pool, self.stop = jobs, run, None, CONTEXT.RawValue("b", 0)

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error:
            self.stop.value = 1
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def __call__(self, tasks: dict[int, tuple]) -> Iterator[tuple[int, dict]]:
        """Results of run_trial as they come, by the trial's number."""
        if not self.pool:
            self.pool = ProcessPoolExecutor(self.jobs, CONTEXT, _stay_with_the_parent, (self.stop,))
        futures = {self.pool.submit(run_trial, *task): i for i, task in tasks.items()}
        running, broken = set(futures), []
        while running:
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
                    result["status"] = "failed"  # by somebody who meant this trial alone
                if result["status"] != "interrupted":
                    yield futures[future], result
        if self.run.signal:
            raise Stop(
                f"interrupted; --resume {self.run.folder} goes on", code=128 + self.run.signal
            )
        if broken:
            self.pool.shutdown()  # the others are gone then, and hold no lock
            self.pool = None
        for i in broken:  # one of them died: alone, each shows whether it was the one
            yield (i, _killed(tasks[i])) if len(broken) == 1 else next(self({i: tasks[i]}))


def _killed(task):
    # what it spent is known up to its last checkpoint only, and not to be had without it
    reason = "its process was killed (out of memory?)"
    return {
        "status": "failed", "reason": reason, "objective": None, "n": task[1].eval_samples,
        "seconds": None, "network_evaluations": {}, "half": None, "peak_memory": {},
    }  # fmt: skip


def _stay_with_the_parent(stop):
    """A worker hears of an interrupt from its parent only, and does not outlive it."""
    Trial.stop = stop
    os.setpgid(0, 0)  # Ctrl-C goes to the parent's group
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
