"""The rule of imports, read from the source of every tracked file, and what lies at the root."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "train_mnist", "train_mnist_bayesian", "train_mnist_bilevel_ZO", "reproduce", "finetune_reward"
}  # fmt: skip
MATHS = {"model", "unet", "scheduler", "metrics"}
LEAVES = {"common.errors", "common.families"}
# a trial of a search is train_mnist.py's own training, run in a process of its own
EXCEPTIONS = {("search.trials", "train_mnist")}
FOLDERS = {"search": 2, "comparison": 2, "common": 1}  # every other folder holds commands


def listed(pattern: str) -> list[str]:
    """Tracked files whose path fits."""
    command = ["git", "ls-files", pattern]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return listing.stdout.split()


TRACKED = listed("*.py")
SOURCES = [name for name in TRACKED if not name.startswith("tests/") and (ROOT / name).exists()]
NAMES = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in SOURCES}


def level(module: str) -> int:
    """3 for a command, 2 for search and comparison, 1 for common, 0 for maths and leaves."""
    if module in MATHS | LEAVES:
        return 0
    if module in ("common.compare.__main__", "common.evaluate", "common.export"):
        return 3
    return FOLDERS.get(module.split(".")[0], 3)


def imports_of(source: str) -> set[tuple[str, bool]]:
    """Modules of this repository that a file imports by name, and whether inside a function."""
    inside, tree = set(), ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside |= set(map(id, ast.walk(node)))
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [part if part in NAMES else node.module for part in parts]
        found |= {(name, id(node) in inside) for name in names if name in NAMES}
    return found


IMPORTS = {
    name.removesuffix(".py").replace("/", "."): imports_of((ROOT / name).read_text())
    for name in SOURCES
}


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_nothing_imports_upwards(module):
    for imported, _ in IMPORTS[module]:
        upwards = level(imported) > level(module) and (module, imported) not in EXCEPTIONS
        assert not upwards, f"{module} imports {imported}"
        if module in LEAVES:
            assert imported in LEAVES


def test_what_is_imported_by_a_computed_name_is_listed():
    """The rule above does not see these."""
    calls = {name for name in SOURCES if "import_module(" in (ROOT / name).read_text()}
    assert calls == {"common/optional.py", "comparison/cells.py", "studies/reward/rewards.py"}


def test_no_import_inside_a_function_hides_a_circle():
    """A lazy import of this repository's own modules is allowed in commands alone."""
    hidden = [(m, i) for m, found in IMPORTS.items() for i, lazy in found if lazy and level(m) < 3]
    assert hidden == []


def test_there_is_no_circle():
    graph = {module: {name for name, _ in found} for module, found in IMPORTS.items()}
    done: set[str] = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("module", sorted(LEAVES))
def test_the_leaves_are_plain_python(module):
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name in LEAVES or name.split(".")[0] in sys.stdlib_module_names, name


def test_no_filler_noun_is_a_name():
    """A variable, a parameter or a function is called by what it holds or does."""
    fillers = {"words", "where", "said", "mine", "own", "found", "here", "more"}
    for name in SOURCES:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            match node:
                case (
                    ast.Name(id=noun, ctx=ast.Store())
                    | ast.Attribute(attr=noun, ctx=ast.Store())
                    | ast.arg(arg=noun)
                    | ast.FunctionDef(name=noun)
                    | ast.AsyncFunctionDef(name=noun)
                ):
                    assert noun not in fillers, f"{name}:{node.lineno}: {noun}"


def test_pixels_are_scaled_in_data_py_and_for_one_benchmark():
    """Images are in [-1, 1] everywhere else; data cleaning gives a linear classifier [0, 1]."""
    scaling = re.compile(r"127\.5|[*/] ?\(?255|\b255(\.0?)? ?[*/]|(div|mul)_?\(255|ToTensor")
    scaled = {name for name in SOURCES if scaling.search((ROOT / name).read_text())}
    assert scaled == {"common/data.py", "benchmarks/data_cleaning.py"}


def test_the_root_holds_nine_files_of_python_and_ten_others():
    at_root = {name for name in listed("*") if "/" not in name}
    others = {
        ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff",
        "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml",
        "requirements-dev.txt", "requirements.txt",
    }  # fmt: skip
    assert at_root == {f"{name}.py" for name in COMMANDS | MATHS} | others


def test_what_is_imported_is_declared():
    """Third-party imports of scripts and common/ against requirements.txt."""
    packages = {
        "PIL": "pillow", "sklearn": "scikit-learn", "skopt": "scikit-optimize",
        "pytorch_fid": "pytorch-fid",
    }  # fmt: skip
    lines = (ROOT / "requirements.txt").read_text().lower().splitlines()
    declared = {line.split(">")[0].split("=")[0].strip() for line in lines}
    for name in SOURCES:
        if "/" in name and not name.startswith(("common/", "search/", "comparison/")):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for imported in {n.split(".")[0] for n in names}:
                if imported in sys.stdlib_module_names or (ROOT / imported).exists():
                    continue
                if not (ROOT / f"{imported}.py").exists():
                    assert packages.get(imported, imported) in declared, f"{name}: {imported}"
