"""What common.compare reads in a run's files and says of them in its tables."""

import json
import math
from pathlib import Path

import pytest

from common.compare.figures import fid_curves
from common.compare.records import read_record
from common.compare.tables import all_tables, differences, over_seeds, scores
from common.compare.text import Table

SCHEDULE = {"family": "cosine", "timesteps": 30, "start": 0, "end": 0.9, "tau": 2, "epsilon": 0.008}


def written(folder: Path, summary=None, kind="train", **arguments) -> Path:
    """A run's folder with these arguments and final numbers."""
    folder.mkdir(parents=True)
    given = {"seed": 0, "epochs": 4, "extractor": "mnist", "lr": 0.1} | arguments
    content = {"kind": kind, "arguments": given, "command": "x.py --lr 0.1"}
    (folder / "args.json").write_text(json.dumps(content))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def row(table: Table, name: str) -> list[str]:
    return dict(table.rows)[name]


def test_every_judge_of_a_summary_has_a_row(tmp_path):
    first = {"fid": 12.5, "fid_second": 7, "kid": 1.25, "kid_se": 0.125, "is_mean": 4.0,
             "is_std": 0.6, "splits": 9, "n": 500, "extractor": "mnist", "seconds": 9.5,
             "loss": 0.3, "tau": 2.0, "before": {"fid": 20.0, "n": 500},
             "network_evaluations": {"training": 10, "sampling": 5}}  # fmt: skip
    again = {"fid": 14.0, "n": 500, "extractor": "mnist", "no_clip": True, "eta": 0.5}
    other = {"sampling_schedule": {"family": "knots", "knot_1": 1.0}, "told": "visited"}
    first["judged_again"] = [again, again | other, again | other | {"fid": 15.0}]
    records = [read_record(written(tmp_path / "a", first)),
               read_record(written(tmp_path / "b", {"fid": float("nan"), "n": 400}))]  # fmt: skip
    table = scores(records)
    assert row(table, "fid") == ["12.5", "nan"] and row(table, "fid_second") == ["7", "–"]
    assert row(table, "kid")[0] == "1.25 ± 0.12" and row(table, "is_mean")[0] == "4 ± 0.21"
    assert (
        row(table, "before: fid")[0] == "20"
        and row(table, "again, no_clip, eta 0.5: fid")[0] == "14"
    )
    drawn = "again, no_clip, eta 0.5, sampling_schedule knots, told visited"
    assert row(table, f"{drawn}: fid")[0] == "14" and row(table, f"{drawn} (2): fid")[0] == "15"
    assert row(table, "n") == ["500", "400"] and "here they differ" in table.note
    assert "here they differ" not in scores(records[:1]).note
    assert not any(name.endswith(": eta") for name, _ in table.rows)
    assert not {"tau", "loss", "seconds", "is_std", "kid_se"} & set(dict(table.rows))
    text = "\n".join(part.text(100) for part in all_tables(records))
    assert "35" in text and "standard error over the splits" in text  # 5 + 3 x 10 forward passes


def test_the_flags_that_differ(tmp_path):
    runs = [written(tmp_path / "a", lr=0.1, lr_beta=[1, 0.5], runs_dir="x"),
            written(tmp_path / "b", lr=0.2, lr_beta=[1, 0.5], runs_dir="y"),
            written(tmp_path / "c", kind="bilevel", lr=0.1, gamma="auto", delta=0.1)]  # fmt: skip
    (runs[0] / "schedule.json").write_text(json.dumps(SCHEDULE))
    (runs[1] / "schedule.json").write_text(json.dumps(SCHEDULE | {"tau": 3.5}))
    about = json.loads((runs[2] / "args.json").read_text()) | {"command": "x.py --gamma auto"}
    (runs[2] / "args.json").write_text(json.dumps(about))
    records = [read_record(run) for run in runs]
    two, three = (dict(differences(part).rows) for part in (records[:2], records))
    assert two["lr"] == ["0.1", "0.2"] and two["schedule: tau"] == ["2", "3.5"]
    assert not {"lr_beta", "runs_dir", "epochs", "kind"} & set(two)
    assert three["gamma"] == ["–", "–", "auto"] and "delta" not in three  # was not given
    assert three["kind"] == ["train", "train", "bilevel"]


def test_a_run_that_is_older_than_a_flag_is_a_seed_of_the_others(tmp_path):
    """It drew without noise, as --eta 0 does."""
    old = written(tmp_path / "old", {"fid": 10.0}, sampler="ddim")
    new = written(tmp_path / "new", {"fid": 14.0}, sampler="ddim", eta=0.0, seed=1)
    noisy = written(tmp_path / "noisy", {"fid": 1.0}, sampler="ddim", eta=1.0, seed=2)
    table = over_seeds([read_record(run) for run in (old, new, noisy)])
    assert table.head[0] == "old × 2" and row(table, "fid")[0] == "12 ± 2 (2)"


def test_seeds_are_taken_together(tmp_path):
    fids = {("a", 0): 10.0, ("a", 1): 14.0, ("b", 0): 9.0, ("b", 1): 11.0, ("b", 2): 40.0}
    records = [
        read_record(written(tmp_path / f"{name}{seed}", {"fid": fid}, seed=seed, lr=ord(name)))
        for (name, seed), fid in fids.items()
    ]
    same = written(tmp_path / "again", {"fid": 99.0}, seed=2, lr=ord("b"))
    table = over_seeds([*records[:4], read_record(same), records[4]])  # the last of a seed counts
    assert table.head == ["a0 × 2", "b0 × 3"]
    assert row(table, "fid") == ["12 ± 2 (2)", "20 ± 10 (3)"]
    assert row(table, "fid, difference") == ["–", "-2 ± 1 (2)"]  # seeds 0 and 1: -1 and -3
    assert not over_seeds(records[1::2]).rows  # nothing to take together


def test_a_flag_that_a_bilevel_run_does_not_read_makes_no_other_setting(tmp_path):
    records = [
        read_record(written(tmp_path / f"{kind}{n}", {"fid": 1.0}, kind, seed=n, frozen_updates=n))
        for kind in ("bilevel", "frozen")
        for n in (100, 200)
    ]
    assert over_seeds(records).head == ["bilevel100 × 2", "frozen100 × 1", "frozen200 × 1"]


def test_runs_on_other_images_are_no_seeds_of_one_another(tmp_path):
    records = []
    for seed, images in enumerate(("cats", "dogs")):
        folder = written(tmp_path / images, {"fid": 10.0}, seed=seed, data_dir=images)
        about = json.loads((folder / "args.json").read_text())
        (folder / "args.json").write_text(json.dumps(about | {"data": images}))
        records.append(read_record(folder))
    assert over_seeds(records).head == ["cats × 1", "dogs × 1"]


@pytest.mark.parametrize("name, content", [
    ("summary.json", {"peak_memory": [3]}), ("summary.json", {"network_evaluations": "many"}),
    ("summary.json", {"judged_again": [1]}), ("summary.json", {"fid": 10**400}),
    ("summary.json", {"n": [8]}), ("args.json", {"arguments": [1]}),
    ("summary.json", {"peak_memory": {"host": None}}),
])  # fmt: skip
def test_odd_content_is_damage(tmp_path, name, content):
    folder = written(tmp_path / "00000-train-seed0", {"fid": 9.0, "n": 8})
    whole = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(whole | content))
    record = read_record(folder)
    assert f"{name} is damaged" in record.notes
    assert all(table.text(100) for table in all_tables([record]))


def test_trials_of_odd_content_are_left_out(tmp_path):
    search = written(tmp_path / "00000-search-seed0", {"best": 0, "fid": 30.0}, kind="search")
    rows = [{"trial": 0, "objective": 3.0, "at": "noon"},
            {"trial": 1, "objective": 2.0, "at": 2.0, "network_evaluations": [1]}]  # fmt: skip
    (search / "search.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (curve,) = fid_curves([read_record(search)])
    assert curve.columns["best"] == [3.0] and math.isnan(curve.columns["seconds"][0])
