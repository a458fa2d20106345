"""What TensorBoard reads is what the CSV files hold; without the flag nothing is written."""

import pytest
import torch
from harness import Script

from common.board import Board
from common.tables import read_text_csv
from scheduler import Schedule

FLAGS = """--dataset digits --model_base_dim 4 --timesteps 20 --backward_steps 2 --epochs 2 --cpu
    --threads 1 --limit_batches 3 --n_samples 4 --fid_samples 20 --eval_samples 0 --log_freq 1
    --save_seconds 0""".split()


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0})
    return events.Reload()


def test_losses_scores_schedule_and_pictures_are_there(tmp_path):
    pytest.importorskip("tensorboard")
    script = Script(tmp_path)
    assert script.run(*FLAGS, "--tensorboard", timeout=400) == 0, script.said()
    events = events_of(script.only)
    columns = {"losses": ("loss", "lr"), "scores": ("loss", "fid", "kid", "start", "tau")}
    for table, names in columns.items():
        rows = read_text_csv(script.only / f"{table}.csv")
        for name in names:
            written = [(e.step, e.value) for e in events.Scalars(f"{table}/{name}")]
            expected = [(int(row["step"]), float(row[name])) for row in rows]
            assert len(written) == len(rows) > 1
            for (step, value), (their_step, their_value) in zip(written, expected, strict=True):
                assert step == their_step and value == pytest.approx(their_value, rel=1e-6)
    for name in ("samples", "schedule"):
        pictures = events.Images(name)
        assert [p.step for p in pictures] == [3, 6] and min(p.width for p in pictures) > 50


def test_a_resumed_run_shows_every_count_once(tmp_path):
    """Killed after the iteration 5 and the epoch of 3, it goes on from a checkpoint at step 6."""
    pytest.importorskip("tensorboard")
    schedule, samples = Schedule("cosine", 20), torch.zeros(4, 1, 8, 8)

    def go_on(board, iterations):
        for iteration in iterations:
            board.row("iterations.csv", {"iteration": iteration, "fid": float(iteration)})
            board.row("losses.csv", {"step": 3 * iteration, "loss": 0.5})
            if iteration % 3 == 0:
                board.epoch(3 * iteration, samples, schedule)
        board.writer.close()

    first = Board(tmp_path, inner_loop=3)
    assert not list(tmp_path.iterdir())  # nothing is written to a folder that may be refused
    go_on(first, range(1, 6))
    resumed = Board(tmp_path, inner_loop=3)
    resumed.after = 6
    go_on(resumed, range(3, 8))
    events = events_of(tmp_path)
    every = [3 * iteration for iteration in range(1, 8)]
    assert [e.step for e in events.Scalars("iterations/fid")] == every
    assert [e.step for e in events.Scalars("losses/loss")] == every
    assert [p.step for p in events.Images("samples")] == [9, 18]


def test_a_missing_tensorboard_is_one_line(tmp_path):
    script = Script(tmp_path)
    assert script.run(*FLAGS, "--tensorboard", sabotage=hide, timeout=400) == 2
    assert "--tensorboard requires tensorboard: pip install" in script.last_line()
    assert script.run(*FLAGS, "--epochs", 1, timeout=400) == 0, script.said()
    assert not list(tmp_path.rglob("tensorboard"))


def hide():
    import sys

    sys.modules["tensorboard"] = None
