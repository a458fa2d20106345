"""TensorBoard's files beside a run's own: what goes to the CSV files, and the pictures."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from common import figures
from common.optional import optional
from scheduler import Schedule

STEPS = ("step", "iteration", "epoch")  # the column that counts, the first that a table has


class Board:
    """Writes to the folder `tensorboard` of a run, from a step on."""

    def __init__(self, folder: Path, after: int | None = None):
        """`after` is the step of the checkpoint that a run resumes from: later values go away."""
        optional("tensorboard", "--tensorboard")
        writer = optional("torch.utils.tensorboard", "--tensorboard").SummaryWriter
        self.writer = writer(folder / "tensorboard", purge_step=after and after + 1)

    def row(self, table: str, values: dict[str, Any]) -> None:
        """The numbers of a row, each under the table's name."""
        step = next((values[name] for name in STEPS if name in values), None)
        for name, value in values.items():
            if isinstance(value, int | float) and name not in STEPS:
                self.writer.add_scalar(f"{Path(table).stem}/{name}", value, step)
        self.writer.flush()

    def epoch(self, epoch: int, samples: Tensor, schedule: Schedule) -> None:
        """The sample grid, and the noise schedule as it is now."""
        from PIL import Image  # slow to import, as in figures.py

        self.picture("samples", figures.grid(samples), epoch)
        with TemporaryDirectory() as folder:
            figures.plot_schedules(path := Path(folder) / "schedule.png", {"now": schedule})
            self.picture("schedule", np.asarray(Image.open(path).convert("RGB")), epoch)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture (H,W,3) of bytes."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()
