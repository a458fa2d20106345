"""Names of runs: every form, for every flag that takes a run, a checkpoint or a schedule."""

import json

import pytest

import train_mnist
import train_mnist_bilevel_ZO
from common import cli, evaluate
from common.errors import Stop
from common.locate import find_checkpoint, find_run, find_schedule, find_trained
from common.sampling import path_of

SCHEDULE = {"family": "cosine", "timesteps": 30, "start": 0, "end": 0.9, "tau": 2, "epsilon": 0.008}
RUNS = {  # folder -> files beside args.json
    "00002-bilevel-seed0": ("checkpoints/step_00000005.pt", "schedule.json", "summary.json"),
    "00003-train-seed0": ("checkpoints/step_00000005.pt", "checkpoints/step_00000010.pt",
                          "schedule.json"),
    "00004-search-seed0": ("schedule.json", "summary.json"),
    "00004-search-seed0/trials/000": ("checkpoints/step_00000005.pt",),
    "00004-search-seed0/trials/001": ("checkpoints/step_00000007.pt",),
    "00005-sample-seed0": ("summary.json",),
    "99999-train-seed1": ("schedule.json", "summary.json"),
    "100000-train-seed1": (),
}  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of runs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, files in RUNS.items():
        for file in ("args.json", *files):
            path = tmp_path / "runs" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"best": 1} if "search" in name and file == "summary.json" else SCHEDULE
            path.write_text(json.dumps(content))
    return tmp_path / "runs"


@pytest.mark.parametrize("name, folder", [
    ("3", "00003-train-seed0"), ("00003", "00003-train-seed0"), ("runs/3", "00003-train-seed0"),
    ("runs/00003", "00003-train-seed0"), ("runs/00003-train", "00003-train-seed0"),
    ("runs/00003-train-seed0", "00003-train-seed0"),
    ("runs/00003-train-seed0/", "00003-train-seed0"), ("100000", "100000-train-seed1"),
    ("99999", "99999-train-seed1"), ("latest", "100000-train-seed1"),
    ("runs/latest", "100000-train-seed1"), ("4/trials/1", "00004-search-seed0/trials/001"),
    ("runs/00004/trials/001", "00004-search-seed0/trials/001"),
    ("runs/00004-search-seed0/trials/001", "00004-search-seed0/trials/001"),
])  # fmt: skip
def test_every_form_of_a_name_is_one_run(runs, name, folder):
    assert find_run(name).resolve() == runs / folder
    assert find_run(str(runs / folder)) == runs / folder


def test_another_folder_of_runs(runs, monkeypatch):
    monkeypatch.chdir(runs)
    for name in ("3", "latest", "00004"):
        assert find_run(name, str(runs)).parent == runs
    assert find_run("3").resolve() == runs / "00003-train-seed0"  # from inside it, too
    assert find_run("../runs/latest").name == "100000-train-seed1"


@pytest.mark.parametrize("name, reason", [
    ("6", "not a run folder"), ("runs/6", "not a run folder"), ("none/latest", "no run in none"),
    ("runs", "not a run folder"), ("*", "not a run folder"), ("runs/0000[3]", "not a run folder"),
    ("4/trials/9", "not a run folder"), ("3.5", "not a run folder"), ("-3", "not a run folder"),
])  # fmt: skip
def test_what_is_no_run_is_one_line(runs, name, reason):
    with pytest.raises(ValueError, match=reason.replace("*", ".")):
        find_run(name)


def test_a_number_of_two_runs_names_neither(runs):
    other = runs / "00003-bilevel-seed0"
    other.mkdir()
    (other / "args.json").touch()
    with pytest.raises(ValueError, match="00003-bilevel-seed0 and 00003-train-seed0 both match"):
        find_run("3")
    assert find_run("runs/00003-train").name == "00003-train-seed0"


def test_latest_prefers_what_is_left_to_resume(runs):
    assert cli.find_run("runs", "train", "latest").name == "100000-train-seed1"
    (runs / "100000-train-seed1" / "summary.json").touch()
    assert cli.find_run("runs", "train", "latest").name == "00003-train-seed0"
    assert cli.find_run("runs", "bilevel", "latest").name == "00002-bilevel-seed0"
    with pytest.raises(ValueError, match="--resume latest: no frozen run in runs"):
        cli.find_run("runs", "frozen", "latest")


@pytest.mark.parametrize("name, file", [
    ("3", "00003-train-seed0/checkpoints/step_00000010.pt"),
    ("latest", "00003-train-seed0/checkpoints/step_00000010.pt"),
    ("4", "00004-search-seed0/trials/001/checkpoints/step_00000007.pt"),
    ("4/trials/0", "00004-search-seed0/trials/000/checkpoints/step_00000005.pt"),
    ("5", None), ("100000", None),
])  # fmt: skip
def test_a_run_is_its_newest_checkpoint(runs, name, file):
    if file:
        assert find_checkpoint(name) == f"runs/{file}"
        assert (
            find_trained(name) == path_of(name) == (runs / file).parents[1].relative_to(runs.parent)
        )
        return
    with pytest.raises(ValueError, match="neither a checkpoint nor a run that has one: no"):
        find_checkpoint(name)


@pytest.mark.parametrize(
    "find, name", [(find_checkpoint, "runs/00002/step_5.pt"), (find_schedule, "x.json")]
)
def test_a_file_that_is_missing_is_called_a_file(runs, find, name):
    with pytest.raises(ValueError, match=r"^no such file$"):
        find(name)


def test_a_run_is_its_schedule(runs):
    assert find_schedule("3") == "runs/00003-train-seed0/schedule.json"
    assert find_schedule("4") == "runs/00004-search-seed0/schedule.json"
    assert find_schedule("latest") == "runs/99999-train-seed1/schedule.json"
    assert find_schedule("runs/00003-train-seed0/schedule.json").startswith("runs/00003")
    with pytest.raises(ValueError, match=r"no schedule.json in runs/100000-train-seed1"):
        find_schedule("100000")


def parse(script, kind, argv):
    return cli.parse(script.make_parser(), kind, script.check, argv.split())


def test_the_flags_of_the_scripts_take_runs(runs, capsys):
    newest = "runs/00003-train-seed0/checkpoints/step_00000010.pt"
    for name in ("3", "runs/00003", "latest"):
        args = parse(train_mnist, "train", f"--ckpt {name} --sample_only")
        assert args.ckpt == newest
        frozen = parse(train_mnist_bilevel_ZO, "bilevel", f"--ckpt {name} --freeze_network")
        assert frozen.ckpt == newest
    args = parse(train_mnist, "train", "--schedule_from 2 --sampling_schedule 3 --backward_steps 3")
    assert (args.end, args.tau, args.timesteps) == (0.9, 2, 30)
    assert args.sampling_schedule == SCHEDULE
    assert args.schedule_from == "runs/00002-bilevel-seed0/schedule.json"
    args = parse(train_mnist, "train", f"--schedule_from 3 --runs_dir {runs} --backward_steps 3")
    assert args.schedule_from == str(runs / "00003-train-seed0" / "schedule.json")
    for flag in ("ckpt", "schedule_from", "sampling_schedule"):
        with pytest.raises(SystemExit):
            parse(train_mnist, "train", f"--{flag} 77")
        assert f"--{flag} 77: neither a" in capsys.readouterr().err
    assert evaluate.run_folder("4").name == "001"
    with pytest.raises(Stop, match="--run 5: no checkpoint in runs/00005-sample-seed0"):
        evaluate.run_folder("5")
    (runs / "00004-search-seed0" / "summary.json").unlink()
    with pytest.raises(Stop, match="unfinished search; name a trial"):
        evaluate.run_folder("4")
