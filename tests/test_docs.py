"""The documents name code that is there."""

import ast
import csv
import json
import re
from pathlib import Path

import pytest

from reproduce import ABLATION

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import page
from common.tables import fill

REFERENCES = re.findall(r"`([\w/]+\.py):([\w.]+)`", (ROOT / "docs" / "algorithm.md").read_text())


def names_in(path):
    """Every function, class, method and top-level constant of a file."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
        if isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("file, name", sorted(set(REFERENCES)))
def test_an_equation_leads_to_its_code(file, name):
    assert name in names_in(ROOT / file)


def test_the_numbers_of_the_readme_are_those_of_the_files():
    """The ones that are typed: of speed, of the shipped network, of the ablation."""
    text, docs = (ROOT / "README.md").read_text(), ROOT / "docs" / "results"
    for name, says in (
        ("bench", "takes {} of the plain one's time, a sampling {}, a bilevel iteration with the "
         "published flags {}, and that\nneeds no more memory than training, {} GiB against {}."),
        ("bench_bfloat16", "they take {0}, {1} and {2} of\nthe plain one's time in float32, "
         "a training step {4} GiB and an iteration {3};"),
    ):  # fmt: skip
        rows = {r["what"]: r for r in json.loads((docs / f"{name}.json").read_text())["rows"]}
        ratios = (
            next(f"{row['ratio']:.2f}" for what, row in rows.items() if what.startswith(start))
            for start in ("training step", "sampling an image", "bilevel iteration")
        )
        peaks = [rows[f"peak memory, our {of}"]["GiB"] for of in ("bilevel iteration", "training")]
        assert says.format(*ratios, *(f"{peak:.1f}" for peak in peaks)) in text
        assert ("no more memory" in says) == (peaks[0] <= peaks[1])
    found = json.loads((docs / "bfloat16.json").read_text())["fids"]
    fids = {row["trained"]: {} for row in found}
    for row in found:
        fids[row["trained"]][row["seed"]] = row["fid"]["float32"]
    exact = fids["float32"]
    moved = [fids["bfloat16"][seed] - fid for seed, fid in exact.items()]
    span = max(exact.values()) - min(exact.values())
    assert (
        f"by {min(moved):+.1f} to {max(moved):+.1f}, where the seeds themselves span {span:.1f}"
        in text
    )
    first = json.loads((docs / "first_run.json").read_text())
    says = ", ".join(f"{name} {first[name]:.5g}" for name in ("epochs", "steps", "loss"))
    assert f"finished: {says}, seconds {first['seconds']}" in text
    shipped = json.loads((ROOT / "assets" / "mnist.json").read_text())
    assert f"FID {shipped['fid']:.0f} of {shipped['n']:,} images" in text
    with open(docs / "reproduce_quick.csv") as file:
        table = list(csv.DictReader(file))
    fids = [float(r["fid"]) for r in table if r["method"] in ABLATION and r["seed"] == "0"]
    assert len(fids) == len(ABLATION)
    assert f"(one seed: {min(fids):.1f} to {max(fids):.1f}, whichever is off)" in text


def test_the_page_on_speed_holds_the_tables_of_the_files():
    text = page.PAGE.read_text()
    assert fill(text, page.all_tables()) == text


def test_the_readme_links_to_files_and_tests_that_are_there():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        assert (ROOT / link).exists(), link
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert tests and all(f"def {name}(" in sources for name in tests)
