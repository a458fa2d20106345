"""Which cells a comparison runs, and the schedules that they take from others."""

import itertools
import json
from pathlib import Path

import pytest
import torch

import reproduce
from common import checkpoint, errors
from common.tables import read_text_csv, write_csv
from comparison import report, results
from comparison.cells import Places, make_cells
from comparison.kept import Kept, results_path
from comparison.results import check_same, spent_of
from comparison.scales import KEY_ROWS, METHODS


def test_a_scale_runs_its_own_rows_unless_others_are_named():
    images = torch.zeros(50, 1, 8, 8)

    def asked(*words):
        args = reproduce.make_parser().parse_args(["--seeds", "1", *words])
        cells = reproduce.cells_of(args, reproduce.places_of(args), images)
        return tuple(cell.method for cell in cells)

    assert asked("--scale", "fashion") == KEY_ROWS
    assert asked("--scale", "fashion", "--methods", "tau 2") == ("tau 2",)
    assert asked("--scale", "fashion", "--collect") == tuple(METHODS)  # of what has been run
    assert asked("--scale", "cpu") == tuple(METHODS)
    left_out = set(METHODS) - set(asked("--scale", "paper"))  # its default has a hundred epochs
    assert left_out == {f"{x}, 30 epochs" for x in ("default", "end 0.9", "schedule alone")}


def test_a_plan_has_the_runs_that_a_method_begins_with(tmp_path, capsys):
    """Here the one that learns the schedule, which --methods does not name: it has no number."""
    words = ["--dry_run", "--seeds", "1", "--device", "cpu", "--runs_dir", str(tmp_path)]
    words += ["--results_dir", str(tmp_path)]
    method = "exact's schedule, anew"
    reproduce.main(reproduce.make_parser().parse_args([*words, "--methods", method]))
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("cell   –  exact ") and second.startswith(f"cell   0  {method} ")


def test_a_schedule_in_a_kept_row_is_trained_with_where_its_run_is_not_at_hand(tmp_path):
    """And what that run cost is counted."""
    path, images = tmp_path / "reproduce_quick.csv", torch.zeros(50, 1, 8, 8)
    places = Places(runs_dir=str(tmp_path / "runs"))
    source, cell = make_cells("quick", places, ["exact", "exact's schedule, anew"], [0], images)
    place = {"method": "exact", "seed": "0"}
    schedule = {"family": "cosine", "timesteps": 100, "end": 0.7}
    cost = {"seconds": "3.5", "training": "8", "upper": "5", "sampling": "2", "gradient_steps": "4"}
    row = {**place, **cost, "schedule": json.dumps(schedule), "command": source.command}
    write_csv(path, [place])
    write_csv(results_path(path, "runs"), [row])
    kept = Kept(path, [source, cell], [cell])
    assert [c.method for c in kept.missing([cell])] == ["exact", "exact's schedule, anew"]
    kept.offer_schedules([cell])
    assert kept.missing([cell]) == [cell] and cell.ready
    cell.root.mkdir(parents=True)
    cell.prepare()
    flags = dict(itertools.pairwise(cell.argv()))
    assert json.loads(Path(flags["--schedule_from"]).read_text()) == schedule

    # once it is done, whatever rows there are
    leave_run(cell, {"seconds": 1.5, "network_evaluations": {"training": 6}, "steps": 3})
    results_path(path, "runs").unlink()
    (again,) = make_cells("quick", places, ["exact's schedule, anew"], [0], images)
    spent = {"training": 14, "upper": 5, "sampling": 2}
    assert spent_of(again) == {"seconds": 5.0, "cost": spent, "steps": 7} and again.ready


def leave_run(cell, summary, **files):
    folder = cell.root / f"00000-{cell.kind}-seed{cell.seed}"
    folder.mkdir(parents=True)
    for name, content in {"args": {"arguments": {}}, "summary": summary, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_a_run_with_a_schedule_that_its_source_no_longer_has_is_refused(tmp_path):
    images, places = torch.zeros(50, 1, 8, 8), Places(runs_dir=str(tmp_path))
    (cell,) = make_cells("quick", places, ["exact's schedule, anew"], [0], images)
    leave_run(cell, {}, args={"arguments": {}}, schedule={"end": 0.7})
    leave_run(cell.source, {}, schedule={"end": 0.7})
    assert check_same(cell) == {"arguments": {}}
    (cell.source.folder / "schedule.json").write_text('{"end": 0.8}')
    with pytest.raises(errors.Stop, match=r"another schedule than .*exact-seed0"):
        check_same(cell)


def test_what_a_run_begins_with_was_made_with_the_flags_of_now(tmp_path):
    """Its own run, which another comparison may not look at, or the row that it was lent."""
    images, places = torch.zeros(50, 1, 8, 8), Places(runs_dir=str(tmp_path))
    methods = ["schedule alone", "exact's schedule, anew"]
    alone, anew = make_cells("quick", places, methods, [0], images)
    leave_run(alone, {})
    leave_run(alone.network, {}, args={"arguments": {"epochs": 99}})
    with pytest.raises(errors.Stop, match=r"default-seed0.*ran with --epochs 99"):
        check_same(alone)
    leave_run(anew, {})
    for flags, said in ((" --threads 3", None), (" --epochs 9", "a row that was made with other")):
        row = {"command": anew.source.command + flags}
        (anew.root / "lent_row.json").write_text(json.dumps(row))
        if said:
            with pytest.raises(errors.Stop, match=said):
                check_same(anew)
        else:
            check_same(anew)


def test_a_flag_that_a_bilevel_run_does_not_read_may_have_another_default_by_now(tmp_path):
    images, places = torch.zeros(50, 1, 8, 8), Places(runs_dir=str(tmp_path))
    methods = ["exact, late", "schedule alone"]
    late, alone = make_cells("quick", places, methods, [0], images)
    for cell in (late, alone, alone.network):
        flags = {"frozen_updates": 7} if cell.kind != "train" else {}
        leave_run(cell, {}, args={"arguments": flags})
    check_same(late)
    with pytest.raises(errors.Stop, match="ran with --frozen_updates 7"):
        check_same(alone)


def test_a_schedule_learned_for_another_network_is_refused(tmp_path):
    images, places = torch.zeros(50, 1, 8, 8), Places(runs_dir=str(tmp_path))
    (cell,) = make_cells("quick", places, ["schedule alone"], [0], images)
    leave_run(cell.network, {})
    weights = cell.network.folder / "checkpoints"
    checkpoint.save_numbered(weights, 1, {"ema": {"w": torch.zeros(3)}, "elapsed": 1})
    cell.root.mkdir(parents=True)
    cell.prepare()
    leave_run(cell, {}, args={"arguments": {}})
    assert check_same(cell) == {"arguments": {}}
    # the same weights, trained anew, and others
    checkpoint.save_numbered(weights, 1, {"ema": {"w": torch.zeros(3)}, "elapsed": 2})
    assert check_same(cell) == {"arguments": {}}
    checkpoint.save_numbered(weights, 1, {"ema": {"w": torch.ones(3)}, "elapsed": 1})
    with pytest.raises(errors.Stop, match=r"another network than .*default-seed0"):
        check_same(cell)


def test_a_row_goes_when_what_it_begins_with_has_other_flags(tmp_path):
    path, images = tmp_path / "reproduce_quick.csv", torch.zeros(50, 1, 8, 8)
    methods = ["default", "schedule alone", "end 0.9"]
    cells = make_cells("quick", Places(runs_dir=str(tmp_path)), methods, [0], images)
    rows = [{"method": c.method, "seed": "0", "command": c.command} for c in cells]
    for changed, held in (
        (" --threads 4", [True, True, True]),
        (" --epochs 9", [False, False, True]),
    ):
        rows[0]["command"] += changed
        for name in ("", "runs"):
            write_csv(results_path(path, name), rows)
        kept = Kept(path, cells, cells)
        assert [kept.holds(cell) for cell in cells] == held


def test_a_run_is_not_judged_without_the_one_that_it_begins_with(tmp_path, capsys):
    """Its cost would be told without that of the other; rows that there are stay."""
    path, images = tmp_path / "reproduce_quick.csv", torch.zeros(50, 1, 8, 8)
    (cell,) = make_cells("quick", Places(runs_dir=str(tmp_path)), ["schedule alone"], [0], images)
    row = {"method": cell.method, "seed": "0", "command": cell.command}
    for name in ("", "runs"):
        write_csv(results_path(path, name), [row])
    leave_run(cell, {})
    args = reproduce.make_parser().parse_args(["--runs_dir", str(tmp_path)])
    reproduce.write_results(args, path, [cell], Kept(path, [cell], [cell]))
    assert "not judged, since the run that it needs" in capsys.readouterr().out
    assert read_text_csv(path) == [row]


def test_a_plan_leaves_out_a_source_whose_rows_are_kept(tmp_path, capsys):
    """But for --fresh, which takes none of the rows that it makes anew."""
    places, images = Places(device="cpu"), torch.zeros(50, 1, 8, 8)
    (source,) = make_cells("quick", places, ["exact"], [0], images)
    place = {"method": "exact", "seed": "0"}
    write_csv(tmp_path / "reproduce_quick.csv", [place])
    write_csv(tmp_path / "reproduce_quick_runs.csv", [{**place, "command": source.command}])
    words = ["--dry_run", "--seeds", "1", "--device", "cpu", "--results_dir", str(tmp_path)]
    words += ["--runs_dir", str(tmp_path / "runs")]
    method = "exact's schedule, anew"
    for asked, planned in (([method], "1 run"), (["exact", method, "--fresh"], "2 runs")):
        reproduce.main(reproduce.make_parser().parse_args([*words, "--methods", *asked]))
        assert f"\n{planned}, " in capsys.readouterr().out


def test_a_plan_for_a_gpu_projects_hours(capsys):
    costs = [(0, "default", 0, 7200, False)]
    for projected, said in ((None, False), (2.0, True)):
        report.print_plan(costs, 1.0, 1, projected)
        out = capsys.readouterr().out
        assert "2.0 hours one after the other" in out and ("H100" in out) == said
    assert "peak: 60.0 minutes," in out


def test_a_frozen_row_is_judged_by_the_sampler_that_it_names(tmp_path, monkeypatch):
    """Its factor of the predicted noise and its spacing are its own, the rest the network's."""
    places = Places(runs_dir=str(tmp_path), device="cpu")
    name = "eps_scale 1.15 in sampling"
    (cell,) = make_cells("quick", places, [name], [0], torch.zeros(50, 1, 8, 8))
    monkeypatch.setattr(results.checkpoint, "newest", lambda folder: folder / "step.pt")
    for one, script in ((cell, "frozen"), (cell.network, "train")):
        folder = one.root / f"00000-{script}-seed0"
        folder.mkdir(parents=True)
        arguments = vars(one.parsed()) | {"backward_steps": 7 if one is cell else 5}
        checkpoint.write_json(folder / "args.json", {"arguments": arguments})
        checkpoint.write_json(folder / "summary.json", {})
    checkpoint.write_json(cell.folder / "schedule.json", {"told": "visited"})
    path, arguments, changes = results.network_of(cell)
    assert path == cell.network.folder / "step.pt" and changes["told"] == "visited"
    assert arguments["eps_scale"] == 1.15 and arguments["backward_steps"] == 5
    assert results.network_of(cell.network)[1]["eps_scale"] == 1
