"""What a run is, in args.json: a checkpoint or data of another run, or an edit, is refused."""

from collections.abc import Callable
from pathlib import Path

import torch

from common import checkpoint
from common.cli import MAY_CHANGE, MAY_CHANGE_RATES
from common.errors import Stop, read_json
from common.provenance import describe


class Record:
    """args.json: written by a new run, and compared by a resumed one."""

    def __init__(
        self, path: Path, kind: str, arguments: dict, device: torch.device, facts: dict
    ) -> None:
        self.path, self.kind, self.arguments, self.facts = path, kind, arguments, facts
        self.rescaled: dict[str, float] = {}  # rates by what they were multiplied since
        if not path.exists():
            checkpoint.write_json(path, describe(kind, arguments, device, facts))
        self.content = read_json(path)
        self.earlier = self.content.get("earlier", {})  # rates, the latest last
        if not isinstance(self.content.get("arguments"), dict) or not _of_lists(self.earlier):
            raise Stop(f"{path}: damaged (arguments, or earlier rates)")
        for name, fact in facts.items():
            if self.content.get(name) != fact:
                before = self.content.get(name)
                raise Stop(
                    f"{path}: the {name} was {before}, now it is {fact}; resume with what it "
                    "was, or start a new run"
                )

    def note_rates(self, log: Callable[[str], None]) -> None:
        """Keep the learning rates of now, and those that the run had before."""
        stored = self.content["arguments"]
        for name in sorted(MAY_CHANGE_RATES & set(stored) & set(self.arguments)):
            before, now = stored[name], self.arguments[name]
            if before != now:
                log(f"--{name} was {before}, from here on it is {now}")
                self.earlier = {**self.earlier, name: [*self.earlier.get(name, []), before]}
                stored[name] = now
                checkpoint.write_json(self.path, {**self.content, "earlier": self.earlier})

    def check(self, state: dict) -> None:
        """A ValueError if a checkpoint is of another run, or args.json was edited since."""
        if state["kind"] != self.kind:
            raise ValueError(f"it is of a {state['kind']} run")
        for name, fact in self.facts.items():
            if state["facts"][name] != fact:
                raise ValueError(f"its {name} was {state['facts'][name]}, not {fact}")
        stored = dict(state["args"])
        if missing := {"seed", "save_seconds"} - set(stored):
            raise ValueError(f"without {min(missing)}")
        # --ckpt is dropped once there are weights of the run's own
        for name in sorted((set(stored) & set(self.arguments)) - MAY_CHANGE - {"ckpt"}):
            value, now = stored[name], self.arguments[name]
            if name in MAY_CHANGE_RATES and value != now and value in self.earlier.get(name, []):
                self.rescaled[name] = now / value
            elif value != now:
                raise ValueError(f"its --{name} was {value}, not {now}")


def _of_lists(content) -> bool:
    return isinstance(content, dict) and all(isinstance(v, list) for v in content.values())
