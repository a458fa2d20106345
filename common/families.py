"""The families of noise schedules, in plain Python: parameters, defaults, bounds, search ranges.

The formulas are in scheduler.py. This table stands apart from them so that a script can refuse a
schedule before torch is imported.
"""

import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from common.errors import parse_json

NAMES = ("start", "end", "tau", "epsilon")  # those that have a flag of their own
KNOTS = 12  # segments of the family `knots` unless told otherwise
RISES = 0.01, 100.0  # bounds of a knot
MIN_GAP = 1e-3  # end - start: below it the curve has no room to fall
MAX_TIMESTEPS = 10**6
FAR = 1e6  # a bound for what has none of its own: the curve of a larger number may overflow
TOLD = ("nearest", "visited")  # model.Diffusion
BESIDE = ("family", "timesteps", "told")  # in a schedule.json, beside the parameters


class Parameter(NamedTuple):
    """One number of a schedule; `search` is where a search looks for it unless told otherwise."""

    default: float
    low: float
    high: float
    search: tuple[float, float]


COSINE = {
    "start": Parameter(0.0, 0.0, 1.0, search=(0.0, 0.4)),
    "end": Parameter(1.0, 0.0, 1.0, search=(0.8, 1.0)),
    "tau": Parameter(1.0, 1.0, FAR, search=(1.0, 4.0)),
    "epsilon": Parameter(0.008, 0.0, 1.0, search=(0.005, 0.04)),
}


def knots_table(count: int) -> dict[str, Parameter]:
    """The noise-to-signal ratio in log units: its ends, and a relative rise for each segment.

    The default is the default cosine schedule at the knots, cut off at these ends.
    """
    start = Parameter(-10.0, -20.0, 20.0, search=(-12.0, -6.0))
    end = Parameter(10.0, -20.0, 20.0, search=(4.0, 14.0))
    inner = [_cosine_level(k / count) for k in range(1, count)]
    inner = [min(max(level, start.default), end.default) for level in inner]
    levels = [start.default, *inner, end.default]
    table = {"start": start, "end": end}
    for k in range(1, count + 1):
        rise = (levels[k] - levels[k - 1]) * count / (levels[-1] - levels[0])
        table[f"knot_{k}"] = _relative_rise(rise)
    return table


def _cosine_level(u):
    """-log SNR of the default cosine schedule at a time between 0 and 1."""
    epsilon = COSINE["epsilon"].default
    at_u, at_0 = (math.cos((v + epsilon) / (1 + epsilon) * math.pi / 2) ** 2 for v in (u, 0.0))
    return math.log((at_0 - at_u) / at_u)


def _relative_rise(default):
    low, high = RISES
    default = max(default, low)
    search = max(0.3 * default, low), min(3 * default, high)
    return Parameter(default, low, high, search)


# family -> parameter -> what is known of it; scheduler.LOG_F has the formula of the same name
FAMILIES = {
    "cosine": COSINE,
    "sigmoid": {
        "start": Parameter(-3.0, -FAR, FAR, search=(-4.0, 0.0)),
        "end": Parameter(3.0, -FAR, FAR, search=(1.0, 4.0)),
        "tau": Parameter(1.0, 0.1, 1.0, search=(0.3, 1.0)),
        "epsilon": Parameter(0.0, -FAR, FAR, search=(-0.5, 0.5)),
    },
    "linear": {
        "start": Parameter(0.0, 0.0, 1.0, search=(0.0, 0.4)),
        "end": Parameter(1.0, 0.0, 1.0, search=(0.8, 1.0)),
    },
    "knots": knots_table(KNOTS),
    "ddpm": {},
    "ddpm_unscaled": {},
}


def table_of(family: str, values: Iterable[str] = ()) -> dict[str, Parameter]:
    """The parameters of a family; that of the knots has as many as the names in `values`."""
    knots = sum(name.startswith("knot_") for name in values)
    return knots_table(knots) if family == "knots" and knots else FAMILIES[family]


def among(values: dict) -> dict:
    """Those of the values whose names are parameters of some family."""
    return {n: v for n, v in values.items() if n in NAMES or re.fullmatch(r"knot_\d+", n)}


def complete(family: str, given: dict) -> dict[str, float]:
    """The family's parameters with defaults filled in; ValueError names what is out of bounds."""
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, not one of {', '.join(FAMILIES)}")
    table = table_of(family, given)
    unknown = [name for name, value in given.items() if value is not None and name not in table]
    if unknown:
        raise ValueError(f"{unknown[0]}: the {family} schedule has no such parameter")
    values = {}
    for name, p in table.items():
        value = p.default if given.get(name) is None else _number(name, given[name])
        if not p.low <= value <= p.high:  # also if it is not a number
            raise ValueError(
                f"{name} is {value:g}, outside [{p.low:g}, {p.high:g}] ({family} schedule)"
            )
        values[name] = value
    if "start" in values and not values["end"] - values["start"] >= MIN_GAP:
        raise ValueError(
            f"start is {values['start']:g} and end {values['end']:g}: "
            f"end must exceed start by at least {MIN_GAP:g} ({family} schedule)"
        )
    return values


def project(family: str, values: dict[str, float], held: Collection[str] = ()) -> dict[str, float]:
    """The nearest parameters inside the bounds; those that are held are there, and stay."""
    table = table_of(family, values)
    inside = {name: min(max(v, table[name].low), table[name].high) for name, v in values.items()}
    if "start" in inside and not inside["end"] - inside["start"] >= MIN_GAP:
        low, high = table["start"].low, table["start"].high
        middle = (values["start"] + values["end"]) / 2
        middle = min(max(middle, low + MIN_GAP / 2), high - MIN_GAP / 2)
        # rounding may leave the gap an ulp short: an outward nudge keeps `complete` content
        gap = MIN_GAP * (1 + 1e-6)
        if "end" in held:
            inside["start"] = max(inside["end"] - gap, low)
        elif "start" not in held:
            inside["start"] = max(middle - gap / 2, low)
        if "end" not in held:
            inside["end"] = min(inside["start"] + gap, high)
    return inside


def to_bounds(family: str, values: dict[str, float]) -> dict[str, float]:
    """Each parameter's distance to its nearest bound; start and end also bound each other."""
    table = table_of(family, values)
    gap = values.get("end", math.inf) - values.get("start", 0.0) - MIN_GAP
    near = {n: min(v - table[n].low, table[n].high - v) for n, v in values.items()}
    return {n: min(d, gap) if n in ("start", "end") else d for n, d in near.items()}


def box_of(family: str, names: Iterable[str]) -> tuple[list[float], list[float]]:
    """The lower and the upper bounds of some parameters."""
    table = table_of(family, names)
    return [table[name].low for name in names], [table[name].high for name in names]


def scales_of(family: str, names: Iterable[str]) -> list[float]:
    """How wide each parameter's search range is, in widths of the one of `start`."""
    table = table_of(family, names)
    widths = {name: p.search[1] - p.search[0] for name, p in table.items()}
    return [widths[name] / widths["start"] for name in names]


def read_schedule(path: str) -> tuple[str, int, dict[str, float]]:
    """Family, timesteps and parameters of a schedule.json; ValueError names the file."""
    return _read(path)[0]


def _read(path):
    """What a file says of the schedule, and all of its content."""
    try:
        content = parse_json(Path(path).read_bytes())
        return from_content(content), content
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a noise schedule ({error})") from None


def from_content(content) -> tuple[str, int, dict[str, float]]:
    """Family, timesteps and parameters; ValueError says what is not a schedule's."""
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    if missing := {"family", "timesteps"} - set(content):
        raise ValueError(f"no {min(missing)!r}")
    family, timesteps = content["family"], content["timesteps"]
    if type(timesteps) is not int or not 1 <= timesteps <= MAX_TIMESTEPS:
        raise ValueError(
            f"timesteps is {timesteps!r:.30}, not a whole number from 1 to {MAX_TIMESTEPS}"
        )
    if not isinstance(family, str):
        raise ValueError(f"family is {family!r:.30}, not a name")
    if content.get("told") not in (None, *TOLD):
        raise ValueError(f"told is {content['told']!r:.30}, not one of {', '.join(TOLD)}")
    given = {key: content[key] for key in content if key not in BESIDE}
    return family, timesteps, complete(family, given)


def read_sampling_schedule(path: str) -> dict:
    """The content of a schedule.json to sample with; `told` is in it if it was learned that way."""
    (family, timesteps, values), content = _read(path)
    told = {"told": content["told"]} if content.get("told") else {}
    return {"family": family, "timesteps": timesteps, **values, **told}


def _number(name, value):
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r:.30}, not a number")
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        raise ValueError(f"{name} is too large") from None
