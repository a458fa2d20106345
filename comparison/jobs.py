"""A command with a folder of its own, of which comparison/running.py runs what is missing."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import Stop, read_json

# arguments in which a run may differ from its job
MAY_DIFFER = {"device", "data_dir", "runs_dir", "threads", "resume", "dry_run"}


def slug(method: str) -> str:
    """A method's name as a part of a file's."""
    return re.sub(r"\W+", "-", method)


class Job:
    """What is known of a command from its folder: begun, done, and whether it may begin."""

    method: str
    seed: int

    def __init__(self, root: Path):
        self.root = root

    @property
    def begins_with(self) -> Sequence["Job"]:
        """The jobs that must be done before it."""
        return ()

    def prepare(self) -> None:
        """Write what its command reads; called before it is run."""

    def argv(self) -> list[str]:
        """The script and its flags: a new run, or the one that was interrupted."""
        raise NotImplementedError

    @property
    def folder(self) -> Path | None:
        """The run's folder, once it is there."""
        begun = sorted(self.root.glob("[0-9]*/args.json"))
        return begun[-1].parent if begun else None

    @property
    def done(self) -> bool:
        return bool(self.folder and (self.folder / "summary.json").exists())

    @property
    def ready(self) -> bool:
        """Whether what it begins with is there."""
        return all(job.done for job in self.begins_with)

    @property
    def summary(self) -> dict:
        return read_json(self.folder / "summary.json")


def check_flags(folder: Path, asked: dict, ran: dict) -> None:
    """A Stop if a run's arguments are no longer those that are asked for."""
    asked = json.loads(json.dumps(asked))  # as args.json holds them
    for name in sorted(set(asked) - MAY_DIFFER):
        if asked[name] != ran.get(name, asked[name]):  # a run may be older than a flag
            raise Stop(
                f"{folder}: ran with --{name} {ran[name]}, now it is {asked[name]}; move it away, "
                "and the same command makes it anew"
            )
