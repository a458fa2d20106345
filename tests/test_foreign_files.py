"""A run's folder that was edited, mixed up or made by someone else: refused, named, no harm."""

import json
import os
import shlex
import shutil
import signal
from itertools import product

import numpy as np
import pytest
import torch
from harness import Script
from test_checkpoint import CALLS, Payload
from test_runs import TINY, DieAtStep

import train_mnist_bayesian
from common import checkpoint, cli
from common.datasets import idx_file
from common.errors import NOT_FINITE, Stop
from common.extractors import load_extractor
from common.reference_cache import read_statistics
from common.run import Run
from common.run_files import Tables, refuse_links
from studies.reward import options
from train_mnist import check, make_parser


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was killed after its seventh step."""
    script = Script(tmp_path_factory.mktemp("begun"))
    assert script.run(*TINY, sabotage=DieAtStep(7)) == -signal.SIGKILL
    return script


@pytest.fixture
def copy(begun, tmp_path):
    """A copy of it, to be spoiled."""
    shutil.copytree(begun.folder / "runs", tmp_path / "runs")
    return Script(tmp_path)


def edit(script, **values):
    path = script.only / "args.json"
    content = json.loads(path.read_text())
    content["arguments"] |= values
    path.write_text(json.dumps(content))


def refused(script, *argv, code=1) -> str:
    assert script.run("--resume", "latest", *argv) == code, script.said()
    assert "Traceback" not in script.said() and script.said().count("train_mnist.py: ") == 1
    return script.last_line()


# --- a checkpoint knows its run -----------------------------------------------------------------


@pytest.mark.parametrize("name, value", [
    ("seed", 5), ("lr", 0.5), ("model_base_dim", 8), ("batch_size", 16), ("tau", 2.0),
])  # fmt: skip
def test_args_that_were_edited_are_not_the_checkpoints(copy, name, value):
    edit(copy, **{name: value})
    said = refused(copy)
    assert f"its --{name} was" in said and "step_00000007.pt" in said


@pytest.mark.parametrize("flag, value", [("--seed", "1"), ("--model_base_dim", "8")])
def test_a_checkpoint_of_another_run_is_refused(copy, tmp_path, flag, value):
    other = Script(tmp_path / "other")
    other.folder.mkdir()
    assert other.run(*TINY, flag, value, sabotage=DieAtStep(8)) == -signal.SIGKILL
    shutil.copy(other.only / "checkpoints" / "step_00000008.pt", copy.only / "checkpoints")
    assert f"its {flag} was {value}" in refused(copy)


@pytest.mark.parametrize("content", [
    "[]", "{}", '{"kind": "train", "arguments": 3}', "[" * 100_000, "", "\xff", '{"kind":',
    '{"kind": "train", "arguments": {"lr": "x"}}', '{"kind": "train", "arguments": {"lr": true}}',
    '{"kind": "train", "arguments": {"lr": -1}}',
    '{"kind": "train", "arguments": {"epochs": ' + "9" * 400 + "}}",
    '{"kind": "train", "arguments": {"sampling_schedule": {"family": []}}}',
    '{"kind": "train", "arguments": {"device": "cuda:123456789012"}}',
    '{"kind": "train", "arguments": {"no_clip": "yes"}, "earlier": 3}',
    '{"kind": "train", "arguments": {"model_base_dim": 1e300}}',
])  # fmt: skip
def test_an_args_json_that_no_run_wrote_is_one_line(tmp_path, content, capsys):
    folder = tmp_path / "00000-train-seed0"
    folder.mkdir()
    (folder / "args.json").write_bytes(content.encode("latin1"))
    with pytest.raises(SystemExit) as stopped:
        cli.parse(make_parser(), "train", check, ["--resume", str(folder)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    reasons = ("cannot be read", "is not a value of its flag", "not a noise schedule", "no 'time")
    assert any(reason in said for reason in reasons), said


def test_a_flag_of_another_version_is_left_out(tmp_path):
    folder = tmp_path / "00000-train-seed0"
    folder.mkdir()
    stored = {"kind": "train", "arguments": {"dataset": "digits", "lr": 0.5, "fix": "start"}}
    (folder / "args.json").write_text(json.dumps(stored))
    args = cli.parse(make_parser(), "train", check, ["--resume", str(folder)])
    assert args.lr == 0.5 and args.dataset == "digits" and not hasattr(args, "fix")


@pytest.mark.parametrize("spoil", [
    lambda s: s.pop("facts"), lambda s: s.pop("files"), lambda s: s.update(theta={"net": 3}),
    lambda s: s.update(files={"losses.csv": 3}), lambda s: s.update(progress=None),
    lambda s: s["theta"]["net"].pop(next(iter(s["theta"]["net"]))), lambda s: s.update(args=[]),
    lambda s: s["theta"].update(optimizer={"state": {}, "param_groups": []}),
    lambda s: s.update(evaluations=1.5), lambda s: s.update(elapsed="long"),
    lambda s: s.update(facts={"data": "another"}), lambda s: s.update(kind="bilevel"),
    lambda s: s["evaluations"].update(training="many"),
    lambda s: s["theta"]["optimizer"]["state"][0].pop("exp_avg_sq"),  # missed by the next step
])  # fmt: skip
def test_a_sealed_checkpoint_with_odd_content_is_one_line(copy, spoil):
    for path in (copy.only / "checkpoints").iterdir():
        state = checkpoint.load(path)
        spoil(state)
        checkpoint.save(path, state)
    assert "checkpoint" in refused(copy)


# --- a lower rate -------------------------------------------------------------------------------


def test_a_rate_may_be_lowered_and_the_run_remembers_it(copy, begun, tmp_path):
    shutil.copytree(begun.folder / "runs", tmp_path / "untouched" / "runs")
    untouched = Script(tmp_path / "untouched")
    (copy.only / NOT_FINITE).write_text("{}")  # as a run leaves it that met such a number
    assert copy.run("--resume", "latest", "--lr", "0.0005", sabotage=DieAtStep(9)) == -9
    assert copy.run("--resume", "latest") == 0, copy.said()
    about = json.loads((copy.only / "args.json").read_text())
    assert about["arguments"]["lr"] == 0.0005 and about["earlier"] == {"lr": [0.001]}
    assert "--lr was 0.001, from here on it is 0.0005" in copy.said()
    assert untouched.run("--resume", "latest") == 0
    rates = [Tables(s.only).columns("losses.csv")["lr"] for s in (untouched, copy)]
    assert rates[1][:3] == rates[0][:3]  # steps 2, 4 and 6 were before
    assert rates[1][3:] == pytest.approx([rate / 2 for rate in rates[0][3:]])


def test_the_rate_of_a_search_stays(tmp_path, capsys):
    import train_mnist_bayesian as search

    folder = tmp_path / "00000-search-seed0"
    folder.mkdir()
    content = {"kind": "search", "arguments": {"lr": 0.001}}
    (folder / "args.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        argv = ["--resume", str(folder), "--lr", "0.1"]
        cli.parse(search.make_parser(), "search", search.check, argv)
    assert "--lr differs" in capsys.readouterr().err


# --- tables -------------------------------------------------------------------------------------


def test_a_table_that_was_saved_by_a_spreadsheet_or_cut_is_refused(copy):
    path = copy.only / "losses.csv"
    whole = path.read_bytes()
    for content in (whole.replace(b"\n", b"\r\n"), whole[:-30], b""):
        path.write_bytes(content)
        assert copy.run("--resume", "latest") == 1
        assert "losses.csv: changed since the checkpoint" in copy.last_line()
        assert path.read_bytes() == content  # it is left for its owner to mend
    path.write_bytes(whole)
    assert copy.run("--resume", "latest") == 0, copy.said()


def test_a_table_that_is_gone_is_said_and_others_are_left_alone(copy):
    (copy.only / "losses.csv").unlink()
    (copy.only / "notes.csv").write_text("of the user\n")
    assert copy.run("--resume", "latest") == 0, copy.said()
    assert "losses.csv is gone" in copy.said()
    assert (copy.only / "notes.csv").read_text() == "of the user\n"
    assert Tables(copy.only).columns("losses.csv")["step"] == [8, 10]


def test_rows_after_the_mark_are_cut(tmp_path):
    tables = Tables(tmp_path)
    tables.row("losses.csv", {"step": 1})
    mark, kept = tables.mark(), tables.path("losses.csv").read_bytes()
    tables.row("losses.csv", {"step": 2})
    tables.row("scores.csv", {"epoch": 1})
    Tables(tmp_path).go_back(mark, pytest.fail)
    assert tables.path("losses.csv").read_bytes() == kept
    assert tables.path("scores.csv").read_bytes() == b""


def test_rows_are_on_the_disk_before_a_checkpoint_counts_them(tmp_path, monkeypatch):
    synced, tables = [], Tables(tmp_path)
    monkeypatch.setattr(os, "fsync", synced.append)
    tables.row("losses.csv", {"step": 1})
    tables.row("scores.csv", {"epoch": 1})
    tables.mark()
    assert len(synced) == 2


# --- nothing is written outside -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["losses.csv", "log.txt", ".lock", "summary.json", "samples/x.png"]
)
def test_a_link_in_a_run_folder_is_refused(copy, tmp_path, name):
    victim, path = tmp_path / "victim", copy.only / name
    victim.write_text("untouched")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    assert name in refused(copy, code=2)
    assert victim.read_text() == "untouched"


def test_a_pipe_in_a_run_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(Stop, match="neither a file nor a folder"):
        refuse_links(tmp_path)


def test_a_temporary_file_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "a.json.tmp").symlink_to(tmp_path / "victim")
    checkpoint.write_atomically(tmp_path / "a.json", b"new")
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (tmp_path / "a.json").read_bytes() == b"new" and not (tmp_path / "a.json").is_symlink()


def test_where_a_cache_is_written_is_not_for_a_run_folder_to_say(tmp_path):
    folder = tmp_path / "00000-train-seed0"
    folder.mkdir()
    stored = {"cache_dir": "/elsewhere", "runs_dir": "/elsewhere", "dataset": "digits"}
    (folder / "args.json").write_text(json.dumps({"kind": "train", "arguments": stored}))
    args = cli.parse(make_parser(), "train", check, ["--resume", str(folder)])
    assert (args.cache_dir, args.runs_dir) == ("cache", "runs")


@pytest.mark.parametrize("kind, module, name, words", [
    ("reward", options, "lower_reward", ["json:dumps"]),
    ("reward", options, "upper_reward", ["json:dumps"]),
    ("reward", options, "pipeline", ["some/pipeline"]),
    ("search", train_mnist_bayesian, "executor_options", ["cluster=local", "setup=echo here"]),
])  # fmt: skip
def test_code_that_a_run_folder_names_is_run_if_the_command_line_names_it(
    tmp_path, kind, module, name, words, capsys
):
    def parse(*given):
        argv = ["--resume", str(folder), *given]
        return cli.parse(module.make_parser(), kind, module.check, argv)

    folder = tmp_path / f"00000-{kind}-seed0"
    folder.mkdir()
    others, engine = ["--dataset", "digits"], ["--executor", "submitit"]
    if kind == "reward":
        engine = []
        rewards = {"lower_reward", "upper_reward"} - {name}
        others = [word for reward in rewards for word in (f"--{reward}", "json:dumps")]
    parser = module.make_parser()
    stored = vars(parser.parse_args([*others, *engine, f"--{name}", *words]))
    (folder / "args.json").write_text(json.dumps({"kind": kind, "arguments": stored}))
    with pytest.raises(SystemExit) as stopped:
        parse(*others)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert f"if you trust it, add --{name} {shlex.join(words)}" in said
    assert getattr(parse(*others, f"--{name}", *words), name) == stored[name]
    if kind == "search":
        with pytest.raises(SystemExit):  # the same engine as before has the same options
            parse("--executor", "submitit")
        capsys.readouterr()
        # another one does not
        assert parse("--executor", "local").executor_options is None


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
def test_code_in_a_file_of_inception_weights_is_not_run(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_text("here")
    torch.save({"fc.weight": Payload(*call)}, tmp_path / "evil.pth")
    with pytest.raises(Stop, match=r"evil\.pth"):
        load_extractor("inception", "cpu", "evil.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth", "victim"]


def test_an_npy_in_the_place_of_a_cache_is_computed_again(tmp_path):
    with open(tmp_path / "cache.npz", "wb") as file:
        np.save(file, np.eye(3))
    with pytest.warns(UserWarning, match="damaged"):
        assert read_statistics(tmp_path / "cache.npz", {}) is None


def test_after_99999_comes_100000(tmp_path):
    """Neither an endless loop nor a number that is taken; the latest is the highest."""
    for name in ("99999-x", "100000-train-seed0", "notes", "00003-train"):
        (tmp_path / name).mkdir()
    arguments = {"resume": None, "runs_dir": str(tmp_path), "save_seconds": 1, "seed": 0, "lr": 1.0}
    with Run.open("train", arguments, torch.device("cpu")) as run:
        assert run.folder.name == "100001-train-seed0"
    for name in ("99999-train-seed0", "100000-train-seed0"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "args.json").touch()
    assert cli.find_run(str(tmp_path), "train", "latest") == run.folder


# --- data that moved ----------------------------------------------------------------------------


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A run that was started in `old` with --data_dir data; its four files may lie anywhere."""
    folder = tmp_path / "runs" / "00000-train-seed0"
    folder.mkdir(parents=True)
    content = {"kind": "train", "directory": str(tmp_path / "old")}
    (folder / "args.json").write_text(json.dumps({**content, "arguments": {"data_dir": "data"}}))
    monkeypatch.chdir(tmp_path)

    def parse(place, *argv, ending=""):
        raw = tmp_path / place / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for split, what in product(("train", "test"), ("images", "labels")):
            (raw / f"{idx_file(split, what)}{ending}").touch()
        return cli.parse(make_parser(), "train", check, ["--resume", str(folder), *argv]).data_dir

    return parse


def test_data_are_found_from_another_folder(moved, tmp_path):
    assert moved("old/data") == str(tmp_path / "old" / "data")


def test_data_may_have_moved(moved, capsys):
    assert moved("new", "--data_dir", "new") == "new"
    assert moved("packed", "--data_dir", "packed", ending=".gz") == "packed"
    with pytest.raises(SystemExit):
        moved("third")
    assert "--data_dir names the folder" in capsys.readouterr().err


def test_other_data_are_refused(tmp_path):
    arguments = {"resume": str(tmp_path), "save_seconds": 1, "seed": 0, "lr": 1.0}
    with Run.open("train", arguments, torch.device("cpu"), data="these"):
        pass
    with pytest.raises(Stop, match="the data was these, now it is those"):
        Run.open("train", arguments, torch.device("cpu"), data="those")
