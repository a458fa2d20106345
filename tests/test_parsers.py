"""Whatever a stranger's file or a command line holds: an answer, or one error that names it."""

import contextlib
import io
import json
import math
import random
import re
import struct

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from removals import removals

import train_mnist
from benchmarks import faults  # noqa: F401, which finds the tests' modules
from benchmarks.faults import commands
from benchmarks.faults.__main__ import FILE, ROWS
from benchmarks.faults.page import PAGE, tables
from benchmarks.record import read_json
from common import checkpoint, cli
from common.errors import Stop
from common.families import FAMILIES
from common.tables import fill
from scheduler import Schedule
from search.ledger import COLUMNS, Ledger, whole_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


def test_a_schedule_file(place):
    names = ["family", "timesteps", "start", "end", "tau", "epsilon", "knot_1", "knot_2"]
    likely = st.sampled_from([*FAMILIES, 1, 20, 0.5, 1.5])
    contents = st.dictionaries(st.sampled_from(names), likely | JSON) | JSON

    @EXAMPLES
    @given(contents)
    def check(content):
        path = place / "schedule.json"
        path.write_text(json.dumps(content))
        try:
            schedule = Schedule.load(path)
        except ValueError as error:
            assert "schedule.json" in str(error) and "\n" not in str(error)
        else:
            assert torch.isfinite(schedule.alpha_bar()).all()

    check()


def test_a_ledger(place):
    good = {
        "trial": 0, "parameters": {"tau": 1.0}, "seed": 0, "status": "ok", "reason": None,
        "objective": 5.0, "n": 20, "half": None, "seconds": 1.0, "at": 1.0,
        "network_evaluations": {}, "peak_memory": {},
    }  # fmt: skip

    @EXAMPLES
    @given(st.dictionaries(st.sampled_from(sorted(COLUMNS)), JSON, max_size=3), st.booleans())
    def check(given, torn):
        path = place / "search.jsonl"
        path.write_text(json.dumps(good | given) + ("" if torn else "\n"))
        try:
            ledger = Ledger(path, lambda _: None)
        except Stop as error:
            assert "search.jsonl: line 1 is damaged" in str(error) and "\n" not in str(error)
            return
        assert len(ledger.rows) == (not torn)
        for row in whole_rows(ledger.before()):
            assert math.isfinite(row["objective"])
            assert all(math.isfinite(value) for value in row["parameters"].values())

    check()


def test_the_arguments_of_a_run(place):
    folder = place / "00000-train-seed0"
    folder.mkdir()
    names = sorted(vars(train_mnist.make_parser().defaults()))
    likely = st.sampled_from([0, 1, 2, 0.5, "digits", "cosine", "cpu", True, None])

    @EXAMPLES
    @given(st.dictionaries(st.sampled_from(names), likely | JSON, max_size=3))
    def check(arguments):
        arguments = {"dataset": "digits", **arguments}
        content = {"kind": "train", "arguments": arguments}
        (folder / "args.json").write_text(json.dumps(content))
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                parsed(["--resume", str(folder)])
            except SystemExit as stopped:
                assert stopped.code == 2 and said.getvalue().count("\n") == 1

    check()


def parsed(argv):
    return cli.parse(train_mnist.make_parser(), "train", train_mnist.check, argv)


def test_the_header_of_a_checkpoint(place):
    checkpoint.save(place / "a.pt", {"step": 1, "weights": torch.ones(3)})
    body = (place / "a.pt").read_bytes()[checkpoint.HEADER.size :]

    @EXAMPLES
    @given(st.binary(max_size=70), st.integers(0, 2**64 - 1), st.booleans())
    def check(start, length, sealed):
        head = struct.pack("<8sQ", checkpoint.MAGIC, length) + start if sealed else start
        (place / "b.pt").write_bytes(head + body)
        with pytest.raises(Stop, match=r"b\.pt"):
            checkpoint.load(place / "b.pt")

    check()


@pytest.mark.parametrize("seed", range(10_000, 10_025))
def test_a_random_command_line(seed, tmp_path):
    """1,000 of them are a row of the faults campaign."""
    commands.check_line(random.Random(seed), tmp_path)


def test_the_page_has_the_campaigns_table():
    text = PAGE.read_text()
    assert fill(text, tables(ROWS, read_json(FILE))) == text


@pytest.mark.parametrize("removal", removals(), ids=lambda removal: removal.name)
def test_every_protection_is_where_the_sabotage_looks_for_it(removal):
    """Once, so that its removal is of that and nothing else; the tests it names exist."""
    assert (ROOT / removal.file).read_text().count(removal.old) == 1
    file, _, text = removal.tests.partition(" -k ")
    names = re.findall(r"def (test_\w+)", (ROOT / file).read_text())
    assert any(text in name for name in names), removal.tests
