"""The rows of bench.py that run in its own process: steps, samplings, a bilevel iteration, FIDs."""

from copy import deepcopy

import torch

from benchmarks import fid, plain
from benchmarks.rows import Rows
from benchmarks.sides import Sides
from benchmarks.timing import seconds, summary
from common.machine import keep_freed_memory
from common.networks import compiled
from common.schedule_optimizer import ScheduleOptimizer
from common.training import make_optimizer
from common.uncoupled import loss_difference
from common.weights import flat
from metrics import frechet_distance

INNER_LOOP = 10  # of the published command


def training_and_sampling(rows: Rows, sides: Sides, quick: bool = False) -> None:
    """A training step, one pass of a sampling, and a sampling per image."""
    ours, theirs, sizes = sides.ours, sides.plain, sides.sizes
    rows.measure(
        f"training step, {sizes.batch_size} images",
        lambda: sides.train(ours),
        lambda: sides.train(theirs),
        repeats=rows.repeats + 2,
    )
    with sides.passes(ours, theirs):
        rows.measure(
            f"forward of {sizes.images} images, as in a sampling",
            lambda: sides.forward(ours),
            lambda: sides.forward(theirs),
            repeats=4 * rows.repeats + 1,
        )
    rows.measure(
        f"sampling an image, {sizes.steps} steps",
        lambda: sides.sample(ours),
        lambda: sides.sample(theirs),
        1 / sizes.images,
        warm_up=quick,
    )


def bilevel_iteration(rows: Rows, sides: Sides, quick: bool = False) -> None:
    """The phases of a bilevel iteration with the published flags, and their sum."""
    ours, theirs, first = sides.ours, sides.plain, len(rows.rows)
    extra = torch.zeros_like(flat(ours))
    q = ScheduleOptimizer(sides.schedule, [0.0] * 4, 1000)
    gradient = torch.full((4,), 1e-3, dtype=torch.float64, device=sides.device)
    twins = {net: deepcopy(net) for net in (ours, theirs)}

    def difference(net):
        return loss_difference(sides.process, net, twins[net], sides.x0, 0, 0)

    def step():
        sides.train(theirs)

    rows.measure(
        f"bilevel: {INNER_LOOP} theta_y steps", lambda: sides.train(ours), step, scale=INNER_LOOP
    )
    # the plain version samples two sides for three phases, which are timed once; a hundred
    # forward passes warm up in their first
    shared = rows.measure(
        "bilevel: dFID/dtheta, zeroth-order",
        sides.slope_of_weights,
        sides.plain_difference,
        warm_up=quick,
    )["plain"]
    rows.measure("bilevel: theta_z step", lambda: sides.train(ours, extra), step)
    keep_freed_memory()
    of_q = [
        seconds(lambda: sides.slope_of_schedule("zo"), sides.device) for _ in range(rows.repeats)
    ]
    rows.add({"what": "bilevel: dFID/dq, zeroth-order", "ours": summary(of_q), "plain": shared})
    rows.measure(
        "bilevel: difference of losses", lambda: difference(ours), lambda: difference(theirs)
    )
    rows.measure("bilevel: schedule step", lambda: q.step(gradient), lambda: q.step(gradient))
    rows.add({"what": "bilevel: FIDs only to log", "ours": summary([0.0]), "plain": shared})
    rows.add({"what": "bilevel iteration, the sum", **total(rows.rows[first:])})
    if not sides.sizes.amp:  # forward mode is float32
        forward = "or: dFID/dq in forward mode"
        rows.measure(forward, lambda: sides.slope_of_schedule("forward"), repeats=1, warm_up=quick)


def total(phases: list[dict]) -> dict[str, dict]:
    """The sum of rows, for each side."""
    return {
        side: {k: sum(row[side][k] for row in phases) for k in ("median", "least", "most")}
        for side in ("ours", "plain")
    }


def fids(rows: Rows, sides: Sides, largest: int = 10000) -> None:
    """From features to the distance: of few images directly, of many by their moments."""
    dim, reference = sides.extractor.dim, sides.reference

    def streamed(features):
        return fid.streamed(features).fid(reference)

    def direct(features):
        return frechet_distance(features, reference)

    def by_eigenvalues(features):
        return plain.fid(features.mean(0), features.mT.cov(), reference)

    for n, distance in ((36, direct), (largest, streamed)):
        x = torch.randn(n, dim, dtype=torch.float64, device=sides.device)
        rows.measure(
            f"FID, n = {n}, {dim} features",
            lambda x=x, distance=distance: distance(x),
            lambda x=x: by_eigenvalues(x),
        )


def compiled_and_not(rows: Rows, sides: Sides) -> None:
    """Both passes compiled, beside themselves uncompiled, and the first call of each."""
    net, same = compiled(deepcopy(sides.ours), "fused"), sides.ours
    sides.optimizers[net] = make_optimizer(net.parameters(), 1e-3)

    def both(name, call):
        first = seconds(lambda: call(net), sides.device)
        rows.add({"what": f"{name}: the first call", "ours": summary([first])})
        rows.measure(f"{name}, compiled and not", lambda: call(net), lambda: call(same))

    both("training step", sides.train)
    with sides.passes(net, same):
        both("forward", sides.forward)
