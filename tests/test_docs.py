"""The documents name code that is there."""

import ast
import csv
import json
import re
import sys
from pathlib import Path

import pytest

from reproduce import ABLATION

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import page

REFERENCES = re.findall(r"`(\w+\.py):([\w.]+)`", (ROOT / "docs" / "algorithm.md").read_text())


def names_in(path):
    """Every function, class, method and top-level constant of a file."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
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
        ("bench_bfloat16", "they take {}, {} and {}, and {} GiB against {};"),
    ):  # fmt: skip
        rows = {r["what"]: r for r in json.loads((docs / f"{name}.json").read_text())["rows"]}
        ratios = (
            next(f"{row['ratio']:.2f}" for what, row in rows.items() if what.startswith(start))
            for start in ("training step", "sampling an image", "bilevel iteration")
        )
        peaks = [
            f"{rows[f'peak memory, our {of}']['GiB']:.1f}"
            for of in ("bilevel iteration", "training")
        ]
        assert says.format(*ratios, *peaks) in text
        assert ("no more memory" in says) == (peaks[0] <= peaks[1])
    shipped = json.loads((ROOT / "assets" / "mnist.json").read_text())
    assert f"FID {shipped['fid']:.0f} of {shipped['n']:,} images" in text
    with open(docs / "reproduce_quick.csv") as file:
        table = list(csv.DictReader(file))
    fids = [float(r["fid"]) for r in table if r["method"] in ABLATION and r["seed"] == "0"]
    assert len(fids) == len(ABLATION)
    assert f"(one seed: {min(fids):.1f} to {max(fids):.1f}, whichever is off)" in text


def test_the_page_on_speed_ends_with_the_tables_of_the_files():
    assert page.PAGE.read_text().endswith(page.MARK + page.whole())


def test_the_readme_links_to_files_and_tests_that_are_there():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        assert (ROOT / link).exists(), link
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert tests and all(f"def {name}(" in sources for name in tests)
