"""The plan of the study: what is trained and how, in plain Python, for -h to answer at once.

A recipe is a training schedule: a function (strategy 1 of the paper), a scale b of the input
(strategy 2), or both. Everything else is equal for all recipes, sizes and data sets.
"""

from typing import NamedTuple

DATASETS = ("mnist", "fashion")
SIZES = (8, 16, 32)
ALL_SIZES = (*SIZES, 64)  # 64 on demand: the image of 32 enlarged, at four times its cost
SEEDS = 3  # with fewer, a claim stays undecided
SHARED = """--model_base_dim 16 --timesteps 200 --batch_size 128 --epochs 1 --limit_batches 300
    --lr 0.02 --ema_memory 30 --backward_steps 20 --fid_samples 0 --eval_samples 2000
    --n_samples 16"""


class Recipe(NamedTuple):
    """Flags of train_mnist.py: of the function, and of the scale b of the input."""

    function: str = ""  # empty: cosine with its default parameters
    scaling: str = ""

    @property
    def flags(self) -> str:
        return f"{self.function} {self.scaling}"


BASE = "cosine"  # with b = 1: the common member of both strategies
SMALL_B = ("b 0.3", "b 0.1")  # which the paper says to normalise
NOT_NORMALISED = "not normalised"
# In this order: what is compared first comes first.
RECIPES = {
    BASE: Recipe(),
    "b 0.5": Recipe(scaling="--input_scale 0.5"),
    "b 0.3": Recipe(scaling="--input_scale 0.3"),
    "b 0.7": Recipe(scaling="--input_scale 0.7"),
    "b 1.4": Recipe(scaling="--input_scale 1.4"),  # less noise: an optimum near 1 is inside
    "b 0.1": Recipe(scaling="--input_scale 0.1"),
    "cosine, tau 2.31": Recipe("--tau 2.31"),  # log SNR in the middle as that of b 0.5
    "cosine, tau 3.57": Recipe("--tau 3.57"),  # and as that of b 0.3
    "b 0.3, not normalised": Recipe(scaling="--input_scale 0.3 --no_normalise"),
    "b 0.1, not normalised": Recipe(scaling="--input_scale 0.1 --no_normalise"),
    "linear": Recipe("--scheduler_type linear"),
    "sigmoid": Recipe("--scheduler_type sigmoid"),
    "sigmoid, -3 to 0": Recipe("--scheduler_type sigmoid --start -3 --end 0"),
    "sigmoid, 0 to 3": Recipe("--scheduler_type sigmoid --start 0 --end 3"),
    "cosine, 0.2 to 1": Recipe("--start 0.2"),
    "sigmoid, 0 to 3, tau 0.3": Recipe("--scheduler_type sigmoid --start 0 --end 3 --tau 0.3"),
    "linear, b 0.5": Recipe("--scheduler_type linear", "--input_scale 0.5"),
    "sigmoid, b 0.5": Recipe("--scheduler_type sigmoid", "--input_scale 0.5"),
}
FUNCTIONS = tuple(name for name, recipe in RECIPES.items() if not recipe.scaling)  # strategy 1
SCALES = (BASE, *(n for n in RECIPES if n.startswith("b ") and NOT_NORMALISED not in n))  # 2
MATCHED = {"b 0.5": "cosine, tau 2.31", "b 0.3": "cosine, tau 3.57"}  # by their middle log SNR
# trained with another function than cosine, and sampled by cosine too
CROSSED = tuple(name for name, recipe in RECIPES.items() if recipe.function)
