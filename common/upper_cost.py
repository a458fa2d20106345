"""What a moving schedule costs, from the flags alone: for --dry_run."""

from common.exact_gradients import samplings_of_gradient
from common.families import knots_table, table_of
from common.penalty import STATISTICS_BATCHES, PenaltySettings


def cost_from_flags(
    moving: int, *, theta_z, upper_gradient, zo_samples, batch_size, inner_loop, inner_loop_z,
    zo_directions, ZO_type, scheduler, knots, **flags,
) -> tuple[int, int]:  # fmt: skip
    """Training steps and samplings that the schedule costs in so many iterations."""
    exact = samplings_of_gradient(zo_samples, batch_size)
    if theta_z == "coupled":
        settings, steps = PenaltySettings.from_flags(**flags), moving * inner_loop
        compared = 2 * settings.updates(moving, inner_loop) * settings.batches
        gradients = settings.gradients(steps)
        return steps + compared + STATISTICS_BATCHES * gradients, exact * gradients
    sides = zo_directions * (2 if ZO_type == "two" else 1)
    forward = 1 + len(table_of(scheduler, knots_table(knots)))
    of_q = {"zo": sides, "forward": forward, "exact": exact}[upper_gradient]
    of_z = exact if upper_gradient == "exact" else sides
    return moving * (inner_loop_z + 2), moving * (inner_loop_z * of_z + of_q)
