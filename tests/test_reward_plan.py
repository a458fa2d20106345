"""What a reward run would cost, and what the runs of the study spend."""

import re

import pytest
from test_reward_runs import parse

import finetune_reward
from studies.reward import options, tasks

FEW = "--backward_steps 3 --choice_samples 20 --bank_samples 40 --guided_samples 2 --eval_samples 8"


@pytest.mark.parametrize("method, chosen", [
    ("bilevel", {"40 samples without guidance": 40 * 3}),
    ("bilevel --estimator guided --iterations 7", {"7 steps of two guided runs": 7 * 2 * 2 * 9}),
    ("grid", {"6 trials of 2 images": 6 * 2 * 9}),  # of the 120 evaluations that the bank costs
    ("random --n_calls 5", {"5 trials of 2 images": 5 * 2 * 9}),
    ("bayesian", {"6 trials of 2 images": 6 * 2 * 9}),
    ("weighted_sum", {"6 trials of 2 images": 6 * 2 * 9}),
    ("fixed", {}), ("unguided", {}),
])  # fmt: skip
def test_the_plan_counts_forward_passes(method, chosen):
    """A guided step is a pass forward and one back, which counts as two."""
    args = parse(*f"--cpu {FEW} --n_samples 4 --method {method}".split())
    guided = 0 if method == "unguided" else 3 * 3
    assert finetune_reward.planned(args) == {
        "choice of class and direction, once": 20 * 3, **chosen,
        "8 final images, before and after": 8 * (3 + guided),
    }  # fmt: skip


@pytest.mark.parametrize("method", options.METHODS)
def test_the_plan_says_what_a_method_costs(method, capsys, tmp_path, monkeypatch):
    if method != "bilevel":  # the time of a pass is that of any method
        monkeypatch.setattr(finetune_reward.estimate, "seconds_of", lambda _: 1.0)
    finetune_reward.main(parse("--dry_run", "--cpu", "--method", method, "--runs_dir", tmp_path))
    plan = capsys.readouterr().out.splitlines()
    assert plan[-2].endswith("final images, before and after")
    assert re.fullmatch(r"about [\d.]+ \w+ on \d+ CPU threads?, by .* timed now", plan[-1])
    assert not list(tmp_path.iterdir())


def test_the_plans_of_the_study_parse_and_spend_alike(tmp_path):
    """Every row has the budget of the samples for the importance weights, to a trial."""
    names = list(tasks.METHODS)
    made = tasks.tasks_of("page", tmp_path, 2, names, ["--device", "cpu"])
    expected = 2 * len(names) + len(tasks.STARTS) + 2 * len(tasks.CURVES)
    assert len(made) == expected
    assert all(task.begins_with for task in made[1:]) and not any(task.done for task in made)
    args = {task.method: task.parsed() for task in made if task.seed == 0}
    bank = args["bilevel"].bank_samples * args["bilevel"].backward_steps
    for method in set(names) - {"unguided"}:
        choosing = list(finetune_reward.planned(args[method]).values())[1]
        assert 0.9 * bank <= choosing <= bank, method
    judged = [args[name] for name in names]
    shared = {(a.eval_samples, a.choice_samples, a.backward_steps) for a in judged}
    assert len(shared) == 1
