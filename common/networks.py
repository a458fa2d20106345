"""Networks: the U-Net of a run, the one in a checkpoint, compiled or not."""

import argparse
import functools

import torch
from torch import nn

from common import checkpoint, cli, flags
from common.datasets import check_size
from common.errors import Stop, first_line
from common.families import FAMILIES, from_content
from common.fast_unet import FastUNet
from unet import UNet


def network_class(device: torch.device | str) -> type[nn.Module]:
    """The same network twice, with the same weights: one is written for CPUs, one as it is drawn.

    On a GPU the plain one needs fewer launches, and its compiler does the rest.
    """
    return FastUNet if torch.device(device).type == "cpu" else UNet


def make_network(
    base: int,
    timesteps: int,
    device: torch.device | str,
    seed: int = 0,
    ckpt: str = "",
    compile_mode: str = "off",
    time_condition: str | None = None,
) -> nn.Module:
    """A U-Net with first weights drawn from the seed, or with those of a checkpoint.

    Where a `time_condition` is given, the checkpoint has to have the same.
    """
    torch.manual_seed(seed)  # the same weights whatever was loaded before
    net = network_class(device)(base, timesteps=timesteps).to(device)
    if ckpt:
        given, state = load_network(ckpt, device)
        try:
            net.load_state_dict(given.state_dict())
        except RuntimeError:
            asked = {"model_base_dim": base, "timesteps": timesteps}
            facts = {name: state["args"][name] for name in asked}
            sizes = [f"--{name} {facts[name]}" for name in facts if facts[name] != asked[name]]
            raise Stop(f"{ckpt}: was trained with {' '.join(sizes)}", code=2) from None
        check_time_condition(ckpt, state, time_condition)
    return compiled(net, compile_mode)


def check_time_condition(ckpt: str, state: dict, asked: str | None) -> None:
    """A Stop where the same input would mean another noise level to the network than in training.

    The weights fit either way, so nothing else would notice.
    """
    trained = state["args"].get("time_condition", "index")  # older checkpoints have no other
    if asked not in (None, trained):
        raise Stop(
            f"--time_condition {asked}: {ckpt} was trained with --time_condition {trained}", code=2
        )


def facts_of(state: dict) -> dict:
    """What the network of a checkpoint was trained with, under the names of the flags."""
    names = "dataset", "model_base_dim", "input_scale", "no_normalise"
    facts = {name: state["args"][name] for name in names}
    facts["time_condition"] = state["args"].get("time_condition", "index")
    return facts | {"timesteps": state["schedule"]["timesteps"], "image_size": state["shape"][-1]}


def refuse_others(args, default, facts: dict) -> None:
    """A Stop for a flag that says otherwise than `facts`, those of the network of --ckpt."""
    for name, value in facts.items():
        given = getattr(args, name, value)
        if given not in (getattr(default, name, value), value):
            raise Stop(f"--{name} {given}: {args.ckpt} was trained with {value}", code=2)


def load_network(path: str, device: torch.device | str) -> tuple[nn.Module, dict]:
    """The averaged network in a checkpoint, ready to sample, and the checkpoint."""
    state = checkpoint.load(path)
    return network_in(state, device, path), state


def network_in(state: dict, device: torch.device | str, name: str) -> nn.Module:
    """The averaged network in a checkpoint's content, ready to sample; errors carry its name."""
    try:
        check_content(state)
        args, weights = state["args"], dict(state["ema"])
        net = network_class(device)(args["model_base_dim"], timesteps=args["timesteps"]).to(device)
        weights.pop("n_averaged", None)
        net.load_state_dict({key.removeprefix("module."): w for key, w in weights.items()})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise Stop(f"{name}: not a checkpoint of a run ({first_line(error)})") from None
    return net.eval().requires_grad_(False)


# flags that a sampler is made of, and those that judging reads too: older checkpoints lack some
NEEDED = (
    "model_base_dim", "timesteps", "backward_steps", "no_normalise", "no_clip", "input_scale",
    "amp", "sampler", "tau_type", "dataset",
)  # fmt: skip
READ_TOO = (
    "image_size", "data_dir", "eta", "eps_scale", "eval_chunk", "extractor", "inception_weights",
    "told", "time_condition", "compile",
)  # fmt: skip


@functools.cache
def _flags() -> dict[str, argparse.Action]:
    """The definitions of these flags, by name."""
    parser = cli.Parser("")
    for add in (flags.add_data, flags.add_network, flags.add_evaluation, flags.add_runtime):
        add(parser)
    flags.add_process(parser)
    flags.add_sampling_schedule(cli.adder(parser))
    return {action.dest: action for action in parser._actions}


def check_content(state: dict) -> None:
    """An error if a checkpoint, whoever sealed it, lacks what a sampler is made of."""
    args = state["args"]
    for name in (*NEEDED, *READ_TOO):
        if (name in NEEDED or name in args) and not cli.fits(_flags()[name], args[name]):
            raise ValueError(f"its {name} is {args[name]!r:.40}")
    check_size(args["dataset"], args.get("image_size"))
    if args["backward_steps"] > args["timesteps"]:
        raise ValueError(f"its backward_steps are {args['backward_steps']!r:.40}")
    _, timesteps, _ = from_content(state["schedule"])
    if timesteps != args["timesteps"]:
        raise ValueError(f"its timesteps are {args['timesteps']!r:.40}")
    other = args.get("sampling_schedule")
    if isinstance(other, dict):
        from_content(other)
    elif other not in (None, *FAMILIES):
        raise ValueError(f"its sampling_schedule is {other!r:.40}")
    channels, height, width = state["shape"]
    if not all(type(side) is int and 1 <= side <= 4096 for side in (channels, height, width)):
        raise ValueError(f"its shape is {state['shape']!r:.40}")


def compiled(net: nn.Module, how: str, **options) -> nn.Module:
    """The same network, its passes compiled if `how` says so; weights and names stay.

    Graphs are recorded around the compiled network (graphs.py), not by the compiler.
    """
    if how != "off":
        net.compile(**{"mode": "default", "dynamic": False, **options})
    return net
