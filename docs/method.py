"""Draw the method in one picture, with the shipped network.

python -m docs.method     writes docs/figures/method.png
"""

from pathlib import Path

from common import cli

DOCS = Path(__file__).resolve().parent
CHECKPOINT = DOCS.parent / "assets" / "mnist.pt"


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m docs.method"
    parser.add_argument(
        "--ckpt", type=Path, default=CHECKPOINT, help="checkpoint of the network that draws"
    )
    parser.add_argument(
        "--out", type=Path, default=DOCS / "figures" / "method.png", help="picture to write"
    )
    return parser


if __name__ == "__main__":  # before torch is imported: -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import torch

from common import figures
from common.sampling import load_sampler

UPPER, LOWER, INK = "#b5442e", "#2b6ca3", "#333333"
STAGES = 5  # pictures of each way


def two_ways(checkpoint: Path):
    """Digits on their way to noise, and noise on its way to digits: two lists of pictures."""
    net, sampler = load_sampler(checkpoint, torch.device("cpu"))
    process = sampler.process
    drawn = sampler.film(net, 40, frames=24)
    x0, eps = drawn[-1][34:35], torch.randn(1, *sampler.shape, generator=torch.manual_seed(1))
    levels, times = process.levels(), torch.linspace(0, process.schedule.timesteps, STAGES).long()
    noised = [levels.signal[t] * x0 + levels.noise[t] * eps for t in times]
    chosen = torch.linspace(0, len(drawn) - 1, STAGES).long().tolist()
    return process.schedule, noised, [drawn[i][32:33] for i in chosen]


def row_of_pictures(figure, pictures, left, bottom, labels):
    width = 0.062
    for i, (x, label) in enumerate(zip(pictures, labels, strict=True)):
        axis = figure.add_axes((left + i * (width + 0.008), bottom, width, 0.15))
        axis.imshow(x[0, 0], cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(label, fontsize=9, color=INK)


def curve(figure, schedule):
    axis = figure.add_axes((0.05, 0.63, 0.16, 0.24))
    alpha_bar = schedule.alpha_bar().detach()
    axis.plot(torch.linspace(0, 1, len(alpha_bar)), alpha_bar, color=UPPER, linewidth=2)
    axis.set(xticks=[0, 1], yticks=[0, 1])
    axis.set_xlabel("t/T", fontsize=9, labelpad=-8)
    axis.set_title("noise schedule alpha_bar(t; q)\nq = start, end, tau, epsilon", fontsize=10)


def network(figure):
    """The U-Net as bars: as high as its maps, as wide as their channels."""
    axis = figure.add_axes((0.645, 0.36, 0.14, 0.3))
    heights, widths = (28, 14, 7, 14, 28), (0.5, 1, 1.6, 1, 0.5)
    at, centres = 0.0, []
    for height, width in zip(heights, widths, strict=True):
        axis.bar(at, height, width, -height / 2, align="edge", color=LOWER, alpha=0.8)
        centres.append(at + width / 2)
        at += width + 0.45
    for a, b, y in ((0, 4, 16), (1, 3, 9)):
        arrow(axis, (centres[a], y - 1.5), (centres[b], y - 1.5), LOWER, bend=-0.25)
    axis.set(xlim=(-0.3, at), ylim=(-15, 26))
    axis.axis("off")
    axis.set_title("U-Net eps(x_t, t; theta)", fontsize=10, y=-0.16)


def distance(figure):
    """Two clouds of features and their Gaussians."""
    axis = figure.add_axes((0.05, 0.12, 0.16, 0.27))
    random = torch.manual_seed(0)
    for shift, color, label in ((0.0, INK, "training digits"), (1.6, UPPER, "drawn digits")):
        x = torch.randn(2, 60, generator=random) * torch.tensor([[1.0], [0.6]])
        axis.scatter(x[0] + shift, x[1] + shift / 2, s=5, color=color, alpha=0.6, label=label)
    axis.set(xticks=[], yticks=[], xlim=(-3, 5), ylim=(-2, 4))
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    axis.set_title("FID(q, theta): two clouds of features", fontsize=10)


def arrow(axis, start, end, color, bend=0.0, label="", label_at=None):
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.6}
    style["connectionstyle"] = f"arc3,rad={bend}"
    axis.annotate("", end, start, arrowprops=style)
    if label:
        axis.text(*label_at, label, color=color, fontsize=10, ha="center", va="center")


def draw(checkpoint: Path, path: Path) -> None:
    schedule, noised, drawn = two_ways(checkpoint)
    figure, ((page,),) = figures.subplots(1, 1, 11.5, 4.8)
    figure.set_layout_engine("none")
    page.set_position((0, 0, 1, 1))
    page.set(xlim=(0, 1), ylim=(0, 1))
    page.axis("off")
    curve(figure, schedule)
    distance(figure)
    network(figure)
    row_of_pictures(figure, noised, 0.27, 0.67, ["x_0", "", "x_t", "", "x_T"])
    row_of_pictures(figure, drawn[::-1], 0.27, 0.17, ["x_0", "", "", "", "x_T"])
    page.text(0.44, 0.9, "forward process: more noise with t", ha="center", fontsize=10)
    page.text(0.44, 0.4, "sampling (DDIM): the noise is taken away", ha="center", fontsize=10)
    arrow(page, (0.22, 0.74), (0.262, 0.74), INK)
    arrow(page, (0.622, 0.72), (0.65, 0.64), LOWER)
    arrow(page, (0.65, 0.37), (0.622, 0.29), LOWER)
    arrow(page, (0.262, 0.25), (0.22, 0.25), INK)
    text = "lower level\ntheta follows the\ndenoising loss\n|eps − eps(x_t, t; theta)|²"
    arrow(page, (0.80, 0.6), (0.80, 0.42), LOWER, -0.9, text, (0.91, 0.51))
    text = "upper level: q follows dFID/dq"
    arrow(page, (0.13, 0.45), (0.13, 0.575), UPPER, 0, text, (0.255, 0.515))
    figures.save(figure, path)


if __name__ == "__main__":
    draw(ARGS.ckpt, ARGS.out)
