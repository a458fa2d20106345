"""The comparison as data: its scales, its methods and how each method's budget is set."""

import shlex
from typing import NamedTuple


class Scale(NamedTuple):
    """Flags by the kind of run they are for; a search's trial has those of `train`."""

    meaning: str
    seeds: int
    shared: str
    train: str
    bilevel: str
    trials: int | None = None  # of a search; None: what the bilevel run's forward passes pay for


class Method(NamedTuple):
    """One row of the comparison."""

    kind: str  # train, bilevel or search: which script runs it
    flags: str = ""  # beside the scale's
    schedule_from: str = ""  # the method whose learned schedule it trains with
    equal: str = ""  # "steps" or "passes": trained for as many as the bilevel run takes


SCALES = {
    "quick": Scale(
        "8x8 digits, a small network",
        seeds=3,
        shared="""--dataset digits --model_base_dim 8 --batch_size 64 --timesteps 100 --lr 0.03
            --backward_steps 5 --eval_samples 500 --threads 1""",
        train="--epochs 4 --fid_samples 0",
        bilevel="""--epochs 6 --initial_epoch 4 --fid_samples 500 --zo_samples 64
            --lr_beta 0.02 0.02 0.1 0.002""",
    ),
    "demo": Scale(
        "MNIST, 8 channels, 360 steps: what the learned schedule does, in minutes a run",
        seeds=2,
        shared="""--model_base_dim 8 --batch_size 64 --timesteps 200 --limit_batches 60 --lr 0.02
            --backward_steps 6 --fid_samples 500 --eval_samples 2000 --threads 1""",
        train="--epochs 6",
        bilevel="""--epochs 6 --initial_epoch 4 --zo_samples 32 --lr_z 0.0001
            --lr_beta 0.01 0.01 0.05 0.002 --log_freq 5""",
    ),
    "cpu": Scale(
        "MNIST, a network of 16 channels, hours on two cores",
        seeds=3,
        shared="""--model_base_dim 16 --batch_size 64 --timesteps 200 --lr 0.01 --limit_batches 150
            --backward_steps 10 --eval_samples 2000""",
        train="--epochs 4 --fid_samples 0",
        bilevel="""--epochs 6 --initial_epoch 4 --fid_samples 2000 --lr_z 0.0001
            --lr_beta 0.01 0.01 0.05 0.002""",
    ),
    "gpu": Scale(
        "MNIST, the whole network, fewer epochs than the paper; hours on a GPU",
        seeds=3,
        shared="",
        train="--epochs 20 --fid_samples 0",
        bilevel="""--epochs 3 --initial_epoch 2 --inner_loop 10 --fid_samples 10000
            --lr_beta 0.05 0.05 1 0.05""",
    ),
    "paper": Scale(
        "MNIST, the published epochs and flags; days on a GPU",
        seeds=3,
        shared="",
        train="--fid_samples 0",
        bilevel="""--inner_loop 10 --inner_loop_z 1 --gamma 1 --gamma_end 1
            --lr_beta 0.05 0.05 1 0.05 --initial_epoch 2 --epochs 3 --fid_samples 10000""",
        trials=15,  # the published number, whatever the bilevel run costs
    ),
}

BILEVEL = "bilevel zo"  # the method whose cost is every other method's budget
FORWARD = "--upper_gradient forward --truncation 1"

METHODS = {
    "default": Method("train"),
    BILEVEL: Method("bilevel", "--recipe ours"),
    "bilevel forward": Method("bilevel", FORWARD),
    "grid": Method("search", "--strategy grid"),
    "random": Method("search", "--strategy random"),
    "bayesian": Method("search", "--strategy bayesian"),
    "default, zo's steps": Method("train", equal="steps"),
    "default, zo's budget": Method("train", equal="passes"),
    "zo's schedule, anew": Method("train", schedule_from=BILEVEL),
    "forward's schedule, anew": Method("train", schedule_from="bilevel forward"),
}
ABLATION = {
    "recipe paper": Method("bilevel", "--recipe paper --zo_samples 36"),
    "recipe paper, the scale's n": Method("bilevel", "--recipe paper"),
    "independent noise": Method("bilevel", "--noise independent"),
    "theta_z recopied": Method("bilevel", "--theta_z recopied"),
    "forward, theta_z recopied": Method("bilevel", f"{FORWARD} --theta_z recopied"),
    "forward, longer steps": Method("bilevel", f"{FORWARD} --lr_beta 0.1 0.1 0.5 0.01"),
    "36 images": Method("bilevel", "--recipe ours --zo_samples 36"),
    "schedule held": Method("bilevel", "--recipe ours --lr_beta 0 0 0 0"),
}


def merge(*texts: str) -> list[str]:
    """Flags in a row, each once: a later text overrides an earlier one in the earlier's place."""
    flags, name = {}, ""
    for text in texts:
        for token in shlex.split(text):
            if token.startswith("--"):
                name = token
                flags[name] = []
            else:
                flags[name].append(token)
    return [token for name, values in flags.items() for token in (name, *values)]
