"""What TensorBoard reads is what the CSV files hold; without the flag nothing is written."""

import shutil

import pytest
import torch
from harness import Script

from common.board import Board
from common.tables import read_text_csv
from scheduler import Schedule

FLAGS = """--dataset digits --model_base_dim 4 --timesteps 20 --backward_steps 2 --epochs 2 --cpu
    --threads 1 --limit_batches 3 --n_samples 4 --fid_samples 20 --eval_samples 0 --log_freq 1
    --save_seconds 0""".split()


BILEVEL = """--recipe ours --cpu --threads 1 --dataset digits --model_base_dim 4 --epochs 2
    --initial_epoch 1 --batch_size 32 --timesteps 20 --limit_batches 3 --backward_steps 4
    --n_samples 4 --zo_samples 6 --fid_samples 0 --eval_samples 0 --log_freq 1
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
    resumed.resume(6, {"losses.csv": {"step": 6, "loss": 0.5}})
    assert resumed.after == 5  # what is not in the tables at step 6 goes too
    resumed.row("iterations.csv", {"iteration": 2, "fid": 2.0})
    go_on(resumed, range(3, 8))
    events = events_of(tmp_path)
    every = [3 * iteration for iteration in range(1, 8)]
    assert [e.step for e in events.Scalars("iterations/fid")] == every
    assert [e.step for e in events.Scalars("losses/loss")] == every
    assert [p.step for p in events.Images("samples")] == [9, 18]


@pytest.mark.parametrize("lost", [1, 0])
def test_a_bilevel_run_resumes_its_board_and_remembers_its_ckpt(tmp_path, lost):
    """From the checkpoint before the last one, or from the last, at the end of an epoch."""
    pytest.importorskip("tensorboard")
    script = Script(tmp_path, "bilevel")
    assert script.run(*BILEVEL, "--tensorboard", "--inner_loop", 2, timeout=400) == 0, script.said()
    (tmp_path / "first.pt").write_bytes(max((script.only / "checkpoints").iterdir()).read_bytes())
    shutil.rmtree(script.only)
    flags = ["--ckpt", tmp_path / "first.pt", "--tensorboard", "--inner_loop", 2]
    assert script.run(*BILEVEL, *flags, timeout=400) == 0, script.said()
    (script.only / "summary.json").unlink()
    for path in sorted((script.only / "checkpoints").iterdir())[2 - lost :]:
        path.unlink()
    assert script.run("--resume", "latest", timeout=400) == 0, script.said()
    assert f"--ckpt {tmp_path / 'first.pt'}" in script.said().split("resumed from")[-1]
    events, rows = events_of(script.only), read_text_csv(script.only / "iterations.csv")
    steps = [2 * int(row["iteration"]) for row in rows]
    assert [e.step for e in events.Scalars("iterations/loss_y")] == steps == [2, 4, 6, 8, 10, 12]
    assert [e.step for e in events.Scalars("scores/loss")] == [6, 12]
    assert [e.step for e in events.Images("samples")] == [6, 12]


def test_a_missing_tensorboard_is_one_line(tmp_path):
    script = Script(tmp_path)
    assert script.run(*FLAGS, "--tensorboard", sabotage=hide, timeout=400) == 2
    assert "--tensorboard requires tensorboard: pip install" in script.last_line()
    assert not list((tmp_path / "runs").glob("[0-9]*"))
    assert script.run(*FLAGS, "--epochs", 1, timeout=400) == 0, script.said()
    assert not list(tmp_path.rglob("tensorboard"))


def hide():
    import sys

    sys.modules["tensorboard"] = None
