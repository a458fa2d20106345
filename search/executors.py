"""Trials on other machines, by an engine that is there for it: submitit for SLURM, or Ray.

An engine starts `run_elsewhere` and tells when it has ended. The ledger, the order of the tells and
what counts as a failure stay with the search. All machines share the run's folder.
"""

import fcntl
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from common.errors import Stop, first_line
from common.locate import ROOT
from common.optional import optional
from common.run import Run
from search.trials import killed, run_trial

POLL = 0.2
TIMEOUT_MIN = 24 * 60  # of a SLURM job, unless an option says otherwise
RETRIES = 1  # of Ray, for a process or a machine that is lost
LISTS = ("setup", "teardown", "srun_args")  # options that submitit wants as a list
Outcome = dict | BaseException | None  # a result, an error that ends the search, or killed


def run_elsewhere(home: str, folder: Path, args, limit: float | None) -> Outcome:
    """run_trial in the search's current folder; waits until a trial that was given up is over."""
    os.chdir(home)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of a search that was killed: its job goes on
    try:
        return run_trial(folder, args, limit)
    except (OSError, Stop) as error:  # a full disk, data that are not there
        return error


class Resumable:
    """A job that submitit may end and queue again: the trial continues in its own folder."""

    def __init__(self, job: Callable[..., Outcome]):
        self.job = job

    def __call__(self, *task) -> Outcome:
        return self.job(*task)

    def checkpoint(self, *task):
        """Called at a preemption or a time-out; the trial's last checkpoint is on disk already."""
        return optional("submitit", "--executor submitit").helpers.DelayedSubmission(self, *task)


JOB = run_elsewhere


class Engine(Protocol):
    """What a search needs of an engine."""

    def submit(self, *task) -> Any: ...
    def done(self, job: Any) -> bool: ...
    def outcome(self, job: Any) -> Outcome: ...
    def cancel(self, job: Any) -> None: ...
    def close(self) -> None: ...


class Submitit:
    """SLURM where there is one, else processes on this machine."""

    def __init__(self, folder: Path, jobs: int, options: dict):
        self.submitit, self.folder = optional("submitit", "--executor submitit"), folder
        options = {"timeout_min": TIMEOUT_MIN} | options
        options |= {name: [value] for name, value in options.items() if name.endswith(LISTS)}
        first = {name: options.pop(name) for name in self.of_constructor() & options.keys()}
        try:
            self.executor = self.submitit.AutoExecutor(folder, **first)
            self.executor.update_parameters(**options)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise Stop(f"--executor_options: {first_line(error)}", code=2) from None

    def of_constructor(self) -> set[str]:
        """The options that an executor must have when it is made, such as slurm_max_num_timeout."""
        kinds = self.submitit.core.plugins.get_executors()
        names = {f"{k}_{name}" for k in kinds for name in inspect.signature(kinds[k]).parameters}
        return {"cluster", *names} - {f"{k}_folder" for k in kinds}

    def submit(self, *task):
        errors = self.submitit.core.utils
        try:
            with importable():
                job = self.executor.submit(Resumable(JOB), *task)
        except (errors.FailedJobError, errors.FailedSubmissionError) as error:  # of sbatch
            raise Stop(f"--executor submitit: no job was queued ({first_line(error)})") from None
        for path in self.folder.glob(".submission_file_*"):
            if path.is_symlink():  # to the script that sbatch has read; a run's folder has no link
                path.unlink()
        return job

    def done(self, job) -> bool:
        return job.done()

    def outcome(self, job) -> Outcome:
        try:
            return job.result()
        except self.submitit.core.utils.FailedJobError as error:
            return error
        except self.submitit.core.utils.UncompletedJobError:  # it left nothing: it was killed
            return None

    def cancel(self, job) -> None:
        job.cancel()

    def close(self) -> None:
        pass


class Ray:
    """A Ray cluster: the one at `address`, else one on this machine."""

    def __init__(self, folder: Path, jobs: int, options: dict):
        self.ray = optional("ray", "--executor ray")
        known = {"num_cpus", "num_gpus", "address", "max_retries"}
        if unknown := options.keys() - known:
            raise Stop(f"--executor_options {unknown.pop()}: not one of {sorted(known)}", code=2)
        address = options.pop("address", None)
        options = {"num_cpus": 1, "max_retries": RETRIES} | options
        try:
            self.remote = self.ray.remote(**options)(JOB)
            cpus = int(max(1, jobs * options["num_cpus"]))
        except (TypeError, ValueError) as error:
            raise Stop(f"--executor_options: {first_line(error)}", code=2) from None
        try:
            self.ray.init(
                address=address,
                num_cpus=None if address else cpus,
                runtime_env={"env_vars": {"PYTHONPATH": python_path()}},
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="error",
            )
        except Exception as error:  # of several kinds, Exception itself among them
            reason = first_line(error)
            raise Stop(
                f"--executor ray: no cluster ({reason}); start one, or name it with "
                "--executor_options address=HOST:PORT"
            ) from None
        self.check_size(options["num_cpus"], options.get("num_gpus", 0), bool(address))

    def check_size(self, cpus: float, gpus: float, may_grow: bool) -> None:
        """A trial that fits nowhere waits, and Ray would not say so."""
        there = self.ray.cluster_resources()
        for name, needed in (("CPU", cpus), ("GPU", gpus)):
            if needed > there.get(name, 0):
                text = f"--executor ray: a trial needs {needed:g} {name}, of {there.get(name, 0):g}"
                if not may_grow:
                    self.close()
                    raise Stop(f"{text} on this machine", code=2)
                print(f"{text} in the cluster: it waits until the cluster grows", flush=True)

    def submit(self, *task):
        return self.remote.remote(*task)

    def done(self, job) -> bool:
        return bool(self.ray.wait([job], timeout=0)[0])

    def outcome(self, job) -> Outcome:
        try:
            return self.ray.get(job)
        except self.ray.exceptions.RayTaskError as error:
            return error
        except self.ray.exceptions.RayError:  # its process or its machine is lost
            return None

    def cancel(self, job) -> None:
        self.ray.cancel(job, force=True)

    def close(self) -> None:
        self.ray.shutdown()


ENGINES: dict[str, type] = {"submitit": Submitit, "ray": Ray}


class Elsewhere:
    """Runs trials by an engine; to a search it is what Workers is."""

    def __init__(self, engine: Engine, run: Run):
        self.engine, self.run, self.running = engine, run, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for job in self.running.values():
            self.engine.cancel(job)
        self.engine.close()

    def __call__(self, tasks: dict[int, tuple]) -> Iterator[tuple[int, dict]]:
        """Results as they come, by the trial's number; `tasks` may grow meanwhile."""
        begun: set[int] = set()
        while self.running or tasks.keys() - begun:
            for i in sorted(tasks.keys() - begun):
                begun.add(i)
                self.running[i] = self.engine.submit(os.getcwd(), *tasks[i])
            time.sleep(POLL)
            if self.run.signal:
                again = f"--resume {self.run.folder} continues"
                raise Stop(f"interrupted; {again}", code=128 + self.run.signal)
            for i in [i for i, job in self.running.items() if self.engine.done(job)]:
                result = self.engine.outcome(self.running.pop(i))
                if isinstance(result, BaseException):
                    raise result
                if result and result["status"] == "interrupted":
                    result["status"] = "failed"  # a signal to this trial alone
                yield i, result or killed(tasks[i])


@contextmanager
def importable() -> Iterator[None]:
    """What is started meanwhile finds this project's modules, from whatever folder it starts in."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def python_path() -> str:
    """This project first, for a process that starts elsewhere."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
