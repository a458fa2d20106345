"""The parts of a search: its points, its grid, its ledger."""

import json
import math
from types import SimpleNamespace

import pytest

import train_mnist_bayesian
from common.errors import Stop
from search import ledger
from search.clock import clock
from search.ledger import Ledger, median_at_half
from search.points import Points, grid, grid_plan

RANGES = {"start": (0.0, 0.4), "end": (0.8, 1.0), "tau": (1.0, 4.0), "epsilon": (0.005, 0.04)}
DEFAULT = {"start": 0.0, "end": 1.0, "tau": 1.0, "epsilon": 0.008}


# points


def make_points(ranges, first, **given):
    base = {"strategy": "bayesian", "n_calls": 8, "n_initial": 3, "search_seed": 1}
    return Points(**(base | given), ranges=ranges, first=first)


def bowl(point):
    """A known function with its minimum of 0 inside the ranges; None, a failure, at some points."""
    middle = {"start": 0.1, "end": 0.95, "tau": 2.0, "epsilon": 0.02}
    parts = ((point[n] - middle[n]) / (high - low) for n, (low, high) in RANGES.items())
    return sum(part**2 for part in parts)


def asked(points, f, sizes):
    seen = []
    for size in sizes:
        batch = points.ask(size)
        points.tell(batch, [f(point, len(seen) + i) for i, point in enumerate(batch)])
        seen += batch
    return seen


@pytest.mark.parametrize("sizes, failing", [
    ([1] * 8, ()), ([1] * 8, (0, 1, 6)), ([1] * 8, range(8)), ([3, 3, 2], (1,)),
])  # fmt: skip
def test_a_replay_asks_for_the_same_points(sizes, failing):
    def f(point, i):
        return None if i in failing else bowl(point)

    first = asked(make_points(RANGES, [DEFAULT]), f, sizes)
    again = asked(make_points(RANGES, [DEFAULT]), f, sizes)
    assert first == again and first[0] == DEFAULT
    assert len({tuple(point.values()) for point in first}) == 8
    for point in first:
        assert all(low <= point[name] <= high for name, (low, high) in RANGES.items())
    assert make_points(RANGES, [], search_seed=2).ask(1)[0] not in first


def test_no_point_is_tried_twice():
    points = make_points(RANGES, [DEFAULT])
    points.optimizer.ask = lambda k: [list(DEFAULT.values())] * k
    seen = points.ask(3) + points.ask(2)
    assert len({tuple(point.values()) for point in seen}) == 5


def test_the_gaussian_process_beats_chance_on_a_known_function():
    def off(point):
        return (point["tau"] - 2.1) ** 2

    best = {}
    for strategy in ("bayesian", "random"):
        seen = []
        for seed in range(2):
            points = make_points({"tau": (1, 4)}, [], strategy=strategy, search_seed=seed)
            seen.append(asked(points, lambda p, _: off(p), [1] * 8))
        best[strategy] = sum(min(map(off, points)) for points in seen)
    assert best["bayesian"] < 0.1 * best["random"]


def test_what_a_trial_has_tried_takes_the_place_of_what_was_asked_for():
    """So that nothing stays under way for ever."""
    points, near = make_points(RANGES, [DEFAULT]), {**DEFAULT, "tau": 1.1}
    asked(points, lambda p, _: bowl(p), [1, 1, 1])
    (point,) = points.ask(1)
    points.replace(3, near)
    assert points.asked[3] == near and point not in points.asked
    points.tell([near], [1.0])
    assert points._beside_the_pending() is points.optimizer


def test_a_failure_is_told_as_the_worst_value():
    points = make_points(RANGES, [DEFAULT])
    told = []
    points.optimizer.tell = lambda xs, ys: told.append(ys)
    for value in (None, 5.0, None, 7.0, None):
        points.tell([DEFAULT], [value])
    assert told == [[5.0, 5.0], [5.0], [7.0], [7.0]]


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 8, 14, 15, 16, 81, 100])
def test_a_grid_is_full_and_even(budget):
    points = grid(RANGES, budget)
    values = {name: sorted({point[name] for point in points}) for name in RANGES}
    assert len(points) == math.prod(map(len, values.values())) <= budget
    for name, (low, high) in RANGES.items():
        seen = values[name]
        assert (seen[0], seen[-1]) == (low, high) if len(seen) > 1 else seen == [(low + high) / 2]
        more = len(points) // len(seen) * (len(seen) + 1)
        assert more > budget, f"one more level of {name} fits"
    assert len(values["tau"]) == max(map(len, values.values()))


def test_a_grid_says_what_it_tries_and_why_it_is_smaller():
    text = grid_plan(RANGES, 6, [DEFAULT])
    assert "  tau 1, 4\n" in text and "  start 0, 0.4\n" in text and "  end 0.9\n" in text
    assert "4 points" in text and "5 trials of --n_calls 6, since another level" in text
    assert text.endswith("would exceed it")
    assert grid_plan(RANGES, 5, [DEFAULT]).endswith(": 5 trials")
    corner = {"start": 0.0, "end": 0.9, "tau": 1.0, "epsilon": 0.0225}
    text = grid_plan(RANGES, 5, [corner])
    assert "3 points" in text and text.endswith("trial 0 is one of the grid's")


def test_random_points_fill_the_ranges():
    points = make_points(RANGES, [], strategy="random", n_calls=400).ask(400)
    for name, (low, high) in RANGES.items():
        unit = [(point[name] - low) / (high - low) for point in points]
        # the mean of 400 uniform numbers: 0.5 +- 0.0144; five times that
        assert min(unit) >= 0 and max(unit) <= 1 and abs(sum(unit) / 400 - 0.5) < 0.072


# the ledger


def row(trial, **given):
    base = dict.fromkeys(ledger.COLUMNS) | {"status": "ok", "objective": 10.0 - trial}
    base |= {"seed": 0, "n": 20, "at": 1.5, "network_evaluations": {}, "peak_memory": {}}
    return base | {"trial": trial, "parameters": DEFAULT, "half": 20.0 + trial} | given


def test_a_torn_last_line_is_taken_away(tmp_path):
    path, said = tmp_path / "search.jsonl", []
    ledger = Ledger(path)
    for i in range(3):
        ledger.add(row(i))
    whole = path.read_bytes()
    last = whole[: whole[:-1].rfind(b"\n") + 1]
    for cut in range(len(last) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(Ledger(path, said.append).rows) == [0, 1]
        assert path.read_bytes() == last
    assert len(said) == len(whole) - len(last) - 1 and str(path) in said[0]


@pytest.mark.parametrize("line", ["", "{}", "[1]", "x", '{"trial": 0, "objective": NaN}'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "search.jsonl"
    path.write_text(f"{json.dumps(row(0))}\n{line}\n{json.dumps(row(2))}\n")
    with pytest.raises(Stop, match=r"search.jsonl: line 2 is damaged"):
        Ledger(path)


@pytest.mark.parametrize("given", [
    {"parameters": {"tau": "2"}}, {"parameters": []}, {"trial": -1}, {"trial": 1.5}, {"trial": 0},
    {"objective": 1e400}, {"objective": None}, {"status": "failed"}, {"at": "now"}, {"half": True},
    {"network_evaluations": {"training": None}}, {"peak_memory": 5}, {"trial": 10**400},
])  # fmt: skip
def test_a_line_that_no_search_writes_is_named(tmp_path, given):
    path = tmp_path / "search.jsonl"
    path.write_text(f"{json.dumps(row(0))}\n{json.dumps(row(1) | given)}\n{json.dumps(row(2))}\n")
    with pytest.raises(Stop, match=r"search.jsonl: line 2 is damaged"):
        Ledger(path)


def test_a_row_is_on_the_disk_when_it_is_added(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(ledger.os, "fsync", synced.append)
    Ledger(tmp_path / "search.jsonl").add(row(0))
    assert len(synced) == 1


def test_the_point_of_a_trial_is_the_ledgers_unless_it_lies_outside(tmp_path):
    said = []
    known = Ledger(tmp_path / "search.jsonl", said.append, {"tau": (1, 4)})
    known.add(row(0, parameters={"tau": 2.0}))
    known.add(row(1, parameters={"tau": 9.0}))
    known.add(row(2, parameters={"start": 0.1}))
    assert known.known(3, {"tau": 1.5}) == {"tau": 1.5} and not said
    assert known.known(0, {"tau": 1.5}) == {"tau": 2.0} and len(said) == 1
    for trial in (1, 2):
        with pytest.raises(Stop, match="outside the ranges"):
            known.known(trial, {"tau": 1.5})


def test_the_point_of_a_trial_that_began_is_the_one_that_it_began_with(tmp_path):
    """Its checkpoint, or its result, is of no other."""
    said = []
    known = Ledger(tmp_path / "search.jsonl", said.append, {"tau": (1, 4)})
    for trial, arguments in ((2, {"tau": 2.0, "end": 1.0}), (3, {"tau": None}), (4, [])):
        folder = ledger.trial_folder(tmp_path, trial)
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps({"arguments": arguments}))
    assert known.known(2, {"tau": 2.0}) == {"tau": 2.0} and not said
    assert known.known(2, {"tau": 1.5}) == {"tau": 2.0} and len(said) == 1
    for trial, match in ((3, "outside the ranges"), (4, "004/args.json: damaged")):
        with pytest.raises(Stop, match=match):
            known.known(trial, {"tau": 1.5})


def test_a_deadline_is_judged_by_the_times_in_the_rows_alone():
    """So that a resumed search, which is older by then, tries no more and no fewer points."""
    args, rows = SimpleNamespace(patience=0, deadline=10), [row(0, at=4.0), row(1, at=11.0)]
    run = SimpleNamespace(seconds=lambda: 99.0, elapsed=95.0)
    assert "10 seconds have passed" in train_mnist_bayesian.why_stop(args, run, rows, 3)
    assert not train_mnist_bayesian.why_stop(args, run, rows[:1], 3)
    assert not train_mnist_bayesian.why_stop(args, run, [], 3)
    assert not train_mnist_bayesian.why_stop(args, run, [], 0)  # the first may be finished
    run.elapsed = 0.0
    assert "10 seconds" in train_mnist_bayesian.why_stop(args, run, [], 0)


def test_the_clock_goes_on_where_a_search_was_stopped(tmp_path):
    run = SimpleNamespace(folder=tmp_path, elapsed=0.0, seconds=lambda: 50.0)
    run.write_json = lambda name, content: (tmp_path / name).write_text(json.dumps(content))
    lines = Ledger(tmp_path / "search.jsonl")
    with pytest.raises(KeyboardInterrupt), clock(run, lines):
        assert run.elapsed == 0
        raise KeyboardInterrupt  # in the first trial
    lines.add(row(0, at=7.0))
    with clock(run, lines):
        assert run.elapsed == 50
    for damaged in ("null", "1e999", "NaN", "-1"):
        (tmp_path / "clock.json").write_text(f'{{"seconds": {damaged}}}')
        with pytest.raises(Stop, match=r"clock\.json: damaged"), clock(run, lines):
            pass


def test_the_limit_is_the_median_of_elder_whole_trials(tmp_path):
    ledger = Ledger(tmp_path / "search.jsonl")
    for i, status in enumerate(["ok", "failed", "ok", "pruned", "ok", "ok"]):
        value = 1.0 if status == "ok" else None
        ledger.add(row(i, status=status, objective=value))
    assert median_at_half(ledger.before(4)) is None
    assert median_at_half(ledger.before(5)) == 22.0 and median_at_half(ledger.before(6)) == 23.0
