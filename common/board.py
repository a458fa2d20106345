"""TensorBoard's files beside a run's own: what goes to the CSV files, and the pictures."""

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from common import figures
from common.optional import optional
from scheduler import Schedule

COUNTS = "step", "iteration", "epoch"  # columns that count and are no curve of their own


class Board:
    """Writes to the folder `tensorboard` of a run, all of it against the steps of training."""

    def __init__(self, folder: Path, inner_loop: int = 1):
        """`inner_loop` is the number of steps in an iteration of the upper level."""
        self.folder, self.inner_loop = folder, inner_loop
        self.after = 0  # values of later steps, which an earlier process wrote, go away

    @cached_property
    def writer(self):
        """Made for the first value, so that a folder that is refused stays as it is."""
        writer = optional("torch.utils.tensorboard", "--tensorboard").SummaryWriter
        return writer(self.folder / "tensorboard", purge_step=self.after + 1)

    def row(self, table: str, values: dict[str, Any]) -> None:
        """The numbers of a row, each under the table's name."""
        step = self.step_of(values)
        for name, value in values.items():
            if isinstance(value, int | float) and name not in COUNTS:
                self.writer.add_scalar(f"{Path(table).stem}/{name}", value, step)
        self.writer.flush()

    def step_of(self, values: dict[str, Any]) -> int:
        step = values["step"] if "step" in values else values["iteration"] * self.inner_loop
        return int(step)

    def resume(self, step: int, last: dict[str, dict[str, float]]) -> None:
        """Go on from a checkpoint at this step; `last` are the last rows of the tables then.

        Without scores of this step its epoch was not judged yet. An earlier process may have gone
        further and written some, so the step's values go away and are written from the tables.
        """
        of_step = {table: row for table, row in last.items() if self.step_of(row) == step}
        self.after = step if "scores.csv" in of_step else step - 1
        for table, row in of_step.items() if self.after < step else ():
            self.row(table, row)

    def epoch(self, step: int, samples: Tensor, schedule: Schedule) -> None:
        """The sample grid, and the noise schedule as it is now."""
        from PIL import Image  # slow to import, as in figures.py

        self.picture("samples", figures.grid(samples), step)
        with TemporaryDirectory() as folder:
            figures.plot_schedules(path := Path(folder) / "schedule.png", {"now": schedule})
            self.picture("schedule", np.asarray(Image.open(path).convert("RGB")), step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture (H,W,3) of bytes."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()
