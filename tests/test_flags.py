"""The command line: published flags, wrong values, and no flag that nothing reads."""

import importlib
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from harness import is_read

import train_mnist
import train_mnist_bayesian
import train_mnist_bilevel_ZO
from common import cli

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {
    "train": train_mnist, "bilevel": train_mnist_bilevel_ZO, "search": train_mnist_bayesian
}  # fmt: skip
PUBLISHED = {
    "lr": 0.001, "batch_size": 128, "epochs": 100, "ckpt": "", "n_samples": 36,
    "model_base_dim": 64, "timesteps": 1000, "backward_steps": 100, "tau_type": "linear",
    "model_ema_steps": 10, "model_ema_decay": 0.995, "log_freq": 10, "cpu": False, "no_clip": False,
    "start": 0.0, "end": 1.0, "epsilon": 0.008, "tau": 1.0, "scheduler_type": "cosine",
}  # fmt: skip


def parse(script, *words):
    parser = SCRIPTS[script].make_parser()
    return cli.parse(parser, script, SCRIPTS[script].check, [str(w) for w in words])


BILEVEL = {
    "epochs": 3, "initial_epoch": 2, "inner_loop": 1, "inner_loop_z": 1, "gamma": 1.0,
    "gamma_end": 1.0, "delta": 0.01, "lr_z": 0.001, "lr_beta": [0.01, 0.01, 0.1, 0.001],
    "initial_start": 0.0, "initial_end": 1.0, "initial_tau": 1.0, "initial_epsilon": 0.008,
    "truncation": None, "ZO_type": "two", "scheduler": "cosine",
}  # fmt: skip
OF_A_FIXED_SCHEDULE = ("start", "end", "epsilon", "tau", "scheduler_type")


def test_the_published_defaults():
    args = vars(parse("train"))
    assert {name: args[name] for name in PUBLISHED} == PUBLISHED
    args = vars(parse("search"))
    assert {name: args[name] for name in PUBLISHED} == PUBLISHED
    assert (args["n_calls"], args["search_seed"], args["strategy"]) == (15, 42, "bayesian")
    ranges = {"start": [0, 0.4], "end": [0.8, 1], "tau": [1, 4], "epsilon": [0.005, 0.04]}
    assert train_mnist_bayesian.ranges_of(parse("search")) == {
        n: tuple(r) for n, r in ranges.items()
    }
    expected = {k: v for k, v in PUBLISHED.items() if k not in OF_A_FIXED_SCHEDULE} | BILEVEL
    del expected["no_clip"]  # of the baselines only
    args = vars(parse("bilevel", "--recipe", "ours"))
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    "word, meant", [("tau", "initial_tau"), ("epoch", "epochs"), ("schedule", "scheduler")]
)
def test_a_name_is_meant_with_its_prefix_unless_another_one_is_nearer(word, meant):
    """Of the bilevel script, where the schedule's parameters have other names."""
    done = subprocess.run(
        [sys.executable, "train_mnist_bilevel_ZO.py", f"--{word}", "2"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and f"did you mean --{meant}?" in done.stderr


@pytest.mark.parametrize("words, meant", [
    ("--epoch", "--epochs"), ("--no_clips=1", "--no_clip"), ("--zzz", None),
    ("--dataset mnits", "mnist"), ("--dataset digit", "digits"), ("--dataset zzz", None),
])  # fmt: skip
def test_a_mistyped_word_is_told_from_a_strange_one(capsys, words, meant):
    said = refused(capsys, *words.split())
    assert f"; did you mean {meant}? (-h" in said if meant else "did you mean" not in said


def test_a_flag_of_another_recipe_chooses_it(capsys):
    """So the published command stays what it is, and no flag that is given is left unread."""
    said = refused(capsys, "--inner_loop_z", 3, "--update_every", 5, script="bilevel")
    assert "--update_every is not used with --theta_z kept, which --inner_loop_z selected" in said
    assert "'abc' is not a number above 0, nor auto" in refused(
        capsys, "--gamma", "abc", script="bilevel"
    )
    assert parse("bilevel").theta_z == "coupled" and parse("bilevel").gamma == "auto"
    assert parse("bilevel", "--gamma", "1e6").gamma == 1e6
    assert parse("bilevel", "--noise", "common").recipe == "exact"
    for flags in ("--inner_loop_z 1", "--gamma_end 1", "--delta 0.01", "--noise independent",
                  "--upper_gradient forward", "--theta_z kept", "--ZO_type two"):  # fmt: skip
        args = parse("bilevel", *flags.split())
        assert (args.recipe, args.theta_z, args.lr_z, args.gamma) == ("ours", "kept", 0.001, 1)


def test_a_negative_number_may_have_an_exponent():
    args = parse("train", "--scheduler_type", "sigmoid", "--start", "-3e0", "--epsilon", "-1e-3")
    assert (args.start, args.epsilon) == (-3, -0.001)


def test_the_published_commands_parse():
    published = """--inner_loop 10 --inner_loop_z 1 --gamma 1 --gamma_end 1
        --lr_beta 0.05 0.05 1 0.05 --initial_epoch 2 --epochs 3"""
    args = parse("bilevel", *published.split())
    assert args.inner_loop == 10 and args.lr_beta == [0.05, 0.05, 1, 0.05]
    assert (args.noise, args.theta_z, args.zo_samples) == ("common", "kept", 128)
    args = parse("bilevel", "--recipe", "paper", "--zo_samples", 50)
    assert (args.noise, args.theta_z, args.zo_samples) == ("independent", "recopied", 50)


WRONG = ["", "x", "nan", "inf", "-inf", "-1", "1e400", "0x10", "1,5", "--"]
COUNTS = """timesteps epochs batch_size model_ema_steps limit_batches n_samples backward_steps
    fid_samples eval_samples eval_chunk seed threads log_freq model_base_dim knots""".split()
NUMBERS = "input_scale eta eps_scale lr model_ema_decay ema_memory save_seconds".split()
CHOICES = "dataset scheduler_type lr_schedule tau_type sampler extractor device".split()
VALUES = [
    *product(COUNTS, [*WRONG, "1.5"]),
    *product(NUMBERS, WRONG),
    *product(["start", "end", "tau", "epsilon"], [*WRONG, "-0.5", "1e300"][:9]),
    *product(COUNTS, [str(10**30)]),
    *product(CHOICES, ["", "x", "cosin", "cpu:0"]),
]
WRONG_BILEVEL = [
    "--gamma 0", "--gamma -1", "--gamma_end 0", "--delta 0", "--lr_z 0", "--lr_beta 1 1 1",
    "--lr_beta 1 1 1 1 1", "--lr_beta 1 1 1 -1", "--lr_beta 1 1 1 nan", "--inner_loop 0",
    "--inner_loop_z 0", "--initial_epoch -1", "--initial_epoch 9", "--initial_epoch 3",
    "--truncation 0", "--truncation 2", "--ZO_type three",
    "--zo_samples 1", "--zo_directions 0", "--recipe theirs", "--noise none", "--theta_z lost",
    "--upper_gradient backward", "--upper_gradient forward --noise independent",
    "--upper_gradient forward --recipe paper", "--scheduler ddpm", "--initial_end 2",
    "--initial_start 0.9 --initial_end 0.8", "--scheduler linear --initial_tau 2",
    "--scheduler sigmoid --initial_tau 3", "--timesteps 50", "--start 0.1",
    "--told visited", "--frozen_updates 500", "--knots 3", "--recipe ours --truncation 0.5",
]  # fmt: skip
WRONG_SEARCH = [
    "--strategy best", "--n_calls 0", "--n_initial 0", "--search_seed -1", "--jobs 0",
    "--patience -1", "--deadline -1", "--fix gamma", "--fix", "--fix start end tau epsilon",
    "--scheduler_type ddpm", "--scheduler_type linear --fix tau", "--start_range 0.4 0.1",
    "--start_range 0.1", "--start_range 0.1 0.1", "--start_range 0.1 0.2", "--tau_range 0 4",
    "--tau_range 1 4 --fix tau", "--scheduler_type linear --tau_range 1 2", "--end 0.7",
    "--start_range 0 0.9", "--tau 5", "--no_warm_start --tau_range 0.5 2", "--eval_samples 0",
    "--prune --epochs 1", "--prune --fid_samples 0", "--sample_only", "--tau_range 1 nan",
]  # fmt: skip
WRONG_COMBINATIONS = [
    "--cpu --device cuda", "--cpu --device cuda:0", "--cpu --device mps", "--device cuda:x",
    "--eta 1.5", "--eps_scale 2.5", "--sampler ddpm --eta 0.5", "--ema_memory 3",
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
    "--schedule_from ok.json --timesteps 11", "--schedule_from ok.json --timesteps 1000",
    "--schedule_from ok.json --backward_steps 11", "--schedule_from .",
    "--sampling_schedule no.json", "--sampling_schedule bad.json", "--sampling_schedule cos",
    "--ckpt no.pt", "--ckpt .", "--sample_only", "--sample_only --ckpt no.pt",
    "--sample_only --ckpt ckpt.pt --resume latest",
    "--sample_only --ckpt ckpt.pt --eval_samples 5", "--sample_only --ckpt ckpt.pt --dry_run",
    "--resume latest", "--resume no",
    "--resume .", "--resume latest --runs_dir no", "--inception_weights ckpt.pt",
    "--extractor inception --inception_weights no.pth", "--fid_samples 1", "--eval_samples 1",
    "--model_base_dim 6", "--model_base_dim 65", "--batch_size 1", "--no_such_flag",
    "--extractor first --image_size 64", "--extractor second --dataset folder",
    "--epoch 3", "--knots 3", "--sampler ddpm --sampling_schedule ok.json",
    "stray", "--start", "--resume",
]  # fmt: skip


def files_of_the_combinations(folder):
    (folder / "ok.json").write_text('{"family": "linear", "timesteps": 10}')
    (folder / "bad.json").write_text('{"family": "linear", "timesteps": 10, "end": 2}')
    (folder / "ckpt.pt").write_text("")


def refused(capsys, *words, script="train"):
    with pytest.raises(SystemExit) as stopped:
        parse(script, *words)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and "error: " in said.err
    return said.err


def test_every_flag_that_takes_a_number_is_tried_with_wrong_ones():
    actions = train_mnist.make_parser()._actions
    typed = {action.dest for action in actions if action.type and not action.choices}
    assert typed <= {name for name, _ in VALUES}


def test_wrong_values_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(VALUES) >= 240
    for name, value in VALUES:
        message = refused(capsys, f"--{name}={value}")
        assert name in message or name in ("start", "end"), message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", WRONG_BILEVEL)
def test_wrong_bilevel_flags_are_one_line(capsys, words):
    refused(capsys, *words.split(), script="bilevel")


@pytest.mark.parametrize("words", WRONG_SEARCH)
def test_wrong_search_flags_are_one_line(capsys, words):
    refused(capsys, *words.split(), script="search")


def test_a_range_may_leave_the_default_out_without_a_warm_start():
    args = parse("search", "--tau_range", 2, 3, "--no_warm_start", "--fix", "epsilon")
    ranges = train_mnist_bayesian.ranges_of(args)
    assert ranges == {"start": (0, 0.4), "end": (0.8, 1), "tau": (2, 3)}
    sigmoid = train_mnist_bayesian.ranges_of(parse("search", "--scheduler_type", "sigmoid"))
    assert sigmoid["start"][1] < sigmoid["end"][0] and sigmoid["tau"][0] >= 0.1


def test_the_steps_of_a_picture_are_checked_against_its_checkpoint(tmp_path):
    """Whose T may be above the default."""
    (tmp_path / "x.pt").touch()
    words = ["--sample_only", "--ckpt", tmp_path / "x.pt", "--backward_steps", 1500]
    assert parse("train", *words).backward_steps == 1500
    words[0] = "--freeze_network"
    assert parse("bilevel", *words).backward_steps == 1500


def test_the_argv_of_arguments_parses_to_the_same_arguments():
    args = parse("train", "--tau", 2, "--no_clip", "--lr", 0.5, "--dataset", "digits")
    parser = train_mnist.make_parser()
    assert parse("train", *cli.to_argv(parser, args)) == args
    assert cli.to_argv(parser, args, skip={"tau", "start", "end", "epsilon", "timesteps"}) == [
        "--dataset", "digits", "--lr", "0.5", "--no_clip"
    ]  # fmt: skip


@pytest.mark.parametrize("flag", ["resume", "ckpt", "schedule_from", "inception_weights"])
def test_an_empty_value_is_an_error(capsys, flag):
    """As of an unset shell variable: it neither starts a new run nor is it overlooked."""
    assert "empty" in refused(capsys, f"--{flag}=")


# commands whose arguments cli.parse does not see, and what they need at least
OTHERS = {
    "common.evaluate": ["--run", "x"], "common.export": ["x"], "common.compare.__main__": ["x"],
    "reproduce": [], "studies.noise_schedules.__main__": [], "studies.reward.__main__": [],
    "benchmarks.faults.__main__": [],
}  # fmt: skip


@pytest.mark.parametrize("module", OTHERS)
def test_every_command_refuses_empty_values_and_too_many_threads(module, capsys):
    parser = importlib.import_module(module).make_parser()
    texts = [
        action.option_strings[-1] for action in parser._actions
        if action.option_strings and action.nargs != 0 and not (action.type or action.choices)
    ]  # fmt: skip
    needed = OTHERS[module]
    wrong = [[*needed, f"{name}="] for name in texts] + ([[""]] if needed == ["x"] else [])
    if any(action.dest == "threads" for action in parser._actions):
        wrong.append([*needed, "--threads", "100000"])
    assert wrong
    for words in wrong:
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(words)
        said = capsys.readouterr().err
        reason = "is not a whole number" if "--threads" in words else "the value is empty"
        assert stopped.value.code == 2 and reason in said and said.count("\n") == 1, said


@pytest.mark.parametrize(
    "flag", ["ckpt", "schedule_from", "resume", "sampling_schedule", "cache_dir"]
)
def test_a_name_that_is_too_long_is_one_line(capsys, flag):
    assert "too long" in refused(capsys, f"--{flag}={'a' * 5000}")


def test_values_that_no_machine_can_take_are_refused(capsys):
    """Before they are a folder, a loop without end or a fault of the system."""
    for flag, value in {
        "timesteps": 10**15, "threads": 100_000, "model_base_dim": 10**6, "knots": 10**9,
        "eval_samples": 10**18, "device": "cuda:99999999999", "tau": 1e308, "epochs": 10**30,
    }.items():  # fmt: skip
        assert flag in refused(capsys, f"--{flag}={value}")
    refused(capsys, "--resume=**")


def test_a_reader_that_leaves_is_no_error_of_ours():
    command = f"{sys.executable} train_mnist_bayesian.py --dry_run --cpu | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr


def test_wrong_combinations_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files_of_the_combinations(tmp_path)
    assert len(WRONG_COMBINATIONS) >= 50
    for words in WRONG_COMBINATIONS:
        refused(capsys, *words.split())
    assert len(list(tmp_path.iterdir())) == 3


def test_resuming_takes_the_runs_own_arguments(tmp_path, capsys):
    args = parse("train", "--dataset", "digits", "--tau", 2, "--seed", 5)
    folder = tmp_path / "00003-train-seed5"
    folder.mkdir()
    content = {"kind": "train", "arguments": vars(args)}
    (folder / "args.json").write_text(json.dumps(content))
    again = parse("train", "--resume", "latest", "--runs_dir", tmp_path, "--threads", 2)
    assert again.tau == 2 and again.seed == 5 and again.threads == 2
    assert again.resume == str(folder)
    assert parse("train", "--resume", folder, "--tau", 2).tau == 2
    assert "--tau" in refused(capsys, "--resume", folder, "--tau", 3)
    said = refused(capsys, "--resume", folder, "--ckpt", "runs/3")  # it has a path there
    assert "--ckpt is left out with --resume" in said
    (folder / "args.json").write_text(json.dumps({**content, "kind": "bilevel"}))
    assert "bilevel" in refused(capsys, "--resume", folder)


# read in a loop over the names of the schedule's parameters, or not by the run: help
BY_NAME = {"help", "start", "end", "tau", "epsilon"}
BY_NAME |= {f"{name}_range" for name in ("start", "end", "tau", "epsilon")}
BY_NAME |= {f"initial_{name}" for name in ("start", "end", "tau", "epsilon")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read_and_explained(script):
    source = "\n".join(
        p.read_text()
        for p in [*ROOT.glob("*.py"), *ROOT.glob("common/*.py"), *ROOT.glob("search/*.py")]
    )
    for action in SCRIPTS[script].make_parser()._actions:
        assert action.help
        if action.dest not in BY_NAME:
            assert is_read(action.dest, source), f"nothing reads --{action.dest}"


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    from harness import Script

    script = Script(tmp_path)
    assert script.run("--device", "cuda:7") == 2
    assert "--device cuda:7" in script.last_line() and not (tmp_path / "runs").exists()
