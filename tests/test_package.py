"""What `pip install .` installs: every module, every data file, every command."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from setuptools import find_packages

TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = TABLE["tool"]["setuptools"]
SCRIPTS = TABLE["project"]["scripts"]
MODULES = {
    "train-mnist": "train_mnist",
    "train-mnist-bayesian": "train_mnist_bayesian",
    "train-mnist-bilevel-zo": "train_mnist_bilevel_ZO",
    "reproduce-mnist": "reproduce",
    "evaluate-mnist": "common.evaluate",
    "export-mnist": "common.export",
}
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
PACKAGES = find_packages(str(ROOT), include=SETUPTOOLS["packages"]["find"]["include"])


def test_every_module_but_tests_and_docs_is_in_the_wheel():
    for name in TRACKED:
        folder = Path(name).parent
        if not name.endswith(".py") or folder.name in ("tests", "docs"):
            continue
        if folder == Path("."):
            assert Path(name).stem in SETUPTOOLS["py-modules"], name
        else:
            assert folder.as_posix().replace("/", ".") in PACKAGES, name


@pytest.mark.parametrize("package", ["assets", "comparison"])
def test_every_data_file_of_a_package_is_in_the_wheel(package):
    there = {n for n in TRACKED if n.startswith(f"{package}/") and not n.endswith(".py")}
    globs = SETUPTOOLS["package-data"][package]
    packed = {p.relative_to(ROOT).as_posix() for g in globs for p in (ROOT / package).glob(g)}
    assert there <= packed


def test_no_other_package_has_data_that_it_reads():
    of_packages = {p.replace(".", "/") for p in PACKAGES} - {"assets", "comparison"}
    assert [n for n in TRACKED if str(Path(n).parent) in of_packages and n[-3:] != ".py"] == []


def test_every_optional_package_is_declared():
    """optional("x", ...) in the code, against the table."""
    groups = TABLE["project"]["optional-dependencies"].values()
    declared = {re.split(r"[>=]", name)[0] for group in groups for name in group}
    sources = [(ROOT / name).read_text() for name in TRACKED if name.endswith(".py")]
    asked = set(re.findall(r'optional\("([a-z]+)[.\w]*", f?"', "\n".join(sources)))
    assert asked - {"torch", "broken"} <= declared and {"ray", "submitit", "optuna"} <= asked


def test_all_commands_are_installed():
    assert set(SCRIPTS) == set(MODULES)
