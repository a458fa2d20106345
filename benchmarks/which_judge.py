"""Which judge does a person agree with? Sets of images whose faults are known, by every judge.

    python -m benchmarks.which_judge --data_dir data

writes docs/results/which_judge.csv and, to look at, docs/figures/which_judge.png: training images
with growing faults, training images that lack digits, and samples of assets/mnist.pt.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.which_judge"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("images", 300, "images of each set", type=cli.number(int, 20))
    text = "measure only sizes of this list; samples of the network are of size 28"
    add("image_size", [8, 28], text, nargs="+", type=int, choices=[8, 16, 28])
    add("steps", [5, 20], "DDIM steps of the samples; none: no samples", nargs="*", type=cli.count)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.record import RESULTS, ROOT
from common import figures
from common.data import Source, to_unit
from common.judging import Judges
from common.sampling import SamplerSettings, load_sampler
from common.scores import COLUMNS, JUDGES_COLUMNS
from common.tables import write_csv

TABLE, FIGURE = RESULTS / "which_judge.csv", ROOT / "docs" / "figures" / "which_judge.png"
NETWORK = ROOT / "assets" / "mnist.pt"
SHOWN = 10  # images of a set in the figure
BLUR, NOISE, HOLE, SHIFT = (1.0, 1.7, 2.6), (0.1, 0.3, 0.6), (7, 10, 14), (1, 2, 4)  # at 28 pixels
DIGITS = (8, 4, 1)  # how many of the ten are left
Sets = dict[tuple[str, str], Tensor]


def blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur; black outside."""
    reach = max(1, round(3 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (line[:, None] * line / line.sum() ** 2)[None, None]
    return F.conv2d(x + 1, kernel, padding=reach) - 1


def with_holes(x: Tensor, side: int) -> Tensor:
    """A black square around one pixel of each image's ink."""
    ink = (x > 0).flatten(1).float() + 1e-9
    centre = torch.multinomial(ink, 1).squeeze(1)
    rows, columns = centre // x.shape[-1], centre % x.shape[-1]
    axis = torch.arange(x.shape[-1])
    offsets = [axis - place[:, None] + side // 2 for place in (rows, columns)]
    near = [(offset >= 0) & (offset < side) for offset in offsets]  # (N,H), (N,W)
    return torch.where((near[0][:, :, None] & near[1][:, None, :])[:, None], -1.0, x)


def shifted(x: Tensor, by: int) -> Tensor:
    """Moved to one of the four sides, a quarter of the images each."""
    parts = x.chunk(4)
    moves = ((0, by), (0, -by), (by, 0), (-by, 0))
    padded = (F.pad(part, [by] * 4, value=-1.0) for part in parts)
    size = slice(by, by + x.shape[-1])
    rolled = (p.roll(m, (2, 3))[..., size, size] for p, m in zip(padded, moves, strict=True))
    return torch.cat(list(rolled))


def faulty_sets(pixels: Tensor, labels: Tensor, n: int) -> Sets:
    """(fault, degree) -> images, the degrees of a fault from mild to strong."""
    side, order = pixels.shape[-1], torch.randperm(len(pixels))
    x, scale = to_unit(pixels[order[:n]]), pixels.shape[-1] / 28
    sets: Sets = {("none", "training images"): x}
    for sigma in BLUR:
        sets["blur", f"sigma {sigma * scale:.2g} px"] = blurred(x, sigma * scale)
    for sd in NOISE:
        sets["noise", f"sd {sd}"] = (x + sd * torch.randn_like(x)).clamp(-1, 1)
    for hole in HOLE:
        width = round(hole * scale)
        sets["holes", f"{width}x{width} of {side}x{side}"] = with_holes(x, width)
    for move in sorted({max(1, round(move * scale)) for move in SHIFT}):
        sets["shift", f"{move} px"] = shifted(x, move)
    for left in DIGITS:
        of_these = order[labels[order] < left][:n]
        sets["digits left", f"{left} of 10"] = to_unit(pixels[of_these])
    repeated = to_unit(pixels[order[: -(-n // 20)]]).repeat(20, 1, 1, 1)[:n]
    sets["repeated", f"{-(-n // 20)} images 20 times"] = repeated
    return sets


def samples(n: int, steps: list[int]) -> Sets:
    """Images of the shipped network from the same noise, with clipping of x_0 and without."""
    net, sampler = load_sampler(NETWORK, "cpu")
    sets = {}
    for clip in (True, False):
        for count in steps:
            name = "samples" if clip else "samples, no clipping"
            sampler.settings = SamplerSettings(count, clip=clip)
            sets[name, f"{count} steps"] = torch.cat(list(sampler.many(net, n, "report"))).clone()
    return sets


def measure(data_dir: str, sizes: list[int], n: int, steps: list[int]) -> dict[int, Sets]:
    """Every set of every size by every judge, and the CSV file."""
    torch.manual_seed(0)
    digest = hashlib.sha256(NETWORK.read_bytes()).hexdigest()[:16]  # whose samples these are
    rows, shown = [], {}
    for size in sizes:
        flags = {"dataset": "mnist", "image_size": size, "data_dir": data_dir, "eval_samples": n}
        flags |= {"inception_weights": None, "cache_dir": str(ROOT / "cache")}
        judges = Judges.from_flags("cpu", extractor="mnist", **flags)
        source = Source("mnist", data_dir, size)
        sets = faulty_sets(source.images("train"), source.labels("train"), n)
        shown[size] = sets | (samples(n, steps) if size == 28 else {})
        for (fault, degree), x in shown[size].items():
            scores = judges.score(x.split(500))
            about = {"image_size": size, "fault": fault, "degree": degree, "n": scores["n"]}
            numbers = {k: f"{scores[k]:.5g}" for k in (*COLUMNS, *JUDGES_COLUMNS)}
            network = digest if fault.startswith("samples") else ""
            rows.append(about | numbers | {"reference": scores["reference"], "network": network})
            print(*rows[-1].values(), sep=",", flush=True)
        write_csv(TABLE, rows)
    return shown


def draw(shown: dict[int, Sets]) -> None:
    """A strip of images a set, a panel a size."""
    figure, axes = figures.axes_of(len(shown), width=6)
    for axis, (size, sets) in zip(axes, shown.items(), strict=True):
        picture = figures.grid(torch.cat([x[:SHOWN] for x in sets.values()]), SHOWN)
        axis.imshow(picture, interpolation="nearest", aspect="equal")
        step = picture.shape[0] / len(sets)
        labels = [f"{fault}, {degree}" for fault, degree in sets]
        axis.set_yticks([(i + 0.5) * step for i in range(len(sets))], labels, fontsize=6)
        axis.set(xticks=[], title=f"{size}x{size}")
    figure.set_size_inches(13, 11)
    figures.save(figure, FIGURE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(measure(ARGS.data_dir, ARGS.image_size, ARGS.images, ARGS.steps))
