"""The page of the study, from the rows of its CSV file."""

from pathlib import Path

from common.extractors import is_made
from common.scores import JUDGES
from studies.noise_schedules.tasks import Task


def judges_of(dataset: str, size: int) -> list[str]:
    """The judges that can look at such images."""
    return [name for name in JUDGES if is_made(name, dataset, size)]


def draw_samples(path: Path, tasks: list[Task]) -> None:
    pass


def write(path: Path) -> None:
    pass
