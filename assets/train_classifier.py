"""Train the classifier behind the `mnist` feature extractor from scratch, and write it to assets/.

    python -m assets.train_classifier --data_dir data

The shipped one classifies 9,960 of MNIST's 10,000 test images as labelled (one seed); its
command, data and versions are in assets/mnist_classifier.json.
"""

import sys

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m assets.train_classifier"
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", default="data", help="folder that holds MNIST/raw")
    data.add_argument(
        "--train_images", type=cli.count, default=60000, help="number of training images, the first"
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs", type=cli.count, default=12, help="passes over the training images"
    )
    training.add_argument("--batch_size", type=cli.count, default=128, help="images in a step")
    training.add_argument(
        "--lr", type=cli.positive, default=3e-3, help="peak learning rate of the one cycle"
    )
    training.add_argument(
        "--weight_decay", type=cli.number(float, 0), default=0.02, help="weight decay of AdamW"
    )
    runtime = parser.add_argument_group("runtime")
    runtime.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order and distortions"
    )
    runtime.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", default="assets/mnist_classifier", help="path to write, without .pt and .json"
    )
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

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

from common.data import Source, fingerprint, to_unit
from common.errors import Stop, guarded
from common.extractors import MnistClassifier

TEST_CHUNK = 1000


def main(args) -> None:
    """Train, fold batch norm away, round to float16, measure what is shipped, save."""
    torch.manual_seed(args.seed)
    images = {name: Source("mnist", args.data_dir).images(name) for name in ("train", "test")}
    labels = {name: Source("mnist", args.data_dir).labels(name) for name in ("train", "test")}
    images = {name: x.to(args.device) for name, x in images.items()}
    net = with_batch_norm().to(args.device)
    begin = time.time()
    train(
        net,
        images["train"][: args.train_images],
        labels["train"][: args.train_images].to(args.device),
        args.epochs,
        args.batch_size,
        args.lr,
        args.weight_decay,
    )
    weights = {name: value.half() for name, value in folded(net).state_dict().items()}
    right, tested = count_right(weights, images["test"], labels["test"]), len(labels["test"])
    flags = cli.to_argv(make_parser(), args)
    record = {
        "accuracy": right / tested,
        "test_images": tested,
        "errors": tested - right,
        "parameters": sum(value.numel() for value in weights.values()),
        "command": " ".join(["python -m assets.train_classifier", *flags]),
        "seconds": round(time.time() - begin),
        "data": {name: fingerprint(x) for name, x in images.items()},
        "arguments": {k: v for k, v in vars(args).items() if k not in ("data_dir", "out")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    save(weights, record, Path(args.out))


def train(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
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
            x = distort(to_unit(images[chosen]))
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


def with_batch_norm() -> nn.Sequential:
    """The classifier with batch norm behind each convolution and dropout before the last layer."""
    plain = MnistClassifier()
    layers = nn.Sequential()
    for layer in plain.body:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    return layers.extend([nn.Dropout(0.2), plain.head])


def folded(net: nn.Sequential) -> MnistClassifier:
    """The plain classifier that computes what `net` does in eval mode."""
    plain, layers = MnistClassifier(), list(net.eval().cpu())
    sources = []
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            sources.append(fuse_conv_bn_eval(layer, following))
        elif isinstance(layer, nn.Linear):
            sources.append(layer)
    targets = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for target, source in zip(targets, sources, strict=True):
        target.load_state_dict(source.state_dict())
    return plain


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


def count_right(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> int:
    """How many images (uint8) the weights as shipped, in float32, classify as labelled."""
    net = MnistClassifier()
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
