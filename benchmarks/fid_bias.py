"""What FID reads when the truth is known: its bias at small n, and its floor on real images.

python -m benchmarks.fid_bias --data_dir data    writes docs/results/fid_bias.csv and the figure
python -m benchmarks.fid_bias --data_dir data --floor    writes docs/results/fid_floor.csv
"""

import argparse
import csv
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
from common.data import load_images
from common.extractors import load_extractor
from common.judging import Judge, real_batches, reference_statistics
from metrics import Reference, frechet_distance, kid

SIZES = (36, 100, 300, 1000, 3000, 10000)
SCALE = 1.2  # the drawn Gaussian's standard deviation over the reference's


def gaussian_rows(reference, case, distant, repeats):
    """Samples of a Gaussian at a known distance from the reference's: its own, or a wider one."""
    d, scale = len(reference.mean), SCALE if distant else 1.0
    true = float((scale - 1) ** 2 * reference.trace)
    for n in SIZES:
        values = []
        for _ in range(repeats):
            z = torch.randn(n, reference.root.shape[1], dtype=torch.float64)
            x = reference.mean + scale * z @ reference.root.mT
            values.append(float(frechet_distance(x, reference)))
        yield row(case, d, n, true, values)


def image_rows(features, reference, repeats):
    """Real training images beside the test images: no generator can be asked for less."""
    for n in SIZES:
        draws = [features[torch.randperm(len(features))[:n]] for _ in range(repeats)]
        values = [float(frechet_distance(x, reference)) for x in draws]
        yield row("mnist train images", features.shape[1], n, None, values)


def row(case, d, n, true, values):
    values = torch.tensor(values, dtype=torch.float64)
    result = {
        "case": case,
        "d": d,
        "n": n,
        "repeats": len(values),
        "true": "" if true is None else f"{true:.6g}",
        "fid_mean": f"{values.mean():.6g}",
        "fid_std": f"{values.std():.3g}",
    }
    print(*result.values(), sep=",", flush=True)
    return result


def inception_like():
    """2048 dimensions with a spectrum that falls as 1/i, of total variance 100."""
    variance = 1 / torch.arange(1, 2049, dtype=torch.float64)
    cov = torch.diag(100 * variance / variance.sum())
    return Reference(torch.zeros(2048, dtype=torch.float64), cov, 0, "drawn", "none")


def features_of(pixels, extractor):
    with torch.no_grad():
        return torch.cat([extractor(x)[0] for x in real_batches(pixels)])


def bias(args, extractor, reference):
    features = features_of(load_images("mnist", args.data_dir, "train"), extractor)
    rows = []
    for distant in (False, True):
        rows += gaussian_rows(
            reference, f"mnist Gaussian{' x 1.2' * distant}", distant, args.repeats
        )
    rows += image_rows(features, reference, args.repeats)
    wide = inception_like()
    rows += gaussian_rows(wide, "2048 dimensions", False, 2)
    rows += gaussian_rows(wide, "2048 dimensions x 1.2", True, 2)
    write(rows, "fid_bias.csv")
    draw(rows)


def floor(args, extractor, reference):
    """10,000 images each: real ones of both splits, and noise."""
    pixels = {split: load_images("mnist", args.data_dir, split) for split in ("train", "test")}
    chosen = pixels["train"][torch.randperm(60000)[:10000]]
    sets = {
        "mnist test (itself)": list(real_batches(pixels["test"])),
        "mnist train": list(real_batches(chosen)),
        "uniform noise in [-1, 1]": [torch.rand(500, 1, 28, 28) * 2 - 1 for _ in range(20)],
        "N(0,1) noise, cut to [-1, 1]": [
            torch.randn(500, 1, 28, 28).clamp(-1, 1) for _ in range(20)
        ],
    }
    real, rows = features_of(pixels["test"], extractor), []
    for name, batches in sets.items():
        scores = Judge(extractor, reference).score(batches)
        with torch.no_grad():
            scores["kid"] = kid(torch.cat([extractor(x)[0] for x in batches]), real)
        numbers = {k: f"{scores[k]:.6g}" for k in ("fid", "is_mean", "is_std", "kid")}
        rows.append({"images": name, "n": scores["n"], **numbers, "reference": reference.name})
        print(*rows[-1].values(), sep=",", flush=True)
    write(rows, "fid_floor.csv")


def write(rows, name):
    path = ROOT / "docs" / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, d, title in zip(
        panels, (128, 2048), ("mnist extractor", "as wide as Inception"), strict=True
    ):
        for i, case in enumerate(dict.fromkeys(r["case"] for r in rows if r["d"] == d)):
            chosen = [r for r in rows if r["case"] == case]
            n, mean, std = ([float(r[k]) for r in chosen] for k in ("n", "fid_mean", "fid_std"))
            panel.errorbar(n, mean, std, marker="o", markersize=3, color=f"C{i}", label=case)
            if chosen[0]["true"] and float(chosen[0]["true"]) > 0:
                label = f"true distance of {case}"
                panel.axhline(float(chosen[0]["true"]), color=f"C{i}", linestyle=":", label=label)
        panel.set(xscale="log", yscale="log", xlabel="n images", ylabel="FID")
        panel.set_title(f"{title}, {d} features")
        panel.legend(fontsize=7)
    path = ROOT / "docs" / "figures" / "fid_bias.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--floor", action="store_true", help="measure real images and noise")
    parser.add_argument("--repeats", type=int, default=5, help="draws of each size")
    args = parser.parse_args()
    torch.manual_seed(0)
    extractor = load_extractor("mnist", "cpu")
    reference = reference_statistics(
        "mnist", args.data_dir, "test", extractor, "cpu", str(ROOT / "cache")
    )
    (floor if args.floor else bias)(args, extractor, reference)


if __name__ == "__main__":
    main()
