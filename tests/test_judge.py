"""common.evaluate: judges a run again and leaves the numbers in its summary."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import Script, TwoLayers
from test_runs import TINY

from common import checkpoint, errors, evaluate, networks

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The runs folder of one tiny run."""
    script = Script(tmp_path_factory.mktemp("judged"))
    assert script.run(*TINY) == 0, script.said()
    return script.folder / "runs"


@pytest.fixture
def judge(tmp_path, monkeypatch, capsys):
    """Runs the command in this process; returns the exit code and what it said on stderr."""
    monkeypatch.setattr(networks, "network_class", lambda _: TwoLayers)
    threads = torch.get_num_threads()

    def judged(*words):
        argv = [*map(str, words), "--cache_dir", str(tmp_path / "cache")]
        code = errors.guarded(
            evaluate.judge_again, evaluate.make_parser().parse_args(argv), "evaluate"
        )
        judged.out, err = capsys.readouterr()
        return code, err

    yield judged
    torch.set_num_threads(threads)


def summary_of(runs):
    return json.loads((runs / "00000-train-seed0" / "summary.json").read_text())


def test_a_run_is_judged_again_by_its_short_name(trained, judge):
    before = summary_of(trained)
    assert judge("--run", trained / "00000", "--eval_samples", 60) == (0, "")
    more = "--eval_samples", 30, "--backward_steps", 3
    assert judge("--run", trained / "00000-train-seed0", *more) == (0, "")
    after = summary_of(trained)
    first, second = after.pop("judged_again")
    assert after == before  # what the run itself reported stays
    assert first["n"] == 60 and second["n"] == 30
    for scores in (first, second):
        assert scores["extractor"] == "mnist" and scores["reference"] == "digits test, 360 images"
        assert scores["fid"] > 0 and scores["is_mean"] >= 1
        assert scores["checkpoint"] == "step_00000010.pt"
    assert json.loads(judge.out) == {k: v for k, v in second.items() if k != "checkpoint"}
    assert second["backward_steps"] == 3


def test_the_same_question_gives_the_same_answer(trained, judge):
    said = []
    for _ in range(2):
        assert judge("--run", trained / "00000", "--eval_samples", 20)[0] == 0
        said.append(judge.out)
    assert said[0] == said[1]


def test_judging_an_unfinished_run_does_not_make_it_look_complete(trained, judge, tmp_path):
    folder = tmp_path / "00007-train-seed0"
    (folder / "checkpoints").mkdir(parents=True)
    newest = sorted((trained / "00000-train-seed0" / "checkpoints").iterdir())[-1]
    (folder / "checkpoints" / newest.name).write_bytes(newest.read_bytes())
    assert judge("--run", folder, "--eval_samples", 20)[0] == 0
    assert json.loads(judge.out)["n"] == 20
    assert not (folder / "summary.json").exists()


def test_what_cannot_be_judged_is_one_line(trained, judge, tmp_path):
    for name in ("00000-train-seed0", "00000-bilevel-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args.json").touch()
    empty = tmp_path / "00000-train-seed0"
    for where, says in (
        (trained / "00009", "not a run folder"),
        (tmp_path / "00000", "both match"),
        (empty, "no checkpoint"),
    ):
        code, said = judge("--run", where, "--eval_samples", 20)
        assert code == 2 and str(where) in said and says in said
        assert said.count("\n") == 1 and said.startswith("evaluate: ")
        assert not list(tmp_path.glob("*/summary.json"))


def test_a_damaged_checkpoint_is_named(trained, judge, tmp_path):
    folder = tmp_path / "00000-train-seed0" / "checkpoints"
    folder.mkdir(parents=True)
    folder.with_name("args.json").touch()
    (folder / "step_00000010.pt").write_bytes(b"DIFFCKP1" + bytes(100))
    code, said = judge("--run", tmp_path / "00000", "--eval_samples", 20)
    assert code == 1 and "step_00000010.pt: damaged" in said and said.count("\n") == 1


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(trained, judge, tmp_path):
    folder = tmp_path / "00000-train-seed0" / "checkpoints"
    folder.mkdir(parents=True)
    folder.with_name("args.json").touch()
    newest = sorted((trained / "00000-train-seed0" / "checkpoints").iterdir())[-1]
    (folder / "step_00000009.pt").write_bytes(newest.read_bytes())
    (folder / "step_00000010.pt").write_bytes(newest.read_bytes()[:-1])
    code, stderr = judge("--run", tmp_path / "00000", "--eval_samples", 20)
    assert code == 0 and "step_00000010.pt: damaged" in stderr and "going back" in stderr
    assert json.loads(judge.out)["n"] == 20


@pytest.mark.parametrize("name, value", [
    ("dataset", "nan"), ("image_size", 3), ("data_dir", 10**400), ("extractor", "x" * 5000),
    ("eval_chunk", 0), ("sampler", ""), ("input_scale", -1.0), ("model_base_dim", 10**400),
    ("told", []), ("inception_weights", True),
])  # fmt: skip
def test_odd_flags_of_a_checkpoint_are_one_line(trained, judge, tmp_path, name, value):
    code, said = judge("--run", with_flags(trained, tmp_path, **{name: value}))
    assert code == 1 and f"its {name} is" in said and said.count("\n") == 1


def with_flags(trained, folder, **flags):
    """A folder with the run's last checkpoint, sealed with other flags."""
    state, path = checkpoint.load_newest(trained / "00000-train-seed0" / "checkpoints")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    state["args"] |= flags
    checkpoint.save(folder / "run" / "checkpoints" / path.name, state)
    return folder / "run"


def test_nothing_is_downloaded_to_where_a_checkpoint_says(trained, judge, tmp_path):
    place = tmp_path / "elsewhere"
    run = with_flags(trained, tmp_path, dataset="mnist", data_dir=str(place))
    code, said = judge("--run", run, "--eval_samples", 20)
    assert code == 2 and "--data_dir names the folder" in said and said.count("\n") == 1
    assert not place.exists()


def test_a_checkpoint_may_be_older_than_a_flag(trained, judge, tmp_path):
    run = with_flags(trained, tmp_path)
    (path,) = (run / "checkpoints").iterdir()
    state = checkpoint.load(path)
    of_later = "extractor inception_weights told image_size time_condition eta eps_scale"
    for name in of_later.split():
        del state["args"][name]
    checkpoint.save(path, state)
    assert judge("--run", run, "--eval_samples", 20) == (0, "")


def test_a_damaged_summary_is_named(trained, judge, tmp_path):
    run = with_flags(trained, tmp_path)
    (run / "summary.json").write_text('{"judged_again": 3}')
    code, said = judge("--run", run, "--eval_samples", 20)
    assert code == 1 and "summary.json: damaged" in said and said.count("\n") == 1
    assert (run / "summary.json").read_text() == '{"judged_again": 3}'


def test_weights_that_no_extractor_reads_are_refused(trained, judge, tmp_path):
    code, said = judge("--run", trained / "00000", "--inception_weights", "x.pth")
    assert code == 2 and "--extractor inception" in said
    run = with_flags(trained, tmp_path, extractor="inception")
    code, said = judge("--run", run, "--eval_samples", 20, "--inception_weights", "x.pth")
    assert code and "x.pth" in said  # its own extractor reads them


def test_a_later_evaluation_records_what_it_was_told(trained, judge, tmp_path):
    run = with_flags(trained, tmp_path, sampling_schedule="linear", told="nearest")
    (run / "summary.json").write_text("{}")
    assert judge("--run", run, "--eval_samples", 20, "--told", "visited") == (0, "")
    (entry,) = json.loads((run / "summary.json").read_text())["judged_again"]
    assert (entry["sampling_schedule"], entry["told"]) == ("linear", "visited")


def test_sampling_is_as_asked(trained, judge):
    run = trained / "00000"
    fids = {}
    others = ("--backward_steps", 2), ("--eta", 0.5), ("--eps_scale", 1.1), ("--threads", 1)
    for flags in ((), ("--no_clip",), *others):
        assert judge("--run", run, "--eval_samples", 20, *flags) == (0, "")
        fids[flags] = json.loads(judge.out)["fid"]
    assert len(set(fids.values())) == 5 and fids[()] == fids["--threads", 1]
    asked = summary_of(trained)["judged_again"][-6:]
    for i, name, value in (
        (1, "no_clip", True), (2, "backward_steps", 2), (3, "eta", 0.5), (4, "eps_scale", 1.1),
    ):  # fmt: skip
        assert [entry.get(name) for entry in asked] == [value if k == i else None for k in range(6)]
    code, stderr = judge("--run", run, "--backward_steps", 99999)
    assert code == 2 and "--backward_steps 99999 exceeds" in stderr


def test_a_run_that_did_not_clip_is_judged_with_clipping_too(trained, judge, tmp_path):
    run = with_flags(trained, tmp_path, no_clip=True)
    fids = {}
    for flag in ("--no_clip", "--clip"):
        assert judge("--run", run, "--eval_samples", 20, flag) == (0, "")
        fids[flag] = json.loads(judge.out)
    assert judge("--run", trained / "00000", "--eval_samples", 20) == (0, "")
    assert json.loads(judge.out)["fid"] == fids["--clip"]["fid"] != fids["--no_clip"]["fid"]
    assert [scores["no_clip"] for scores in fids.values()] == [True, False]
    with pytest.raises(SystemExit, match="2"):
        judge("--run", run, "--clip", "--no_clip")


def test_ddpm_has_an_eta_and_steps_of_its_own(trained, judge, tmp_path):
    run = with_flags(trained, tmp_path, sampler="ddpm")
    for name, value in (("--eta", 0.5), ("--backward_steps", 2)):
        code, said = judge("--run", run, name, value)
        assert code == 2 and f"{name}: the run samples with --sampler ddpm" in said


def test_latest_is_the_newest_run_with_a_checkpoint(trained, judge, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert judge("--run", "latest", "--eval_samples", 20) == (0, "")
    monkeypatch.chdir(trained)
    code, stderr = judge("--run", "latest", "--eval_samples", 20)
    assert code == 2 and "no run with a checkpoint" in stderr


@pytest.mark.parametrize("flags", [
    "", "--run x --eval_samples 1", "--run x --eval_samples nan", "--run x --extractor other",
    "--run x --what", "x", "--run x --device tpu", "--run x --device cuda:x",
])  # fmt: skip
def test_wrong_flags_are_one_line(capsys, flags):
    with pytest.raises(SystemExit) as stopped:
        evaluate.make_parser().parse_args(flags.split())
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_command_itself():
    command = [sys.executable, "-m", "common.evaluate", "--run", "runs/00003"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("evaluate: --run runs/00003: not a run folder")
    assert done.stderr.count("\n") == 1
