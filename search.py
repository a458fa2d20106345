"""A search's parts: what to try next, the ledger of what came of it, the processes that try.

Points are a pure function of the seed and of the values told before: a search that resumes asks
and tells again what its ledger holds, and goes on where it would have gone without the interrupt.
"""

import functools
import json
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path

import numpy as np

import train_mnist
from cli import Stop
from data import fingerprint, load_images
from run import Run, peak_memory, setup

CONTEXT = multiprocessing.get_context("spawn")
TUNING_ORDER = ("tau", "start", "end", "epsilon")  # a grid's first levels go where they count most
COLUMNS = {"trial", "parameters", "seed", "status", "reason", "objective", "n", "half"}
COLUMNS |= {"seconds", "at", "network_evaluations", "peak_memory"}  # of a line of the ledger
MIN_TO_PRUNE = 3  # whole trials that a median needs


class Points:
    """What to try next: ask for points, tell what they gave."""

    def __init__(self, args, ranges: dict[str, tuple], first: list[dict]):
        self.ranges, self.listed, self.optimizer = ranges, list(first), None
        self.random = np.random.default_rng(args.search_seed)
        self.seconds = 0.0  # the optimizer's own
        self.asked, self.values, self.untold = [], [], []
        left = args.n_calls - len(first)
        if args.strategy == "random":
            self.listed += [self._at_random() for _ in range(left)]
        elif args.strategy == "grid":
            self.listed += [point for point in grid(ranges, left) if point not in first]
        else:
            self.optimizer = gaussian_process(ranges, args.n_initial, args.search_seed)

    def ask(self, k: int) -> list[dict]:
        """The next k points; fewer, or none, when a grid is through."""
        points, self.listed = self.listed[:k], self.listed[k:]
        if self.optimizer and len(points) < k:
            with self._at_work():  # several at once: each takes the ones before for granted
                proposed = self.optimizer.ask(k - len(points))
            points += [dict(zip(self.ranges, map(float, x), strict=True)) for x in proposed]
        for i, point in enumerate(points):
            if point in self.asked:  # the same schedule and seed give the same FID again
                points[i] = self._at_random()
            self.asked.append(points[i])
        return points

    def tell(self, points: list[dict], values: list[float | None]) -> None:
        """What the points gave; None, a failure, counts as the worst value there is."""
        self.values += [value for value in values if value is not None]
        self.untold += zip(points, values, strict=True)
        if self.optimizer and self.values:
            worst = max(self.values)
            xs = [[point[name] for name in self.ranges] for point, _ in self.untold]
            with self._at_work():
                self.optimizer.tell(xs, [worst if v is None else v for _, v in self.untold])
            self.untold = []

    def _at_random(self):
        return {name: self.random.uniform(*limits) for name, limits in self.ranges.items()}

    @contextmanager
    def _at_work(self):
        from threadpoolctl import threadpool_limits

        began = time.monotonic()
        # matrices of tens of rows: a second thread only waits, and may change the last digits
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a kernel at its bounds: few points do that
            yield
        self.seconds += time.monotonic() - began


def fitted(args, ranges: dict[str, tuple], rows: list[dict]):
    """For scikit-optimize's plots: a Gaussian process fitted to all trials of any strategy."""
    points = Points(args, ranges, [])
    points.optimizer = gaussian_process(ranges, 1, args.search_seed)
    rows = sorted(rows, key=lambda row: row["trial"])
    points.tell([row["parameters"] for row in rows], [row["objective"] for row in rows])
    return points.optimizer.get_result()


def gaussian_process(ranges: dict[str, tuple], n_initial: int, seed: int):
    from skopt import Optimizer  # slow to import, and the trials' processes do not need it
    from skopt.space import Real

    space = [Real(low, high, name=name) for name, (low, high) in ranges.items()]
    return Optimizer(space, "GP", n_initial_points=n_initial, random_state=seed, n_jobs=1)


def grid(ranges: dict[str, tuple], budget: int) -> list[dict]:
    """All combinations of evenly spaced levels, as many levels as the budget allows."""
    levels = dict.fromkeys((name for name in TUNING_ORDER if name in ranges), 1)
    while True:
        for name in sorted(levels, key=levels.get):  # the coarsest first
            if math.prod(levels.values()) // levels[name] * (levels[name] + 1) <= budget:
                levels[name] += 1
                break
        else:
            break
    axes = []
    for name, (low, high) in ranges.items():
        k = levels[name]
        axes.append(np.linspace(low, high, k).tolist() if k > 1 else [(low + high) / 2])
    points = [dict(zip(ranges, x, strict=True)) for x in product(*axes)]
    return points[:budget]


class Ledger:
    """search.jsonl, a flushed line a trial. A line cut short by a kill is taken away again."""

    def __init__(self, path: Path, warn=print):
        self.path, self.rows, self.warn = path, {}, warn
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            warn(f"warning: {path}: its last line was cut short; that trial is looked at again")
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                value = row["objective"]
                failed = value is None and row["status"] != "ok"
                if not failed and not math.isfinite(value):
                    raise ValueError(f"objective {value}")
                if missing := COLUMNS - set(row):
                    raise KeyError(*missing)
                self.rows[int(row["trial"])] = row
            except (ValueError, KeyError, TypeError) as error:
                raise Stop(f"{path}: line {number} is damaged ({error!r})") from None

    def add(self, row: dict) -> None:
        self.rows[row["trial"]] = row
        with open(self.path, "a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def known(self, trial: int, point: dict) -> dict:
        """The point of a trial: as the ledger has it, or as it was asked for."""
        row = self.rows.get(trial)
        if row and row["parameters"] != point:
            self.warn(f"warning: trial {trial} was another point than this version asks for")
        return row["parameters"] if row else point

    def whole(self, before: float = math.inf) -> list[dict]:
        """The trials that came to their end, in order."""
        rows = sorted(self.rows.values(), key=lambda row: row["trial"])
        return [row for row in rows if row["status"] == "ok" and row["trial"] < before]

    def best(self, before: float = math.inf) -> dict | None:
        return min(self.whole(before), key=lambda row: row["objective"], default=None)

    def limit(self, before: int) -> float | None:
        """--prune: the median FID, at half their epochs, of the whole trials before this one."""
        halves = [row["half"] for row in self.whole(before) if row["half"] is not None]
        return float(np.median(halves)) if len(halves) >= MIN_TO_PRUNE else None


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
        self.halfway, self.limit = args.epochs // 2, limit
        super().__init__(folder, "train", args, device, **facts)

    def epoch_row(self, epoch, step, loss, scores, q):
        super().epoch_row(epoch, step, loss, scores, q)
        if epoch == self.halfway and self.limit is not None and scores["fid"] > self.limit:
            raise Pruned(
                f"FID {scores['fid']:.5g} (n {scores['n']}) after {epoch} of {self.args.epochs} "
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
    device = setup(args)
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
                summary = train_mnist.train(args, trial, images)
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
