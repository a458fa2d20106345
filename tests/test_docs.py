"""The documents: commands that run, links and code that exist, numbers that are their files'."""

import ast
import hashlib
import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from benchmarks import page
from common import cli
from common.compare.text import Table
from common.tables import fill, read_text_csv
from comparison import report
from docs import first_runs

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
KINDS = {
    "train_mnist": "train", "train_mnist_bayesian": "search", "train_mnist_bilevel_ZO": "bilevel",
    "finetune_reward": "reward",
}  # fmt: skip
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


def commands_of(text: str) -> list[str]:
    """The lines of a page's sh blocks, and the commands in `code` that start python."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:[A-Z_]+=\w+ )*python [^`\n]+)`", text)
    return [line for line in lines if line.strip()] + inline


COMMANDS = sorted({(path.name, c) for path in PAGES for c in commands_of(path.read_text())})


def arguments_of(command: str) -> list[str]:
    """A command as the shell splits it, without what it sets in the environment.

    What torchrun starts is what Python would.
    """
    arguments = shlex.split(command, comments=True)
    if arguments[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(arguments[1:])  # SystemExit where it takes a flag
        started = [parsed.training_script, *parsed.training_script_args]
        arguments = ["python", *["-m"] * parsed.module, *started]
    while re.fullmatch(r"[A-Z_]+=\w+", arguments[0]):
        del arguments[0]
    return arguments


def check_python(module: str, argv: list[str]) -> None:
    """The module's parser accepts the arguments; runs that only a user has are not looked for."""
    if module in ("pytest", "venv"):
        return
    source = module.replace(".", "/")
    assert (ROOT / f"{source}.py").exists() or (ROOT / source / "__main__.py").exists(), module
    if (ROOT / source / "__main__.py").exists():
        module += ".__main__"
    script = importlib.import_module(module.removeprefix("tests/"))  # which pytest has on its path
    parser = script.make_parser()
    of_a_user = any(re.search(r"\b[A-Z]{3,}\b|^runs/|^latest$", argument) for argument in argv)
    try:
        if module in KINDS and not of_a_user:
            cli.parse(parser, KINDS[module], script.check, argv)
        else:
            parser.parse_args(argv)
    except SystemExit as stopped:
        assert stopped.code in (0, None), f"{module} refuses {argv}"


@pytest.mark.parametrize("name, command", COMMANDS)
def test_a_command_can_be_pasted(name, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    subprocess.run(["bash", "-n", "-c", command], check=True)
    program, *rest = arguments_of(command)
    flags = [argument for argument in rest if argument.startswith("--")]
    assert len(flags) == len(set(flags)), f"a flag twice: {flags}"
    for argument in rest:
        path = argument.split("=")[-1]
        if re.fullmatch(r"[\w./-]+\.(py|txt|json|pt|toml|yaml)", path) and path[0] not in "RC":
            assert path.startswith("runs/") or (ROOT / path).exists(), path
    if program == "python" and rest[0] == "-m":
        check_python(rest[1], rest[2:])
    elif program == "python":
        check_python(rest[0].removesuffix(".py"), rest[1:])
    else:
        known = "pip", "git", "cd", "source", "ruff", "mypy", "pre-commit", ".ci/run"
        assert program in known, program


def test_every_page_has_commands_that_are_checked():
    assert len(COMMANDS) > 60
    assert {name for name, _ in COMMANDS} >= {"README.md", "tuning.md", "search.md"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_files_and_tests_exist(path):
    text = path.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        assert (path.parent / link).exists(), link
    sources = "\n".join(file.read_text() for file in (ROOT / "tests").glob("*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in sources, name
    for name in re.findall(r"`(\w+/[\w/]*\w+\.(?:py|md|csv|json|pt))`", text):
        assert (ROOT / name).exists() or name.startswith("runs/") or "epoch_" in name, name


def test_the_readme_stays_short():
    text = README.read_text()
    assert len(text.split()) <= 1800 and len(text.splitlines()) <= 200


def test_the_numbers_between_the_readmes_marks_are_those_of_the_files(tmp_path):
    text = README.read_text()
    copy = tmp_path / "README.md"
    copy.write_text(text)
    scores, again = (
        read_text_csv(ROOT / "docs" / "results" / f"reproduce_cpu{which}.csv")
        for which in ("", "_again")
    )
    report.fill_readme(copy, "reproduce_cpu", scores, again)
    assert copy.read_text() == text


@pytest.mark.parametrize("name", first_runs.PAGES)
def test_a_page_shows_what_its_commands_printed(name):
    shown = first_runs.PAGES[name]
    text = shown.path.read_text()
    assert fill(text, shown.render(json.loads(shown.file.read_text()))) == text


def test_the_scores_that_a_page_shows_are_chosen_by_their_names():
    table = Table("over seeds", ["00000-a", "00001-b"], note="how to read it")
    for name in ("fid", "kid", "fid_second", "fid, difference", "kid, difference"):
        table.add(name, ["1", "2"])
    lines = [*table.text(100).splitlines(), "", "note: the end"]
    kept = [line.split("  ")[0] for line in first_runs.chosen(["before", *lines])]
    assert kept == ["over seeds:", "", "fid", "fid_second", "fid, difference"]


def test_the_recorded_runs_are_those_that_the_commands_make():
    recorded = json.loads(first_runs.PAGES["README.md"].file.read_text())
    assert [row["command"] for row in recorded["runs"]] == list(
        map(first_runs.one_line, first_runs.COMMANDS)
    )
    assert recorded["picture"] == hashlib.sha256(first_runs.PICTURE.read_bytes()).hexdigest()
    tuned = json.loads(first_runs.PAGES["tuning.md"].file.read_text())["commands"]
    assert tuned == [c for seed in first_runs.SEEDS for c in first_runs.tuning_commands(seed)]


@pytest.mark.parametrize("name", page.NAMES)
def test_a_page_holds_the_tables_of_its_files(name):
    text = (page.DOCS / name).read_text()
    assert fill(text, page.TABLES[name]()) == text
