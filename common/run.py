"""A run's folder: arguments, log, CSV files, checkpoints, resuming, interrupts.

State is a pure function of (seed, step): every random number comes from `stream`, which derives a
generator from the seed and the names of what it is for. A run that is killed and resumed computes
the same bits as one that never was. What depends on the clock goes to log.txt and timing.csv only.
"""

import fcntl
import operator
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from common import checkpoint, processes
from common.board import Board
from common.errors import NOT_FINITE, NotFinite, Stop, first_line, of_the_machine
from common.families import NAMES
from common.machine import peak_memory
from common.optional import optional
from common.run_files import Tables, refuse_links
from common.run_record import Record

NOT_RESUMED = ("frozen", "sample")  # minutes, and no checkpoint
# what a sealed checkpoint raises that holds something else than is read from it
UNFIT = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError)


def _is_unfit(error: BaseException | None) -> bool:
    """Whether an error is of odd content, and not of the machine's memory or card."""
    return isinstance(error, UNFIT) and not of_the_machine(error)


def forward_passes(evaluations: dict[str, int]) -> int:
    """Network evaluations as one number: a backward pass counts as two forward ones."""
    return sum(evaluations.values()) + 2 * evaluations.get("training", 0)


class Run:
    """One numbered folder, or the folder of a search's trial."""

    def __init__(self, folder: Path, kind: str, arguments: dict, device, **facts):
        self.folder, self.kind, self.arguments = folder, kind, arguments
        self.device = device
        self.save_seconds = arguments["save_seconds"]
        self.evaluations = Counter()  # images through a network, by purpose
        self.elapsed, self.started, self.saved = 0.0, time.monotonic(), time.monotonic()
        self.signal: int | None = None
        self.untried: Path | None = None  # the checkpoint that is resumed, until a step is done
        self.state: Callable[[], dict] | None = None
        self.board = None
        if arguments.get("tensorboard"):
            self.board = Board(folder, arguments.get("inner_loop", 1))
        refuse_links(folder)
        self._lock = open(folder / ".lock", "w")  # noqa: SIM115, held as long as the run
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(f"{folder}: another process is running in it", code=2) from None
        self.tables = Tables(folder)
        self.record = Record(folder / "args.json", kind, arguments, device, facts)
        self.record.note_rates(self.log)
        (folder / NOT_FINITE).unlink(missing_ok=True)

    @classmethod
    def open(cls, kind: str, arguments: dict, device, **facts) -> "Run":
        """A new folder runs/00007-kind-seed0, or the one that --resume names."""
        if arguments.get("tensorboard"):
            optional("tensorboard", "--tensorboard")  # or a Stop, before there is a folder
        if arguments["resume"]:
            return cls(Path(arguments["resume"]), kind, arguments, device, **facts)
        root = Path(arguments["runs_dir"])
        root.mkdir(parents=True, exist_ok=True)
        while True:
            matches = (re.match("[0-9]{1,9}(?=-)", path.name) for path in root.iterdir())
            taken = [int(number[0]) for number in matches if number]
            folder = root / f"{max(taken, default=-1) + 1:05d}-{kind}-seed{arguments['seed']}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another run took the number in between
            return cls(folder, kind, arguments, device, **facts)

    def __enter__(self):
        self._old = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, _, error, __):
        failure = None
        if isinstance(error, NotFinite):
            self.write_json(NOT_FINITE, {"number": error.fact, "at": list(error.places)})
        elif self.untried and _is_unfit(error):
            self.log(f"warning: {traceback.format_exc()}", echo=False)
            failure = Stop(f"{self.untried}: no step can be made from it ({first_line(error)})")
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._lock.close()
        if failure:
            raise failure from None

    def _on_signal(self, number, frame):
        if self.signal:  # the second time, leave without saving
            raise KeyboardInterrupt
        self.signal = number  # `poll` saves and leaves; a handler that prints may break a print

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    def seconds(self) -> float:
        """Time spent on the run, over all its processes."""
        return self.elapsed + time.monotonic() - self.started

    def log(self, text: str, echo: bool = True) -> None:
        """A line to log.txt, and to the terminal above any progress bar."""
        if echo:
            tqdm.write(text)
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n"
        with open(self.folder / "log.txt", "ab") as file:
            file.write(line.encode(errors="backslashreplace"))  # a path may be in no encoding

    def row(self, name: str, **values) -> None:
        """A row to a table of the run, such as losses.csv; None is an empty cell."""
        self.tables.row(name, values)
        if self.board:
            self.board.row(name, values)

    def epoch_row(self, epoch: int, step: int, loss: float, scores: dict, q: dict) -> None:
        """The row that every script writes to scores.csv after an epoch."""
        about = ("extractor", "reference", "splits")  # the same in all rows
        scores = {("fid_n" if k == "n" else k): v for k, v in scores.items() if k not in about}
        schedule = dict.fromkeys(NAMES) | q
        spent = {"evaluations": forward_passes(self.evaluations)}
        self.row("scores.csv", epoch=epoch, step=step, **spent, loss=loss, **scores, **schedule)
        self.row("timing.csv", epoch=epoch, step=step, seconds=self.seconds())
        shown = {"loss": loss, **{k: v for k, v in {**scores, **q}.items() if v is not None}}
        self.log(f"epoch {epoch}: " + ", ".join(f"{k} {v:.5g}" for k, v in shown.items()))

    def rows(self, name: str) -> dict[str, list[float]]:
        """A table of the run as columns of numbers; an empty cell is NaN."""
        return self.tables.columns(name)

    def write_json(self, name: str, content: dict) -> None:
        checkpoint.write_json(self.folder / name, content)

    def restore(self) -> dict | None:
        """The newest whole checkpoint's state; the tables go back to where they were then."""
        loaded = checkpoint.load_newest(self.folder / "checkpoints", self.log)
        if not loaded:
            self.tables.go_back({}, self.log)
            return None
        state, path = loaded
        try:
            self.record.check(state)
            self.tables.go_back(state["files"], self.log)
            self.elapsed = float(state["elapsed"])
            self.evaluations.clear()  # in place: the upper level counts in it
            counts = state["evaluations"].items()
            self.evaluations.update({name: operator.index(count) for name, count in counts})
        except UNFIT as error:
            raise Stop(f"{path}: not a checkpoint of this run ({first_line(error)})") from None
        self.untried = path
        self.log(f"resumed from {path.name}")
        return state

    def take_up(self, parts: dict, facts: Callable[[], dict]) -> None:
        """Bring every part of a run to the newest checkpoint, in place.

        From now on a checkpoint holds the parts and what `facts` returns, `step` among it.
        """
        if saved := self.restore():
            missing = [name for name in parts if name not in saved]
            if missing:
                raise Stop(
                    f"{self.folder}: written by another version, without {missing[0]}; resume it "
                    "with that version (the commit in args.json), or start a new run"
                )
            for name, part in parts.items():
                try:
                    part.load_state_dict(saved[name])
                except UNFIT as error:
                    reason = first_line(error)
                    raise Stop(f"{self.folder}: its checkpoint's {name}: {reason}") from None
            if self.board:
                self.board.resume(saved["step"], self.tables.last_rows())
        self.state = lambda: {n: part.state_dict() for n, part in parts.items()} | facts()

    def save(self) -> None:
        """A sealed checkpoint of `self.state()` and of where the CSV files end."""
        if not self.state:  # a search has its ledger instead
            return
        state = {
            **self.state(),
            "kind": self.kind,
            "args": {k: v for k, v in self.arguments.items() if k != "resume"},
            "facts": self.record.facts,
            "files": self.tables.mark(),
            "elapsed": self.seconds(),
            "evaluations": dict(self.evaluations),
        }
        checkpoint.save_numbered(self.folder / "checkpoints", state["step"], state)
        self.saved = time.monotonic()

    def poll(self) -> None:
        """Where the state is whole: save when it is time to, end the run when it was asked to.

        Under torchrun the first process does both; the others end at the next work they share.
        """
        self.untried = None
        if processes.rank():
            return
        if self.signal or time.monotonic() - self.saved >= self.save_seconds:
            self.save()
        if self.signal:
            again = f"; --resume {self.folder} continues" if self.kind not in NOT_RESUMED else ""
            raise Stop(f"interrupted{again}", code=128 + self.signal)

    def finish(self, summary: dict, drawn: int) -> dict:
        """Save, and write summary.json with what the final evaluation drew: the run is complete."""
        self.save()
        summary = {
            **summary,
            "seconds": round(self.seconds(), 3),
            "network_evaluations": dict(self.evaluations + Counter(sampling=drawn)),
            "peak_memory": peak_memory(self.device),
        }
        self.write_json("summary.json", summary)
        plain = {k: v for k, v in summary.items() if v is not None and not isinstance(v, dict)}
        numbers = (f"{k} {v:.5g}" if type(v) is float else f"{k} {v}" for k, v in plain.items())
        self.log(f"finished: {', '.join(numbers)}")
        return summary
