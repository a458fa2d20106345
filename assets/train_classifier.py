"""Train a classifier whose features judge images, and write it to assets/.

    python -m assets.train_classifier --network mnist --data_dir data
    python -m assets.train_classifier --network second --image_size 8 --data_dir data

`mnist` learns from all training images, `first` from the first half of them and `second` from the
other half: neither has seen what the other learned from. Beside each file a record in JSON holds
its command, accuracy, data and versions.
"""

import sys

from common import cli

NETWORKS = ("mnist", "first", "second")


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m assets.train_classifier"
    add = cli.adder(parser, "data")
    text = "mnist: the extractor for 28x28 images of MNIST; first, second: two independent judges"
    add("network", "mnist", text, choices=NETWORKS)
    add("dataset", "mnist", "data set to learn", choices=["mnist", "fashion"])
    add("image_size", 28, "pixels of a side", type=int, choices=[8, 16, 28])
    add("data_dir", "data", "folder that holds the data set")
    text = "number of training images, the first of the network's part; 0: all of them"
    add("train_images", 0, text, type=cli.count_or_none)
    add = cli.adder(parser, "training")
    add("epochs", 12, "passes over the training images", type=cli.count)
    add("batch_size", 128, "images in a step", type=cli.count)
    add("lr", 3e-3, "peak learning rate of the one cycle", type=cli.positive)
    add("weight_decay", 0.02, "weight decay of AdamW", type=cli.number(float, 0))
    add = cli.adder(parser, "runtime")
    add("seed", 0, "seed of weights, order and distortions", type=int)
    add("device", "cpu", "cpu or cuda", type=cli.named_device)
    add("threads", 0, "CPU threads; 0: torch's default", type=cli.threads)
    text = "path to write, without .pt and .json (default: where the judges look for it)"
    cli.adder(parser, "output")("out", None, text)
    return parser


def parse(argv=None):
    """The arguments; the extractor for MNIST is made for MNIST alone."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.network == "mnist" and (args.dataset, args.image_size) != ("mnist", 28):
        parser.error("--network mnist is for 28x28 images of MNIST; give --network first or second")
    return args


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = parse()

import hashlib
import json
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.classifiers import Mixer
from common.data import Source, fingerprint, to_unit
from common.datasets import FRAME_SIDE
from common.errors import Stop, guarded
from common.extractors import make_classifier
from common.judge_files import weights_path

TEST_CHUNK = 1000


def main(args) -> None:
    """Train, fold batch norm away, round to float16, measure what is shipped, save."""
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    source = Source(args.dataset, args.data_dir, args.image_size)
    at_rest = source if args.network == "mnist" else source._replace(image_size=FRAME_SIDE)
    labels = source.labels("train")
    part = part_of(args.network, len(labels), args.train_images)
    images, labels = at_rest.images("train")[part], labels[part]
    data = fingerprint(images), fingerprint(source.images("test"))
    net = trainable(args.network, args.image_size).to(args.device)
    begin = time.time()
    shrink = Shrink(args.image_size)
    images, labels = images.to(args.device), labels.to(args.device)
    train(net, images, labels, shrink, args.epochs, args.batch_size, args.lr, args.weight_decay)
    shipped = folded(net, make_classifier(args.network, args.image_size))
    weights = {name: value.half() for name, value in shipped.state_dict().items()}
    truth = source.labels("test")
    right = count_right(shipped, weights, source.images("test"), truth)
    kept = {k: v for k, v in vars(args).items() if k not in ("data_dir", "out")}
    flags = cli.to_argv(make_parser(), args, skip=("data_dir", "out"))
    record = {
        "accuracy": right / len(truth),
        "test_images": len(truth),
        "errors": len(truth) - right,
        "parameters": sum(value.numel() for value in weights.values()),
        "command": " ".join(["python -m assets.train_classifier", *flags]),
        "seconds": round(time.time() - begin),
        "training_images": [part.start, part.stop - 1],  # the first and the last
        "data": dict(zip(("train", "test"), data, strict=True)),
        "arguments": kept,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    default = weights_path(args.network, args.dataset, args.image_size)
    save(weights, record, Path(args.out) if args.out else default)


def part_of(network: str, images: int, limit: int = 0) -> slice:
    """The training images of a network: all, the first half or the second."""
    half = images // 2
    start, stop = {"mnist": (0, images), "first": (0, half), "second": (half, images)}[network]
    return slice(start, min(stop, start + limit) if limit else stop)


class Shrink:
    """Images of 32x32 at another size: the middle of them, or the means of blocks."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        if self.size > side // 2:
            cut = (side - self.size) // 2
            return x[..., cut : side - cut, cut : side - cut]
        return F.avg_pool2d(x, side // self.size)


def train(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    shrink: Shrink,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
) -> None:
    """AdamW with one cycle of the learning rate, on distorted images."""
    steps = epochs * math.ceil(len(images) / batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.2)
    begin = time.time()
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(images)).to(images.device).split(batch_size):
            x = shrink(distort(to_unit(images[chosen])))
            loss = F.cross_entropy(net(x), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
            losses.append(loss.detach())
        losses, seconds = torch.stack(losses), time.time() - begin
        print(f"epoch {epoch + 1:3d}  loss {losses.mean():.4f}  {seconds:.0f} s", flush=True)
        if not losses.isfinite().all():
            raise Stop("the loss is not finite; try a smaller --lr")


def trainable(network: str, size: int) -> nn.Sequential:
    """The network with batch norm behind each convolution and dropout before the last layer."""
    shipped = make_classifier(network, size)
    if isinstance(shipped, Mixer):
        return nn.Sequential(Features(shipped), nn.Dropout(0.2), shipped.head)
    layers = nn.Sequential()
    for layer in shipped.body:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    return layers.extend([nn.Dropout(0.2), shipped.head])


class Features(nn.Module):
    """A mixer without its last layer."""

    def __init__(self, net: Mixer):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


def folded(net: nn.Sequential, shipped: nn.Module) -> nn.Module:
    """`shipped` with the weights that compute what `net` does in eval mode."""
    layers = list(net.eval().cpu())
    if isinstance(layers[0], Features):
        return layers[0].net
    sources = []
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            sources.append(fuse_conv_bn_eval(layer, following))
        elif isinstance(layer, nn.Linear):
            sources.append(layer)
    targets = [layer for layer in shipped.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for target, source in zip(targets, sources, strict=True):
        target.load_state_dict(source.state_dict())
    return shipped


def distort(x: Tensor) -> Tensor:
    """A random rotation, scale, shear and shift of each image, black outside."""

    def uniform(bound, *shape):
        return (torch.rand(len(x), *shape, device=x.device) * 2 - 1) * bound

    angle, shear, scale = uniform(0.2), uniform(0.2), 1 + uniform(0.12, 2)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos, shear - sin, sin + shear, cos], 1).view(-1, 2, 2) * scale[:, :, None]
    theta = torch.cat([theta, uniform(0.15, 2, 1)], 2)  # (N,2,3); 0.15 is two pixels
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def count_right(net: nn.Module, weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> int:
    """How many images (uint8) the weights as shipped, in float32, classify as labelled."""
    net.load_state_dict(weights)
    with torch.no_grad():
        parts = to_unit(images).cpu().split(TEST_CHUNK)
        guess = torch.cat([net(part)[1].argmax(1) for part in parts])
    return int((guess == labels).sum())


def save(weights: dict[str, Tensor], record: dict, out: Path) -> None:
    """The weights, and beside them what they are, with their SHA-256."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".pt")
    torch.save(weights, path)
    content = path.read_bytes()
    record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(
        f"{path}: {record['accuracy']:.2%} on {record['test_images']} test images, "
        f"{record['bytes']} bytes"
    )


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "train_classifier"))
