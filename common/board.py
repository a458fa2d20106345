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
        optional("tensorboard", "--tensorboard")
        self.folder, self.inner_loop = folder, inner_loop
        self.after = 0  # the step of the checkpoint that a run resumes from

    @cached_property
    def writer(self):
        """Made for the first value; what earlier processes wrote after the checkpoint goes away."""
        writer = optional("torch.utils.tensorboard", "--tensorboard").SummaryWriter
        return writer(self.folder / "tensorboard", purge_step=self.after + 1)

    def row(self, table: str, values: dict[str, Any]) -> None:
        """The numbers of a row, each under the table's name."""
        step = values["step"] if "step" in values else values["iteration"] * self.inner_loop
        for name, value in values.items():
            if isinstance(value, int | float) and name not in COUNTS:
                self.writer.add_scalar(f"{Path(table).stem}/{name}", value, step)
        self.writer.flush()

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
