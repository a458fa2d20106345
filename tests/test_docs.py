"""The documents name code that is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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


def test_the_readme_links_to_files_and_tests_that_are_there():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        assert (ROOT / link).exists(), link
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert tests and all(f"def {name}(" in sources for name in tests)
