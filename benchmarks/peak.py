"""How much memory do training and a bilevel iteration need? Prints the peak in bytes.

    python -m benchmarks.peak "our training"

The work is done twice, with the mnist extractor and two sampling steps; bench.py starts this in a
process of its own for each, since a process never shrinks its peak.
"""

from common import cli

KINDS = ("plain training", "our training", "our bilevel iteration")


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.peak"
    parser.add_argument("kind", choices=KINDS, help="what to run twice")
    add = cli.adder(parser)
    add("device", "cpu", "cpu or cuda", type=cli.named_device)
    add("threads", 1, "CPU threads", type=cli.threads_given)
    add("base", 64, "channels of the network", type=cli.count)
    add("batch_size", 128, "images per training step", type=cli.count)
    add("images", 36, "images of a sampling", type=cli.count)
    add("amp", False, "run in bfloat16", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from copy import deepcopy

import torch

from benchmarks.sides import Sides, Sizes
from common.machine import keep_freed_memory, peak_memory
from common.uncoupled import loss_difference


def peak(kind: str, sizes: Sizes) -> int:
    """What `kind` needs, in bytes."""
    sides = Sides(sizes)
    keep_freed_memory()
    net = sides.plain if kind.startswith("plain") else sides.ours
    twin = deepcopy(net) if "bilevel" in kind else None
    for _ in range(2):
        sides.train(net)
        if twin:
            sides.train(net, sides.slope_of_weights().gradient)
            sides.slope_of_schedule("zo")
            loss_difference(sides.process, net, twin, sides.x0, 0, 0)
    return peak_memory(torch.device(sizes.device))[
        "cuda" if sizes.device.startswith("cuda") else "host"
    ]


def main(args) -> None:
    torch.set_num_threads(args.threads)
    sizes = Sizes(args.device, args.base, args.batch_size, 2, args.images, "mnist", args.amp)
    print(peak(args.kind, sizes))


if __name__ == "__main__":
    main(ARGS)
