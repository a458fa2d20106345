"""The families of noise schedules: parameters, defaults and bounds, in plain Python.

The formulas are in scheduler.py. This table stands apart from them so that a script can refuse a
schedule before torch is imported.
"""

import json
import math
from pathlib import Path

NAMES = ("start", "end", "tau", "epsilon")
MIN_GAP = 1e-3  # end - start: below it the curve has no room to fall
INF = math.inf

# family -> parameter -> (default, lowest, highest)
FAMILIES = {
    "cosine": {
        "start": (0.0, 0.0, 1.0),
        "end": (1.0, 0.0, 1.0),
        "tau": (1.0, 1.0, INF),
        "epsilon": (0.008, 0.0, 1.0),
    },
    "sigmoid": {
        "start": (-3.0, -INF, INF),
        "end": (3.0, -INF, INF),
        "tau": (1.0, 0.1, 1.0),
        "epsilon": (0.0, -INF, INF),
    },
    "linear": {"start": (0.0, 0.0, 1.0), "end": (1.0, 0.0, 1.0)},
    "ddpm": {},
    "ddpm_unscaled": {},
}


def complete(family: str, given: dict) -> dict[str, float]:
    """The family's parameters with defaults filled in; ValueError names what is out of bounds."""
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, not one of {', '.join(FAMILIES)}")
    bounds = FAMILIES[family]
    unknown = [name for name, value in given.items() if value is not None and name not in bounds]
    if unknown:
        raise ValueError(f"{unknown[0]}: the {family} schedule has no such parameter")
    values = {}
    for name, (default, low, high) in bounds.items():
        value = default if given.get(name) is None else _number(name, given[name])
        if not (low <= value <= high and math.isfinite(value)):
            raise ValueError(
                f"{name} is {value:g}, outside [{low:g}, {high:g}] ({family} schedule)"
            )
        values[name] = value
    if "start" in values and not values["end"] - values["start"] >= MIN_GAP:
        raise ValueError(
            f"start is {values['start']:g} and end {values['end']:g}: "
            f"end must exceed start by at least {MIN_GAP:g} ({family} schedule)"
        )
    return values


def read_schedule(path: str) -> tuple[str, int, dict[str, float]]:
    """Family, timesteps and parameters of a schedule.json; ValueError names the file."""
    try:
        content = json.loads(Path(path).read_text())
        given = {key: content[key] for key in content if key not in ("family", "timesteps")}
        timesteps = content["timesteps"]
        if type(timesteps) is not int or timesteps < 1:
            raise ValueError(f"timesteps is {timesteps!r}, not a whole number above 0")
        return content["family"], timesteps, complete(content["family"], given)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not a noise schedule ({reason})") from None


def _number(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)
