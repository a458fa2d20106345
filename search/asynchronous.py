"""Searching without batches: a trial that ends is told at once, and the next point is asked.

The lines of the ledger are in the order of the tells. Before point k is asked, k - jobs + 1 values
are told, so the lines alone replay every ask, and a resumed search proposes the same points.
"""

from collections.abc import Callable

from search.ledger import Ledger
from search.points import Points


def search_asynchronously(
    points: Points,
    ledger: Ledger,
    workers: Callable,
    jobs: int,
    n_calls: int,
    task_of: Callable[[int, dict, list[dict]], tuple],
    record: Callable[[int, dict, dict], None],
    why_stop: Callable[[list[dict]], str],
) -> tuple[int, str]:
    """Returns the number of trials told, and why no more were asked for.

    `task_of(number, point, rows)` makes a trial's task, rows being what was known when its point
    was asked; `record(number, point, result)` writes a line.
    """
    replayed = list(ledger.rows)
    asked: dict[int, dict] = {}
    tasks: dict[int, tuple] = {}
    told, reason = 0, ""

    def ask(k):
        for point in points.ask(k):
            number = len(asked)
            asked[number] = ledger.known(number, point)
            points.replace(number, asked[number])
            if number not in ledger.rows:
                tasks[number] = task_of(number, asked[number], list(ledger.rows.values())[:told])

    def settle(number):
        nonlocal told, reason
        told += 1
        reason = reason or why_stop(list(ledger.rows.values())[:told])
        if len(asked) < n_calls and not reason:
            points.tell([asked[number]], [ledger.rows[number]["objective"]])
            ask(1)

    ask(min(jobs, n_calls))
    for number in replayed:
        settle(number)
    for number, result in workers(tasks):
        record(number, asked[number], result)
        settle(number)
    return told, reason
