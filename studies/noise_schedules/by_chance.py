"""Which verdicts come out where no schedule matters: FIDs that differ by nothing but noise.

All judges see the same here, which makes it likeliest that a claim stands by chance.
"""

import math
import random
from functools import cache

from studies.noise_schedules.claims import (
    CLAIMS,
    DOES_NOT,
    IN_PART,
    JUDGES,
    PAIRS,
    STANDS,
    Sizes,
    groups_of,
    verdict_at,
)
from studies.noise_schedules.closed_form import curve_of, parsed
from studies.noise_schedules.plan import CROSSED, DATASETS, RECIPES, SEEDS, SIZES

SPREAD = 0.05  # standard deviation of the logarithm of an FID
STUDIES = 200
FIDS = [f"fid_{judge}" for judge in JUDGES]
VERDICTS = (STANDS, IN_PART, DOES_NOT)
# a place of each kind: a size, a size and the next, the first size and the last
PLACES: tuple[Sizes, ...] = ((SIZES[0],), PAIRS[0], PAIRS[-1])


def made_up(chance: random.Random) -> list[dict]:
    """The rows of one data set: the FIDs of every network and sampler are drawn on their own."""
    return [
        {
            "dataset": DATASETS[0], "size": size, "seed": seed, "recipe": name, "sampled_by": by,
            **facts(name),
            **dict.fromkeys(FIDS, math.exp(chance.gauss(0, SPREAD))),
        }
        for size in SIZES for seed in range(SEEDS) for name in RECIPES
        for by in (("own", "cosine") if name in CROSSED else ("own",))
    ]  # fmt: skip


@cache
def facts(recipe: str) -> dict[str, float]:
    """What the claims read of a recipe beside its FIDs."""
    args, curve = parsed(recipe), curve_of(recipe)
    middle = curve.log_snr[args.timesteps // 2 - 1].item()
    return {"input_scale": args.input_scale, "log_snr_middle": middle}


@cache
def shares(studies: int = STUDIES) -> dict[tuple[str, Sizes], dict[str, float]]:
    """By claim and place, how often each verdict came out."""
    chance = random.Random(0)
    counts = {
        (number, sizes): dict.fromkeys(VERDICTS, 0)
        for number, claim in CLAIMS.items()
        for sizes in PLACES
        if claim.across_sizes == (len(sizes) > 1)
    }
    for _ in range(studies):
        groups = groups_of(made_up(chance))
        for (number, sizes), count in counts.items():
            count[verdict_at(CLAIMS[number], groups, DATASETS[0], sizes).name] += 1
    return {key: {v: n / studies for v, n in count.items()} for key, count in counts.items()}
