"""What TensorBoard reads is what the CSV files hold; without the flag nothing is written."""

import pytest
from harness import Script

from common.tables import read_text_csv

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
        assert [p.step for p in pictures] == [1, 2] and min(p.width for p in pictures) > 50


def test_a_missing_tensorboard_is_one_line(tmp_path):
    script = Script(tmp_path)
    assert script.run(*FLAGS, "--tensorboard", sabotage=hide, timeout=400) == 2
    assert "--tensorboard requires tensorboard: pip install" in script.last_line()
    assert script.run(*FLAGS, "--epochs", 1, timeout=400) == 0, script.said()
    assert not list(tmp_path.rglob("tensorboard"))


def hide():
    import sys

    sys.modules["tensorboard"] = None
