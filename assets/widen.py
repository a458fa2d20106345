"""Give a checkpoint's network more channels: it computes the same until it is trained further.

python -m assets.widen --base 48 --out wide.pt    the shipped network, ready for --ckpt wide.pt
"""

import sys
from pathlib import Path

from common import cli, flags
from common.locate import find_checkpoint


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m assets.widen"
    text = "channels that the first layer is given, a multiple of 4"
    parser.add_argument("--base", type=flags.WIDTH, required=True, help=text)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    add = cli.adder(parser)
    text = "checkpoint whose network is widened, or a run with checkpoints"
    add("ckpt", "assets/mnist.pt", text, metavar="FILE|RUN")
    add("seed", 0, "seed of the weights that are new", type=flags.SEED)
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import torch
from torch import Tensor, nn

from common import checkpoint
from common.errors import Stop, guarded
from common.networks import load_network
from unet import AddTime, UNet

# A list of places says which channel of the wide network each of the narrow one's channels becomes.
# What reads them gets its old weights there and zeros from every other place, so that the new
# channels change nothing at first; what they themselves compute is drawn as for a new network.


def spread(old: int, new: int) -> Tensor:
    """Places such that each half of the old channels stays in its half of the new ones."""
    half = (old + 1) // 2
    return torch.cat([torch.arange(half), torch.arange(old - half) + new // 2])


def halves(places: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """Places within the halves into which a block cuts its `new` channels."""
    left, right = places.chunk(2)
    return left, right - new // 2


def shuffled(left: Tensor, right: Tensor) -> Tensor:
    """Places after the halves' channels have been interleaved."""
    return torch.stack([2 * left, 2 * right + 1], dim=1).flatten()


def dense(old: nn.Module, new: nn.Module, into: Tensor, out: Tensor) -> None:
    """A convolution or a linear layer that reads channels at `into` and writes them at `out`."""
    new.weight[out] = 0
    new.weight[out[:, None], into] = old.weight
    new.bias[out] = old.bias


def channelwise(old: nn.Module, new: nn.Module, places: Tensor) -> None:
    """A depthwise convolution or a batch norm: every tensor has an entry a channel."""
    wide = new.state_dict()
    for name, tensor in old.state_dict().items():
        wide[name][places] = tensor


def conv(old: nn.Sequential, new: nn.Sequential, into: Tensor) -> Tensor:
    """unet.py's conv_bn_silu."""
    out = spread(old[0].out_channels, new[0].out_channels)
    dense(old[0], new[0], into, out)
    channelwise(old[1], new[1], out)
    return out


def path(old: nn.Sequential, new: nn.Sequential, places: Tensor) -> Tensor:
    """One side of a block: convolutions and depthwise ones in any order."""
    for before, after in zip(old, new, strict=True):
        if before[0].groups > 1:
            for pair in zip(before, after, strict=True):
                channelwise(*pair, places)
        else:
            places = conv(before, after, places)
    return places


def block(old: nn.Module, new: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    """A Bottleneck or a Downsample."""
    return shuffled(path(old.left, new.left, left), path(old.right, new.right, right))


def bottlenecks(old: nn.Sequential, new: nn.Sequential, left: Tensor, right: Tensor) -> Tensor:
    """Blocks one after the other, of which each halves what the one before has shuffled."""
    for before, after in zip(old, new, strict=True):
        places = block(before, after, left, right)
        left, right = halves(places, after.right[-1][0].out_channels * 2)
    return places


def time(old: AddTime, new: AddTime, places: Tensor) -> None:
    before, after = old.project, new.project
    hidden = torch.arange(before[0].out_features)
    dense(before[0], after[0], torch.arange(before[0].in_features), hidden)
    dense(before[2], after[2], hidden, places)


@torch.no_grad()
def widen(old: UNet, new: UNet) -> None:
    """Write the weights of a narrow network into a wide one, in the order of its forward pass."""
    new.embed.load_state_dict(old.embed.state_dict())
    places, skips = conv(old.first, new.first, torch.arange(old.first[0].in_channels)), []
    width = new.first[0].out_channels
    for before, after in zip(old.encoders, new.encoders, strict=True):
        places = bottlenecks(before.bottlenecks, after.bottlenecks, *halves(places, width))
        skips.append(places)
        time(before.time, after.time, places)
        places = block(before.down, after.down, places, places)
        width = after.down.right[-1][0].out_channels * 2
    places = bottlenecks(old.middle, new.middle, *halves(places, width))
    for before, after in zip(old.decoders, new.decoders, strict=True):
        # the two would be concatenated, and are the halves of what that gives
        places = bottlenecks(before.bottlenecks, after.bottlenecks, places, skips.pop())
        time(before.time, after.time, places)
        width = after.time.project[2].out_features
        places = block(before.last, after.last, *halves(places, width))
    dense(old.last, new.last, places, torch.arange(old.last.out_channels))


def main(args) -> None:
    try:
        ckpt = find_checkpoint(args.ckpt)
    except ValueError as error:
        raise Stop(f"--ckpt {args.ckpt}: {error}", code=2) from None
    net, state = load_network(ckpt, "cpu")
    narrow, timesteps = state["args"]["model_base_dim"], state["args"]["timesteps"]
    if args.base % 4 or args.base <= narrow:
        raise Stop(f"--base {args.base}: not a multiple of 4 above {narrow}", code=2)
    old = UNet(narrow, timesteps=timesteps)
    old.load_state_dict(net.state_dict())
    torch.manual_seed(args.seed)
    new = UNet(args.base, timesteps=timesteps)
    widen(old, new)
    wide = {"args": state["args"] | {"model_base_dim": args.base}, "ema": new.state_dict()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(args.out, state | wide)
    size = f"--model_base_dim {args.base} --timesteps {timesteps}"
    print(f"wrote {args.out}; to train it: train_mnist.py --ckpt {args.out} {size}")


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "widen"))
