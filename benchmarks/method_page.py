"""Fill the tables of docs/hypergradient.md from docs/results.

python -m benchmarks.method_page
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.method_page"
    return parser


if __name__ == "__main__":  # -h prints help and writes nothing
    make_parser().parse_args()

from benchmarks.record import RESULTS, ROOT
from common.tables import fill_file, markdown, read_csv

PAGE = ROOT / "docs" / "hypergradient.md"


def of_cosines(rows: list[dict]) -> str:
    head = ["network", "end", "gradient in", "estimate", "steps left out", "cosine", "norm"]
    head += ["samplings", "memory"]
    cells = [
        [
            f"{int(r['checkpoint'].split('_')[-1].removesuffix('.pt'))} steps", r["end"],
            r["gradient"], r["estimate"], r["left_out"], f"{r['cosine']:.3f}", f"{r['norm']:.3g}",
            f"{r['samplings']:.1f}", f"{r['training_steps_of_memory']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    return markdown(head, cells)


def of_gammas(rows: list[dict]) -> str:
    """The implicit term of the first problem, by gamma."""
    first = [r for r in rows if r["seed"] == rows[0]["seed"] and r["exact_every"] == 1]
    names = list(dict.fromkeys(r["parameter"] for r in first))
    true = ["training again", *(f"{r['true_implicit']:.3g}" for r in first[: len(names)])]
    lines = [[*true, ""]]
    for gamma in sorted({r["gamma"] for r in first}):
        mine = [r for r in first if r["gamma"] == gamma]
        label = f"penalty, gamma {gamma:.0e}" + (" (auto)" if mine[0]["auto"] == "True" else "")
        values = [f"{r['implicit']:.3g}" for r in mine]
        lines.append([label, *values, f"{mine[0]['cosine_implicit']:.4f}"])
    return markdown(["", *names, "cosine"], lines)


def of_seeds(rows: list[dict]) -> str:
    """Both terms and their sum at the chosen gamma, a line a problem."""
    lines = []
    for every in sorted({r["exact_every"] for r in rows}):
        for seed in sorted({r["seed"] for r in rows}):
            mine = [r for r in rows if (r["seed"], r["exact_every"]) == (seed, every)]
            mine = [r for r in mine if r["auto"] == "True"]
            signs = [sum(r[f"true_{k}"] * r[k] > 0 for r in mine) for k in ("implicit", "total")]
            alone = sum(r["true_total"] * r["true_direct"] > 0 for r in mine)
            cosines = [f"{mine[0][f'cosine_{k}']:.4f}" for k in ("direct", "implicit", "total")]
            counts = [f"{count} of {len(mine)}" for count in (*signs, alone)]
            lines.append([seed, every, *cosines, *counts])
    head = ["seed", "steps a gradient", "direct", "implicit", "sum", "signs of implicit"]
    return markdown([*head, "of the sum", "of the direct term alone"], lines)


def of_joint(rows: list[dict]) -> str:
    head = ["seed", "moved by", "start", "end", "tau", "epsilon", "F", "F from scratch"]
    keys = ("start", "end", "tau", "epsilon", "fid", "fid_from_scratch")
    return markdown(
        head, [[r["seed"], r["moved_by"], *(f"{r[k]:.3g}" for k in keys)] for r in rows]
    )


def of_cost(rows: list[dict]) -> str:
    head = ["base", "images", "DDIM steps", "samplings", "memory"]
    keys = ("base", "images", "backward_steps", "samplings", "training_steps_of_memory")
    return markdown(head, [[r[key] for key in keys] for r in rows])


TABLES = {
    "cost": ("reverse_cost.csv", of_cost),
    "cosines": ("cosines.csv", of_cosines),
    "gamma": ("hypergradient.csv", of_gammas),
    "seeds": ("hypergradient.csv", of_seeds),
    "joint": ("joint_end.csv", of_joint),
}


def all_tables() -> dict[str, str]:
    """Every table of the page by the name of its marks."""
    return {name: make(read_csv(RESULTS / file)) for name, (file, make) in TABLES.items()}


if __name__ == "__main__":
    fill_file(PAGE, all_tables())
