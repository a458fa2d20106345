"""What does a first run do before its first step? Does it, on scikit-learn's digits, and ends.

    python -m benchmarks.set_up

bench.py times this process from start to end; the reference statistics are cached by then.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.set_up"
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    make_parser().parse_args()

import train_mnist
from common.data import Source
from common.judging import Judge
from common.machine import setup
from common.networks import make_network
from common.training import Average, make_optimizer


def main() -> None:
    flags = ["--cpu", "--dataset", "digits"]
    args = cli.parse(train_mnist.make_parser(), "train", train_mnist.check, flags)
    device = setup(args.device, args.cpu, args.threads)
    Source(args.dataset, args.data_dir).images("train").to(device)
    Judge.from_flags(device, **vars(args))
    net = make_network(args.model_base_dim, args.timesteps, device)
    make_optimizer(net.parameters(), args.lr)
    Average(net, 0.9, args.model_ema_steps, 100)


if __name__ == "__main__":
    main()
