"""finetune_reward.py as a user runs it: every method, resuming, faulty rewards, wrong flags."""

import json
import re
import shutil
import signal

import pytest
from conftest import ROOT
from harness import is_read

import finetune_reward
from common import checkpoint, cli, errors, run
from common.tables import read_csv
from studies.reward import __main__ as reward_study
from studies.reward import options, page, report, setting, tasks

TINY = """--cpu --threads 1 --backward_steps 2 --choice_samples 24 --n_directions 2
    --bank_samples 24
    --min_ess 4 --eval_samples 8 --n_samples 4 --guided_samples 2 --log_freq 50""".split()
REWARD = """
def bright(x):
    return x.mean((1, 2, 3))

def fills(x):
    return -(x.mean((1, 2, 3)) + 0.5).square()

def constant(x):
    return 0 * x.mean((1, 2, 3))

def wrong(x):
    return x.mean()

def nan(x):
    return x.mean((1, 2, 3)) * float("nan")

def raises(x):
    return x.mean((1, 2, 3)) + undefined

def steep(x):
    return (0 * x.sum((1, 2, 3))).sqrt()  # 0, and its gradient is 0 times infinity
"""


def parse(*words):
    argv = [str(word) for word in words]
    return cli.parse(options.make_parser(), options.KIND, options.check, argv)


@pytest.fixture(scope="session")
def samples(tmp_path_factory, mnist_dir):
    """The cache of one run without guidance, for all others to start from."""
    folder = tmp_path_factory.mktemp("reward")
    assert tuned(folder / "runs", folder / "cache", mnist_dir, "--method", "unguided")[0] == 0
    return folder / "cache"


def tuned(folder, cache, mnist_dir, *words):
    """The script's main in this process: its exit code and the run's folder."""
    places = ["--runs_dir", folder, "--cache_dir", cache, "--data_dir", mnist_dir]
    words = [*places, *words] if "--resume" in words else [*TINY, *places, *words]
    if "--resume" in words:
        words = ["--resume", "latest", "--runs_dir", folder, "--cache_dir", cache]
    code = errors.guarded(finetune_reward.main, parse(*words), "finetune_reward.py")
    folders = sorted(folder.glob("[0-9]*"))
    return code, folders[-1] if folders else None


@pytest.mark.parametrize("method", options.METHODS)
def test_every_method_ends_with_lambda_rewards_and_pictures(method, tmp_path, samples, mnist_dir):
    words = ["--method", method, "--lambda0", 2]
    code, folder = tuned(tmp_path, samples, mnist_dir, *words)
    summary = json.loads((folder / "summary.json").read_text())
    assert code == 0 and summary["n"] == 8 and 0 <= summary["accuracy"] <= 1
    assert summary["frechet_distance"] > 0 and "fid" not in summary
    assert (summary["lambda"] is None) == (method == "unguided")
    assert (summary["weight"] is None) == (method != "weighted_sum")
    for name in ("before", "after"):
        assert (folder / "samples" / f"{name}.png").stat().st_size > 500
    if method in ("grid", "random", "bayesian", "weighted_sum"):
        rows = read_csv(folder / "trials.csv")
        best = max(rows, key=lambda row: row["r1"])
        assert best["lambda"] == pytest.approx(summary["lambda"])
        assert len(rows) == 24 * 2 // (2 * 6) == summary["trials"]  # what the bank cost
    if method == "bilevel":
        rows = read_csv(folder / "iterations.csv")
        assert [row["iteration"] for row in rows] == list(range(1, 201))
        assert summary["choosing_evaluations"] == 24 * 2 and rows[0]["lambda"] == 2
    if method == "unguided":
        assert summary["r1"] == summary["before"]["r1"]


@pytest.mark.parametrize("words", [
    "--estimator published", "--lower linearised --passes 2 --method fixed",
    "--target 2 --beta 0.5 --method fixed", "--no_clip --tau_type quadratic --method fixed",
])  # fmt: skip
def test_the_other_ways_run(words, tmp_path, samples, mnist_dir):
    code, folder = tuned(tmp_path, samples, mnist_dir, "--lambda0", 3, *words.split())
    summary = json.loads((folder / "summary.json").read_text())
    assert code == 0 and summary["r2"] != summary["before"]["r2"]


def interrupted(monkeypatch, polls):
    """A signal at the given call of poll."""
    left, real = {"polls": polls}, run.Run.poll

    def poll(self):
        left["polls"] -= 1
        if left["polls"] == 0:
            self.signal = signal.SIGINT
        real(self)

    monkeypatch.setattr(run.Run, "poll", poll)


def kept(folder):
    """What must not depend on interrupts."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("seconds", "cpu_seconds", "choosing_cpu_seconds", "peak_memory"):
        summary.pop(name)
    ignored = ("timing.csv",)
    rows = {p.name: p.read_text() for p in folder.glob("*.csv") if p.name not in ignored}
    return summary, rows


@pytest.mark.parametrize("words, polls", [
    ("--lambda0 3", [2, 40, 167]),  # while the bank is drawn, in the steps, at the end
    ("--method bayesian --n_calls 5", [5, 9]),
    ("--estimator guided --iterations 3 --lambda0 3", [8]),
])  # fmt: skip
def test_a_run_that_is_interrupted_resumes_to_the_same_numbers(
    words, polls, tmp_path, samples, mnist_dir, monkeypatch, capsys
):
    whole = tuned(tmp_path / "whole", samples, mnist_dir, *words.split())[1]
    cache = tmp_path / "cache"
    shutil.copytree(samples, cache)
    for path in (cache / "reward").glob("*.pt"):
        if words.startswith("--lambda0"):
            path.unlink()
    given = words.split()
    for number in polls:
        interrupted(monkeypatch, number)
        code, folder = tuned(tmp_path / "cut", cache, mnist_dir, *given)
        monkeypatch.undo()
        assert code == 130
        given = ["--resume", "latest"]
    code, folder = tuned(tmp_path / "cut", cache, mnist_dir, *given)
    assert code == 0 and kept(folder) == kept(whole)
    capsys.readouterr()
    assert tuned(tmp_path / "cut", cache, mnist_dir, *given)[0] == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_a_users_rewards_and_what_may_be_wrong_with_them(
    tmp_path, samples, mnist_dir, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards.py").write_text(REWARD)
    both = ["--lower_reward", "own_rewards:bright", "--upper_reward", "own_rewards:fills"]
    words = [*both, "--method", "fixed", "--lambda0", 0.01]
    code, folder = tuned(tmp_path / "good", samples, mnist_dir, *words)
    summary = json.loads((folder / "summary.json").read_text())
    assert code == 0 and summary["r2"] > summary["before"]["r2"] + 0.01
    faults = (("wrong", 2), ("nan", 1), ("missing", 2), ("raises", 1), ("steep", 1))
    for name, expected in faults:
        words[1] = f"own_rewards:{name}"
        capsys.readouterr()
        assert tuned(tmp_path / name, samples, mnist_dir, *words)[0] == expected
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and f"own_rewards:{name}" in lines[0]
    assert "gradient is NaN" in lines[0]
    (tmp_path / "unfinished.py").write_text("def bright(x)\n")
    words[1] = "unfinished:bright"
    assert tuned(tmp_path / "syntax", samples, mnist_dir, *words)[0] == 2
    assert re.fullmatch(
        r"[^\n]+unfinished:bright[^\n]+SyntaxError[^\n]+\n", capsys.readouterr().err
    )


def test_a_users_r2_leaves_the_class_alone_to_report(tmp_path, samples, mnist_dir, monkeypatch):
    """No direction is chosen, so no samples are drawn for a choice; lambda has no bound there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text(REWARD)
    words = ["--lower_reward", "my_rewards:bright", "--target_class", 3, "--method", "fixed"]
    monkeypatch.setattr(setting.choice, "chosen", None)
    code, folder = tuned(tmp_path, samples, mnist_dir, *words, "--lambda0", 200)
    summary = json.loads((folder / "summary.json").read_text())
    assert code == 0 and (summary["target_class"], summary["direction"]) == (3, None)
    assert 0 <= summary["accuracy"] <= 1 and "direction" not in (folder / "log.txt").read_text()


def test_a_network_that_is_told_noise_levels_is_refused(tmp_path, mnist_dir, capsys):
    """Guidance takes the levels of the time that the network is told."""
    state = checkpoint.load(options.SHIPPED)
    state["args"]["time_condition"] = "log_snr"
    checkpoint.save(tmp_path / "x.pt", state)
    code, folder = tuned(tmp_path, tmp_path, mnist_dir, "--ckpt", tmp_path / "x.pt")
    assert code == 2 and folder is None
    assert "--time_condition log_snr" in capsys.readouterr().err


def test_images_that_are_no_digits_get_no_classifiers_of_digits(tmp_path, mnist_dir, capsys):
    """Though they have their size."""
    state = checkpoint.load(options.SHIPPED)
    state["args"]["dataset"] = "fashion"
    checkpoint.save(tmp_path / "x.pt", state)
    code, _ = tuned(tmp_path, tmp_path, mnist_dir, "--ckpt", tmp_path / "x.pt")
    assert code == 2 and "other images need --lower_reward" in capsys.readouterr().err


def test_one_effective_sample_is_one_line_and_the_bank_is_kept(
    tmp_path, samples, mnist_dir, capsys
):
    before = set((samples / "reward").iterdir())
    code, folder = tuned(tmp_path, samples, mnist_dir, "--lambda0", 1e-4)
    said = capsys.readouterr().err
    assert code == 2 and "leave 1.0 effective samples of 24" in said and said.count("\n") == 1
    assert before <= set((samples / "reward").iterdir()) and not list(folder.glob("summary*"))


@pytest.mark.parametrize("words", [
    "--target_class 10", "--target_class x", "--target_class -1", "--lambda0 0", "--lambda0 -1",
    "--lambda0 nan", "--lambda0 200", "--estimator guided --lambda0 200",
    "--lambda_max 0", "--lambda_range 0 1", "--lambda_range 2 1",
    "--weight_range 1 1", "--gamma 0", "--min_ess 1", "--step 0", "--bank_samples 1",
    "--method best", "--estimator right", "--lower indirect", "--passes 0", "--beta 2",
    "--lower_reward json --target_class 1", "--lower_reward json: --target_class 1",
    "--lower_reward :dumps --target_class 1", "--lower_reward no_such_module:f --target_class 1",
    "--lower_reward json:dumps", "--upper_reward json:dumps", "--ckpt no.pt",
    "--lower_reward json:dumps --upper_reward json:dumps --direction 1",
    "--pipeline x", "--pipeline x --ckpt y", "--prompt x", "--pipeline_size 64",
    "--n_samples 129", "--resume latest --runs_dir none", "--cpu --device cuda",
    "--pipeline x --lower_reward json:dumps --upper_reward json:dumps --direction 1",
])  # fmt: skip
def test_wrong_flags_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*words.split())
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == "" and said.err.count("\n") == 1


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_a_reward_that_is_the_same_for_all_samples_is_refused(
    level, tmp_path, samples, mnist_dir, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constant_rewards.py").write_text(REWARD)
    words = [
        "--lower_reward",
        "constant_rewards:bright",
        "--upper_reward",
        "constant_rewards:fills",
    ]
    words[1 if level == "lower" else 3] = "constant_rewards:constant"
    assert tuned(tmp_path, samples, mnist_dir, *words, "--lambda0", 3)[0] == 1
    assert f"the {level} reward is the same for all samples" in capsys.readouterr().err


def test_more_steps_than_the_network_has_are_one_line(tmp_path, mnist_dir, capsys):
    code, folder = tuned(tmp_path, tmp_path, mnist_dir, "--backward_steps", 100000)
    assert code == 2 and folder is None
    assert "--backward_steps 100000 exceeds T" in capsys.readouterr().err


def test_every_flag_is_read_and_explained():
    files = [ROOT / "finetune_reward.py", *(ROOT / "studies" / "reward").glob("*.py")]
    files += (ROOT / "common").glob("*.py")
    source = "\n".join(path.read_text() for path in files)
    for action in options.make_parser()._actions:
        assert action.help
        if action.dest != "help":
            assert is_read(action.dest, source), f"nothing reads --{action.dest}"


def test_a_study_runs_gathers_and_fills_its_page(tmp_path, samples, mnist_dir, monkeypatch, capsys):
    """Two methods at the smallest size, through the study's own commands and processes."""
    small = " ".join(TINY[3:])
    monkeypatch.setattr(tasks, "SHARED", {"page": small, "first": small})
    monkeypatch.setattr(tasks, "METHODS", {n: tasks.METHODS[n] for n in ("unguided", "bilevel")})
    parser = reward_study.make_parser()
    words = ["--scale", "first", "--runs_dir", tmp_path, "--cache_dir", samples, "--jobs", 1]
    args = parser.parse_args([str(w) for w in [*words, "--data_dir", mnist_dir]])
    monkeypatch.setattr(reward_study, "FIRST", tuple(tasks.METHODS))
    reward_study.main(args)
    table = capsys.readouterr().out
    assert "| bilevel | 1 |" in table and "| unguided | 1 | – |" in table
    before = {p: p.stat().st_mtime for p in tmp_path.rglob("summary.json")}
    assert len(before) == 2
    reward_study.main(args)  # nothing is run again
    assert {p: p.stat().st_mtime for p in tmp_path.rglob("summary.json")} == before
    calls = read_csv(tmp_path / "first" / "spent.csv")
    assert [call["runs"] for call in calls] == [2] and calls[0]["cpu_seconds"] > 0
    docs = tmp_path / "docs"
    monkeypatch.setattr(report, "DOCS", docs)
    monkeypatch.setattr(report.oracles, "all_rows", lambda: [{"ok": 1}])  # tests of their own
    places = ["--device", "cpu"]
    report.gather(tasks.tasks_of("first", tmp_path, 1, list(tasks.METHODS), places))
    begun = tasks.Task(tmp_path / "first", "bilevel", 0, [], ["--cache_dir", str(samples)])
    assert str(samples) in begun.argv() and "--resume" in begun.argv()
    rows = report.stored()
    assert {row["method"] for row in rows["results"]} == {"unguided", "bilevel"}
    alone = [row for row in rows["results"] if row["method"] == "bilevel"]
    assert "| bilevel | 1 |" in page.of_results(alone)  # its seed's unguided run is not done yet
    assert all(row["n"] == 24 and row["r1_se"] > 0 for row in rows["curves"])
    facts = {row["name"]: row["value"] for row in rows["facts"]}
    assert facts["first_runs"] == "2" and float(facts["leader_cpu_seconds"]) > 0
    assert len(facts["commit"]) >= 7 and "class of r1" in page.of_facts(rows["facts"])
    made = tasks.tasks_of("first", tmp_path, 1, list(tasks.METHODS), places)
    summary = json.loads((made[0].folder / "summary.json").read_text())
    summary["fid"] = summary.pop("frechet_distance")  # as earlier versions called it
    (made[0].folder / "summary.json").write_text(json.dumps(summary))
    assert report.row_of(made[0])["frechet_distance"] == summary["fid"] > 0
