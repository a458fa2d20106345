"""The command line: published flags, wrong values, and no flag that nothing reads."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

import cli
import train_mnist

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {"train": train_mnist}
PUBLISHED = {
    "lr": 0.001, "batch_size": 128, "epochs": 100, "ckpt": "", "n_samples": 36,
    "model_base_dim": 64, "timesteps": 1000, "backward_steps": 100, "tau_type": "linear",
    "model_ema_steps": 10, "model_ema_decay": 0.995, "log_freq": 10, "cpu": False, "no_clip": False,
    "start": 0.0, "end": 1.0, "epsilon": 0.008, "tau": 1.0, "scheduler_type": "cosine",
}  # fmt: skip


def parse(script, *words):
    parser = SCRIPTS[script].make_parser()
    return cli.parse(parser, script, SCRIPTS[script].check, [str(w) for w in words])


def test_the_published_defaults():
    args = vars(parse("train"))
    assert {name: args[name] for name in PUBLISHED} == PUBLISHED


WRONG = ["", "x", "nan", "inf", "-inf", "-1", "1e400", "0x10", "1,5", "--"]
COUNTS = """timesteps epochs batch_size model_ema_steps limit_batches n_samples backward_steps
    fid_samples eval_samples seed threads log_freq model_base_dim""".split()
NUMBERS = "input_scale lr model_ema_decay save_seconds".split()
CHOICES = "dataset scheduler_type lr_schedule tau_type sampler extractor device".split()
VALUES = [
    *product(COUNTS, [*WRONG, "1.5"]),
    *product(NUMBERS, WRONG),
    *product(["start", "end", "tau", "epsilon"], [*WRONG, "-0.5", "1e300"][:9]),
    *product(CHOICES, ["", "x", "cosin", "cpu:0"]),
]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        parse("train", *words)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and "error: " in said.err
    return said.err


def test_wrong_values_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(VALUES) >= 240
    for name, value in VALUES:
        message = refused(capsys, f"--{name}={value}")
        assert name in message or name in ("start", "end"), message
    assert list(tmp_path.iterdir()) == []


def test_wrong_combinations_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok.json").write_text('{"family": "linear", "timesteps": 10}')
    (tmp_path / "bad.json").write_text('{"family": "linear", "timesteps": 10, "end": 2}')
    (tmp_path / "ckpt.pt").write_text("")
    combinations = [
        "--cpu --device cuda", "--cpu --device cuda:0", "--cpu --device mps", "--device cuda:x",
        "--backward_steps 1001", "--timesteps 50", "--timesteps 10 --backward_steps 11",
        "--start 0.5 --end 0.5", "--start 0.6 --end 0.5", "--start 1", "--end 0", "--end 1.1",
        "--tau 0.9", "--epsilon 1.1", "--epsilon -0.1", "--start 0.5 --end 0.5005",
        "--scheduler_type sigmoid --tau 2", "--scheduler_type sigmoid --tau 0.05",
        "--scheduler_type sigmoid --start 4", "--scheduler_type linear --tau 1",
        "--scheduler_type linear --epsilon 0.1", "--scheduler_type linear --end 2",
        "--scheduler_type ddpm --start 0", "--scheduler_type ddpm --tau 1",
        "--scheduler_type ddpm --epsilon 0", "--scheduler_type ddpm --end 1",
        "--schedule_from no.json", "--schedule_from bad.json", "--schedule_from ckpt.pt",
        "--schedule_from ok.json --start 0.1", "--schedule_from ok.json --tau 2",
        "--schedule_from ok.json --backward_steps 11", "--schedule_from .",
        "--sampling_schedule no.json", "--sampling_schedule bad.json", "--sampling_schedule cos",
        "--ckpt no.pt", "--ckpt .", "--sample_only", "--sample_only --ckpt no.pt",
        "--sample_only --ckpt ckpt.pt --resume latest", "--sample_only --ckpt ckpt.pt --dry_run",
        "--resume latest", "--resume no",
        "--resume .", "--resume latest --runs_dir no", "--inception_weights ckpt.pt",
        "--extractor inception --inception_weights no.pth", "--fid_samples 1", "--eval_samples 1",
        "--model_base_dim 6", "--model_base_dim 65", "--batch_size 1", "--no_such_flag",
        "--epoch 3",
        "stray", "--start", "--resume",
    ]  # fmt: skip
    assert len(combinations) >= 50
    for words in combinations:
        refused(capsys, *words.split())
    assert len(list(tmp_path.iterdir())) == 3


def test_resuming_takes_the_runs_own_arguments(tmp_path, capsys):
    args = parse("train", "--tau", 2, "--seed", 5)
    folder = tmp_path / "00003-train-seed5"
    folder.mkdir()
    content = {"kind": "train", "arguments": vars(args)}
    (folder / "args.json").write_text(json.dumps(content))
    again = parse("train", "--resume", "latest", "--runs_dir", tmp_path, "--threads", 2)
    assert again.tau == 2 and again.seed == 5 and again.threads == 2
    assert again.resume == str(folder)
    assert parse("train", "--resume", folder, "--tau", 2).tau == 2
    assert "--tau" in refused(capsys, "--resume", folder, "--tau", 3)
    (folder / "args.json").write_text(json.dumps({**content, "kind": "bilevel"}))
    assert "bilevel" in refused(capsys, "--resume", folder)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read_and_explained(script):
    source = "\n".join(p.read_text() for p in ROOT.glob("*.py"))
    for action in SCRIPTS[script].make_parser()._actions:
        assert action.help
        read = rf"args\.{action.dest}\b|getattr\(args, (name|flag)|\"{action.dest}\""
        assert action.dest == "help" or re.search(read.replace("|getattr", "|NEVER"), source), (
            action
        )


@pytest.mark.parametrize("script", ["train_mnist", "metrics"])
def test_help_and_errors_do_not_import_torch(script):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}.py', '--no_such_flag']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stopped: code = stopped.code\n"
        "assert code == 2 and not {'torch', 'numpy', 'sklearn'} & set(sys.modules), code\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    from harness import Script

    script = Script(tmp_path)
    assert script.run("--device", "cuda:7") == 2
    assert "--device cuda:7" in script.last_line() and not (tmp_path / "runs").exists()
