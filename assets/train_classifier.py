"""Trains the classifier behind the `mnist` feature extractor from scratch, and writes assets/.

python -m assets.train_classifier --data_dir data
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

from common.errors import Stop


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; no torch is imported yet, so a wrong flag answers at once."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", default="data", help="folder that holds MNIST/raw")
    data.add_argument("--train_images", type=int, default=60000, help="train on the first so many")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=12, help="passes over the training images")
    training.add_argument("--batch_size", type=int, default=128, help="images a step")
    training.add_argument("--lr", type=float, default=3e-3, help="peak learning rate, one cycle")
    training.add_argument("--weight_decay", type=float, default=0.02, help="AdamW's")
    runtime = parser.add_argument_group("runtime")
    runtime.add_argument("--seed", type=int, default=0, help="of weights, order and distortions")
    runtime.add_argument("--device", default="cpu", help="cpu or cuda")
    output = parser.add_argument_group("output")
    output.add_argument("--out", default="assets/mnist_classifier", help="path without .pt, .json")
    args = parser.parse_args(argv)
    for name in ("train_images", "epochs", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not (0 < args.lr < math.inf and 0 <= args.weight_decay < math.inf):
        parser.error("--lr must be above 0 and --weight_decay at least 0")
    return args


def main(argv: list[str]) -> None:
    """Train, fold batch norm away, round to float16, measure what is shipped, save."""
    args = parse_arguments(argv)
    import torch

    from common.data import fingerprint, load_images, load_labels, to_unit

    torch.manual_seed(args.seed)
    split = {}
    for name in ("train", "test"):
        images = load_images("mnist", args.data_dir, name)
        split[name] = (images.to(args.device), load_labels("mnist", args.data_dir, name))
    train_x, train_y = (part[: args.train_images] for part in split["train"])
    train_y = train_y.to(args.device)
    net = with_batch_norm().to(args.device)
    steps = args.epochs * math.ceil(len(train_x) / args.batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, steps, pct_start=0.2)

    start = time.time()
    for epoch in range(args.epochs):
        losses = []
        for chosen in torch.randperm(len(train_x)).to(args.device).split(args.batch_size):
            x = distort(to_unit(train_x[chosen]))
            loss = torch.nn.functional.cross_entropy(net(x), train_y[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
            losses.append(loss.detach())
        seconds = time.time() - start
        print(
            f"epoch {epoch + 1:3d}  loss {torch.stack(losses).mean():.4f}  {seconds:.0f} s",
            flush=True,
        )
        if not torch.stack(losses).isfinite().all():
            raise Stop("the loss is not finite; try a smaller --lr")

    weights = {name: value.half() for name, value in folded(net).state_dict().items()}
    images, labels = split["test"]
    right = count_right(weights, to_unit(images), labels)
    record = {
        "accuracy": right / len(labels),
        "test_images": len(labels),
        "errors": len(labels) - right,
        "parameters": sum(value.numel() for value in weights.values()),
        "command": "python -m assets.train_classifier " + " ".join(argv),
        "seconds": round(seconds),
        "data": {name: fingerprint(part[0]) for name, part in split.items()},
        "arguments": {k: v for k, v in vars(args).items() if k not in ("data_dir", "out")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    save(weights, record, Path(args.out))


def with_batch_norm():
    """The classifier with batch norm behind each convolution and dropout before the last layer."""
    from torch import nn

    from common.extractors import MnistClassifier

    plain = MnistClassifier()
    layers = nn.Sequential()
    for layer in plain.body:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    return layers.extend([nn.Dropout(0.2), plain.head])


def folded(net):
    """The plain classifier that computes what `net` does in eval mode."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from common.extractors import MnistClassifier

    plain, layers = MnistClassifier(), list(net.eval().cpu())
    kept = []
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            kept.append(fuse_conv_bn_eval(layer, after))
        elif isinstance(layer, nn.Linear):
            kept.append(layer)
    mine = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, source in zip(mine, kept, strict=True):
        layer.load_state_dict(source.state_dict())
    return plain


def distort(x):
    """A random rotation, scale, shear and shift of each image, black outside."""
    import torch
    import torch.nn.functional as F

    def uniform(bound, *shape):
        return (torch.rand(len(x), *shape, device=x.device) * 2 - 1) * bound

    angle, shear, scale = uniform(0.2), uniform(0.2), 1 + uniform(0.12, 2)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos, shear - sin, sin + shear, cos], 1).view(-1, 2, 2) * scale[:, :, None]
    theta = torch.cat([theta, uniform(0.15, 2, 1)], 2)  # (N,2,3); 0.15 is two pixels
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def count_right(weights, x, labels):
    """How many test images the weights as shipped, in float32, classify as labelled."""
    import torch

    from common.extractors import MnistClassifier

    net = MnistClassifier()
    net.load_state_dict(weights)
    with torch.no_grad():
        guess = torch.cat([net(part)[1].argmax(1) for part in x.cpu().split(1000)])
    return int((guess == labels).sum())


def save(weights, record, out):
    """The weights, and beside them what they are, with their SHA-256."""
    import hashlib

    import torch

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
    try:
        main(sys.argv[1:])
    except Stop as stop:
        print(f"train_classifier.py: {stop}", file=sys.stderr)
        sys.exit(stop.code)
