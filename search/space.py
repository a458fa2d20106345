"""The space of a search, without torch: which parameters are searched, and in which ranges."""

from itertools import product

from common.families import NAMES, complete, table_of


def settle_ranges(family: str, values: dict, given: dict, fixed: list[str]) -> dict:
    """The range of every parameter that has a flag: given, the family's own, or None if fixed.

    ValueError names the flag of a parameter that the family lacks or that is not searched.
    """
    table = table_of(family, values)
    if not table:
        raise ValueError(f"--scheduler_type {family} has no parameter to search")
    for name in fixed:
        if name not in table:
            raise ValueError(f"--fix {name}: the {family} schedule has no such parameter")
    ranges = dict.fromkeys(NAMES)
    for name in NAMES:
        searched = name in table and name not in fixed
        if given[name] and not searched:
            raise ValueError(f"--{name}_range: {name} is not searched")
        if searched:
            ranges[name] = list(given[name] or table[name].search)
    return ranges


def space_of(family: str, values: dict, ranges: dict) -> dict[str, tuple[float, float]]:
    """The search space: name -> (low, high); a knot has no flag, and its range holds trial 0."""
    table = table_of(family, values)
    limits = {
        n: ranges[n] if n in NAMES else widened(p.search, values[n]) for n, p in table.items()
    }
    return {name: tuple(pair) for name, pair in limits.items() if pair}


def widened(pair: tuple[float, float], value: float) -> tuple[float, float]:
    """A range that holds a value, too."""
    return min(pair[0], value), max(pair[1], value)


def check_space(family: str, values: dict, space: dict, default_is_tried: bool) -> None:
    """Raise a ValueError unless every point of the space is a schedule; trial 0 lies inside."""
    if not space:
        raise ValueError("--fix leaves no parameter to search")
    for name, (low, high) in space.items():
        if not low < high:
            raise ValueError(f"--{name}_range {low:g} {high:g}: the first must be below the second")
        if default_is_tried and not low <= values[name] <= high:
            text = f"trial 0 has {name} {values[name]:g}, outside --{name}_range {low:g} {high:g}"
            raise ValueError(f"{text}: change one of them or give --no_warm_start")
    limits = {name: pair for name, pair in space.items() if name in NAMES}
    for corner in product(*limits.values()):  # valid at the corners implies valid inside
        complete(family, values | dict(zip(limits, corner, strict=True)))
