"""Runs compared as a user compares them: tables, figures, one HTML file, and damaged runs."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from harness import Script, TwoLayers
from PIL import Image
from test_bilevel import TINY
from test_compare_records import written
from test_coupled import EXACT

from common import bilevel_figures, networks
from common.compare import __main__ as compare
from common.compare import samples
from common.compare.figures import fid_curves, measured, plot_curves
from common.compare.records import ComparedRun, read_record
from common.compare.text import Table
from common.errors import Stop
from common.figures import title_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three bilevel runs, the second of which is the control and the third another recipe."""
    script = Script(tmp_path_factory.mktemp("runs"), "bilevel")
    scored = ["--fid_samples", 8, "--eval_samples", 12]
    for flags in (
        [*EXACT, *scored],
        [*EXACT, *scored, "--lr_beta", 0, 0, 0, 0],
        ["--tau_type", "quadratic"],
    ):
        assert script.run(*TINY, *flags) == 0, script.said()
    return script.folder / "runs"


@pytest.fixture
def at(runs, monkeypatch):
    """Call the command in the folder that holds the runs: (text, HTML)."""
    monkeypatch.setattr(networks, "network_class", lambda _: TwoLayers)
    monkeypatch.chdir(runs.parent)

    def call(*argv):
        args = compare.make_parser().parse_args([*map(str, argv), "--threads", "1"])
        compare.main(args)
        return Path(args.html).read_text() if args.html else ""

    return call


class Page(HTMLParser):
    """Tags, tables and whatever a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.cells, self.loads = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.loads += [v for k, v in attrs.items() if k in ("src", "href", "data", "srcset")]
        if tag == "img":
            self.images.append(attrs)

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "th"):
            self.cells.append(data)


def test_runs_are_compared(at, runs, capsys):
    page = Page(at(0, "runs/00001", "latest", "--html", "c.html", "--n_samples", 4))
    said = capsys.readouterr().out
    for text in (
        "lr_beta",
        "tau_type",
        "quadratic",
        "final scores",
        "fid",
        "evaluations",
        "coupled",
    ):
        assert text in said and (text in page.cells or text == "final scores")
    assert "batch_size" not in said and "model_base_dim" not in said  # the same in all of them
    assert "00002-bilevel-seed0: no null band" not in said
    out = runs / "compared"
    names = ["fid", "loss", "paths", "slopes", "schedules", "samples"]
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(names)
    assert len(page.images) == len(names) and all(image["alt"] for image in page.images)
    for image, name in zip(page.images, names, strict=True):
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        picture = Image.open(io.BytesIO(content))
        with Image.open(out / f"{name}.png") as figure:
            assert picture.size == figure.size
    text = Path("c.html").read_text()
    assert all(load.startswith("data:") for load in page.loads)
    assert "script" not in page.tags and "link" not in page.tags
    assert not any(word in text for word in ("http:", "https:", "url(", "@import"))
    assert len(text) < 600_000


def test_samples_start_from_the_same_noise(at, runs, monkeypatch):
    """The networks of both runs get one noise, so two names of one run give one picture."""
    shutil.copytree(runs / "00000-bilevel-seed0", runs / "00007-bilevel-seed0")
    grids = []
    monkeypatch.setattr(samples.figures, "grid", lambda x: grids.append(x) or np.zeros((2, 2)))
    at(0, 7, 2, "--n_samples", 4)
    shutil.rmtree(runs / "00007-bilevel-seed0")
    assert len(grids) == 3 and grids[0].shape == (4, 1, 8, 8)
    assert grids[0].equal(grids[1]) and not grids[0].equal(grids[2])


def test_the_null_band_is_drawn_for_what_moved(runs, monkeypatch):
    """The learned run's band reaches from its file to the axes; the control has none."""
    drawn = {}
    learned, control = (read_record(runs / f"0000{i}-bilevel-seed0") for i in (0, 1))
    assert control.band == {} and learned.tables["iterations"]["updates"][-1] == 5

    def keep(figure, path):
        for axis in figure.axes:
            drawn[path.name, axis.get_title()] = axis

    monkeypatch.setattr(bilevel_figures.figures, "save", keep)
    for name, record in (("learned", learned), ("control", control)):
        paths = {record.name: (record.tables["iterations"], record.band)}
        assert bilevel_figures.plot_paths(Path(name), paths, ["tau", "end"])
    band = drawn["learned", "tau"].collections[0].get_paths()[0].vertices[:, 1]
    low, high = learned.band["tau_low"][-1], learned.band["tau_high"][-1]
    assert band.min() == pytest.approx(min(learned.band["tau_low"]))
    assert band.max() == pytest.approx(max(learned.band["tau_high"])) and low <= high
    assert not drawn["control", "tau"].collections
    slopes = {learned.name: learned.tables["iterations"]}
    assert bilevel_figures.plot_slopes(Path("slopes"), slopes, ["tau"])
    axis = drawn["slopes", f"{learned.name} slope of tau"]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == ["direct", "implicit", "running"]
    assert len(axis.collections) == 3  # a band of noise each


def test_titles_hold_the_number_of_images(runs, monkeypatch):
    titles = []

    def keep(figure, path):
        titles.extend((path.stem, axis.get_title()) for axis in figure.axes)

    monkeypatch.setattr(bilevel_figures.figures, "save", keep)
    plot_curves(Path("fid"), fid_curves([read_record(runs / "00000-bilevel-seed0")]))
    assert set(titles) == {("fid", "FID, 8 images, extractor mnist, against test images")}
    trial = ComparedRun(Path(), "x", {"kind": "train", "arguments": {"dataset": "digits"}})
    assert measured(trial, 5, "train") == "5 images, extractor mnist, against train images"
    assert title_of("fid", {"fid_n": [float("nan"), 500.0]}) == "fid, n = 500"
    assert title_of("loss", {"fid_n": [500.0]}) == "loss"


def test_what_is_missing_or_damaged_is_a_line(at, runs, tmp_path, capsys):
    """An unfinished run, empty and cut CSV files, NaN, a damaged summary, a failed trial."""
    root = tmp_path / "runs"
    started = written(root / "00000-train-seed0")
    (started / "scores.csv").touch()
    cut = written(root / "00001-train-seed0", {"fid": float("nan"), "n": 8, "extractor": "mnist"})
    cut.joinpath("scores.csv").write_text(
        "epoch,step,loss,fid,fid_n\n1,5,nan,9.5,8\n2,10,0.5,inf,8\n3,1"
    )
    cut.joinpath("timing.csv").write_text("epoch,step,seconds\n1,5,2.5\n")
    cut.joinpath("schedule.json").write_text('{"family": "cosine", "timesteps": -3}')
    broken = written(root / "00002-train-seed0", {})
    (broken / "summary.json").write_text('{"fid": 12')
    search = written(root / "00003-search-seed0", {"best": 0, "fid": 30.0, "n": 8}, kind="search")
    rows = [{"trial": 1, "objective": None, "status": "failed", "reason": "loss is nan"},
            {"trial": 0, "objective": 33.0, "status": "ok", "reason": None, "n": 8, "at": 4.0,
             "network_evaluations": {"training": 3}}]  # fmt: skip
    (search / "search.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"tri')
    written(search / "trials" / "000", {"fid": 31.0, "n": 8})
    written(search / "trials" / "001")
    names = [0, 1, 2, 3, "3/trials/0", "3/trials/1"]
    text = at(*names, "--runs_dir", root, "--out", tmp_path / "out", "--html", tmp_path / "c.html")
    said = capsys.readouterr().out
    for line in (
        "00000-train-seed0: scores.csv has no rows",
        "00000-train-seed0: unfinished, 0 of 4 epochs done, so it has no final scores",
        "00002-train-seed0: summary.json is damaged",
        "00003-search-seed0/001: failed (loss is nan), so it has no final scores",
        "00003-search-seed0: search.jsonl has a damaged line",
        "00001-train-seed0/schedule.json: not a noise schedule",
        "no run to draw samples with",
    ):
        assert line in said and line in text, line
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"fid", "loss"}
    assert "Left out" in text and "nan" in text


def test_pictures_of_something_else_are_not_deleted(at, tmp_path):
    other = tmp_path / "run" / "samples" / "samples.png"
    other.parent.mkdir(parents=True)
    other.touch()
    (tmp_path / "run" / "args.json").touch()
    with pytest.raises(Stop, match="belongs to a run"):
        at(0, "--out", other.parent)
    (tmp_path / "run" / "args.json").unlink()
    other.with_name("scores.png").touch()
    with pytest.raises(Stop, match="scores"):
        at(0, "--out", other.parent)
    assert other.exists()


def test_a_wrong_name_is_one_line(at):
    for name in ("77", "nowhere", "runs"):
        with pytest.raises(Stop, match=f"^{name}: not a run folder") as stopped:
            at(name)
        assert stopped.value.code == 2 and "\n" not in str(stopped.value)


def test_one_run_twice_is_one_column(runs, monkeypatch):
    monkeypatch.chdir(runs)
    records = compare.records_of(["0", str(runs / "00000-bilevel-seed0"), "1"], str(runs))
    assert [record.name for record in records] == ["00000-bilevel-seed0", "00001-bilevel-seed0"]


def test_runs_of_one_name_in_two_folders_are_told_apart(tmp_path):
    folders = [written(tmp_path / part / "00000-train-seed0", {"fid": 1.0}) for part in "ab"]
    records = compare.records_of(list(map(str, folders)), "runs")
    assert [record.name for record in records] == list(map(str, folders))


def test_a_wide_table_is_printed_in_blocks():
    table = Table("t", [f"run{i}" for i in range(9)])
    table.add("first", [f"{i}" * 9 for i in range(9)])
    table.add("last alone", ["–"] * 8 + ["x"])
    table.add("nothing", ["–"] * 9)
    lines = table.text(40).splitlines()
    assert max(map(len, lines)) <= 40 and sum("first" in line for line in lines) == 5
    assert sum("last alone" in line for line in lines) == 1 and "nothing" not in table.text(40)
    assert len(table.text(400).splitlines()) == 4


def test_a_bilevel_run_ends_with_what_to_do_next(tmp_path, runs):
    """The command that it prints trains with its schedule."""
    log = (runs / "00000-bilevel-seed0" / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "to train with this schedule: " in line]
    command = line.split("to train with this schedule: python train_mnist.py ")[1].split()
    assert str(runs / "00000-bilevel-seed0" / "schedule.json") in command
    script = Script(tmp_path)
    places = command.index("--runs_dir")
    del command[places : places + 2]
    assert script.run(*command, "--eval_samples", 0, "--fid_samples", 0) == 0, script.said()
    schedules = [f / "schedule.json" for f in (script.only, runs / "00000-bilevel-seed0")]
    assert schedules[0].read_text() == schedules[1].read_text()
    assert "finished" in log.splitlines()[-1]
