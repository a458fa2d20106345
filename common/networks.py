"""Networks: the one that the flags ask for, the one in a checkpoint, compiled or not."""

import torch
from torch import nn

from common import checkpoint
from common.errors import Stop
from common.fast_unet import UNet


def make_network(args, device) -> UNet:
    """The U-Net of the flags, with the weights of --ckpt if it is given."""
    torch.manual_seed(args.seed)  # the same weights whatever was loaded before
    net = UNet(args.model_base_dim, timesteps=args.timesteps).to(device)
    if args.ckpt:
        given, state = load_network(args.ckpt, device)
        try:
            net.load_state_dict(given.state_dict())
        except RuntimeError:
            its = [f"--{n} {state['args'][n]}" for n in ("model_base_dim", "timesteps")]
            raise Stop(f"{args.ckpt}: was made with {' '.join(its)}", code=2) from None
    return compiled(net, args.compile)


def load_network(path: str, device) -> tuple[UNet, dict]:
    """The averaged network in a checkpoint, ready to sample, and the checkpoint."""
    state = checkpoint.load(path)
    try:
        args = state["args"]
        net = UNet(args["model_base_dim"], timesteps=args["timesteps"]).to(device)
        weights = state["ema"]
        net.load_state_dict(
            {k.removeprefix("module."): v for k, v in weights.items() if k != "n_averaged"}
        )
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise Stop(f"{path}: not a checkpoint of a run ({reason})") from None
    return net.eval().requires_grad_(False), state


def compiled(net: nn.Module, how: str, **options) -> nn.Module:
    """The same network, its passes compiled if `how` says so; weights and names stay."""
    if how != "off":
        mode = "reduce-overhead" if how == "graphs" else "default"
        net.compile(**{"mode": mode, "dynamic": False, **options})
    return net
