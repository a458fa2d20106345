"""The learning-rate schedules that are compared: the paper's five, or a sweep of their options."""

from typing import NamedTuple

from studies.lr_schedules.options import LR_SCHEDULES


class Recipe(NamedTuple):
    """A run's learning rate: its name in the tables, its schedule and the schedule's options."""

    label: str
    lr_schedule: str
    options: dict


def the_five(options: dict) -> list[Recipe]:
    """One run of each schedule; all get the same options and read their own."""
    return [Recipe(name, name, options) for name in LR_SCHEDULES]


def the_sweep(steps: int) -> list[Recipe]:
    """Each schedule with options that let its rate decay later, and earlier, than the defaults."""
    # StepLR: how many times it decays in the run, and by which factor
    decays = [(3, 0.1), (10, 0.9), (10, 0.5), (10, 0.1), (100, 0.9), (100, 0.1), (1000, 0.1)]
    ends = [0.1, 0.01, 1e-4, 1e-12]
    plateaus = [(0.5, 10), (0.5, 2), (0.1, 2), (0.1, 0)]
    return [
        Recipe("constant", "constant", {}),
        Recipe("cosine", "cosine", {}),
        *(
            Recipe(
                f"step 1/{n} x{decay:g}",
                "step",
                {"step_size": max(1, steps // n), "step_decay": decay},
            )
            for n, decay in decays
        ),
        *(Recipe(f"exponential to {e:g}", "exponential", {"exponential_end": e}) for e in ends),
        *(
            Recipe(f"plateau {p} x{d:g}", "plateau", {"plateau_decay": d, "plateau_patience": p})
            for d, p in plateaus
        ),
    ]
