"""The comparison as data: its scales, its methods and how each method's budget is set."""

import shlex
from typing import NamedTuple


class Scale(NamedTuple):
    """Flags by the kind of run they are for; a search's trial has those of `train`."""

    meaning: str
    seeds: int
    shared: str
    train: str
    bilevel: str
    coupled: str = ""  # of a bilevel run whose theta_z is coupled to theta_y
    late: str = ""  # of one whose schedule moves while the rate falls, when the two stay together
    frozen: str = "--zo_samples 64 --frozen_updates 200"  # as in the first of these rows
    trials: int | None = None  # of a search; None: what the bilevel run's forward passes pay for
    judged: int = 10000  # images that every network is judged on, in the scale's DDIM steps
    chains: tuple[int, ...] = ()  # DDIM steps in which it is judged too
    chain_images: int = 2000  # on so many images
    rows: tuple[str, ...] = ()  # the methods that are run unless others are named; (): all
    for_gpu: bool = False  # its plan projects the hours of an H100


class Method(NamedTuple):
    """One row of the comparison."""

    kind: str  # train, bilevel, frozen or search: which script runs it, and how
    flags: str = ""  # beside the scale's
    schedule_from: str = ""  # the method whose learned schedule it trains with
    network_from: str = ""  # the method whose network it leaves as it is
    late: bool = False  # with the scale's flags for that
    equal: str = ""  # "passes": trained for as many forward passes as the bilevel run takes
    controls: tuple[str, ...] = ("default",)  # the rows that it is compared with


BILEVEL = "exact"  # the method whose cost is every other method's budget
EXACT = "--recipe exact"
HELD = "default", "held"  # in equal epochs the same training, bit for bit
BEGUN = "default", "end 0.98"  # the second is where a run without clipping begins, held there
DRAWN = "end 0.98 in sampling"  # the default's network, drawn with that schedule
# and with a start and a tau near those that `exact, late` learned
DRAWN_START, DRAWN_TAU = "start 0.02 in sampling", "tau 1.15 in sampling"
DRAWN_SCALED = "eps_scale 1.15 in sampling"  # and with its predicted noise multiplied
# schedules learned for the default's network: twelve knots or four parameters, by 64 or 256 images
KNOTS_OF_FEW, FOUR_OF_FEW = "schedule alone", "schedule alone, 4 parameters"
KNOTS_OF_MORE, FOUR = "schedule alone, 256 images", "schedule alone, 4 parameters, 256 images"
KNOTS_HELD = "knots held"  # the schedule where `exact knots` begins
STILL = "--lr_beta 0 0 0 0"
AS_IT_IS = f"{STILL} --frozen_updates 1"  # of a frozen run: nothing is learned
SCALED = "--eps_scale 1.15"
MORE_IMAGES = "--zo_samples 256 --frozen_updates 100"  # of a frozen run, for twice the passes
LONGER = ("default, 30 epochs",)
NO_CLIP = "--no_clip"
KNOTS = "--scheduler knots"
NEW_SEED = 1000  # added to the seed of a training with a search's schedule

# Each method that optimises does so for one sampler, with clipping or without; all are judged in
# both. What a method learns for the unclipped sampler has its name with that ending.
METHODS = {
    "default": Method("train"),
    KNOTS_OF_FEW: Method("frozen", KNOTS, network_from="default"),
    DRAWN: Method(
        "frozen",
        f"{KNOTS} --initial_end 0.98 {AS_IT_IS}",
        network_from="default",
    ),
    DRAWN_START: Method("frozen", f"--initial_start 0.02 {AS_IT_IS}", network_from="default"),
    DRAWN_TAU: Method("frozen", f"--initial_tau 1.15 {AS_IT_IS}", network_from="default"),
    DRAWN_SCALED: Method("frozen", f"{SCALED} {AS_IT_IS}", network_from="default"),
    "schedule alone, eps_scale 1.15": Method(
        "frozen",
        f"{KNOTS} {SCALED}",
        network_from="default",
        controls=("default", DRAWN_SCALED),
    ),
    "schedule alone, no clipping": Method(
        "frozen",
        f"{KNOTS} {NO_CLIP} --initial_end 0.98",
        network_from="default",
        controls=(*BEGUN, DRAWN),
    ),
    "end 0.9": Method("train", "--end 0.9"),
    "end 0.98": Method("train", "--end 0.98"),
    "start 0.02": Method("train", "--start 0.02"),
    "tau 1.15": Method("train", "--tau 1.15"),
    "tau 4, end 0.9": Method("train", "--tau 4 --end 0.9"),
    "min-SNR": Method("train", "--loss_weighting min_snr"),
    "held": Method("bilevel", f"{EXACT} {STILL}"),
    BILEVEL: Method("bilevel", EXACT, controls=HELD),
    "exact, no clipping": Method(
        "bilevel", f"{EXACT} {NO_CLIP} --initial_end 0.98", controls=BEGUN
    ),
    "exact, late": Method("bilevel", EXACT, late=True, controls=HELD),
    "exact, late, no clipping": Method(
        "bilevel", f"{EXACT} {NO_CLIP} --initial_end 0.98", late=True, controls=BEGUN
    ),
    "adaptive times": Method("train", "--time_sampling adaptive"),
    KNOTS_HELD: Method("train", "--scheduler_type knots"),
    "log SNR linear": Method("train", "--scheduler_type knots --knots 1"),
    "exact knots": Method("bilevel", f"{EXACT} {KNOTS}", controls=("default", KNOTS_HELD)),
    "exact's schedule, anew": Method("train", schedule_from=BILEVEL),
    "exact, late's schedule, anew": Method("train", schedule_from="exact, late"),
    "exact's schedule, no clipping, anew": Method(
        "train", schedule_from="exact, no clipping", controls=BEGUN
    ),
    "zeroth-order": Method("bilevel", "--recipe ours", controls=HELD),
    "zeroth-order, no clipping": Method("bilevel", "--recipe paper", controls=HELD),
    FOUR_OF_FEW: Method("frozen", network_from="default", controls=("default", DRAWN_TAU)),
    KNOTS_OF_MORE: Method(
        "frozen", f"{KNOTS} {MORE_IMAGES}", network_from="default", controls=("default", DRAWN_TAU)
    ),
    FOUR: Method("frozen", MORE_IMAGES, network_from="default", controls=("default", DRAWN_TAU)),
    "tau 2": Method("train", "--tau 2"),
    "input scale 0.5": Method("train", "--input_scale 0.5"),
    "default, exact's budget": Method("train", equal="passes"),
    "default, 30 epochs": Method("train", "--epochs 30"),
    "end 0.9, 30 epochs": Method("train", "--end 0.9 --epochs 30", controls=LONGER),
    "schedule alone, 30 epochs": Method(
        "frozen", KNOTS, network_from="default, 30 epochs", controls=LONGER
    ),
    "random": Method("search", "--strategy random"),
    "grid": Method("search", "--strategy grid"),
    "bayesian": Method("search", "--strategy bayesian"),
    "random, no clipping": Method("search", f"--strategy random {NO_CLIP}"),
    "bayesian, no clipping": Method("search", f"--strategy bayesian {NO_CLIP}"),
    "random's schedule, anew": Method("train", schedule_from="random"),
    "grid's schedule, anew": Method("train", schedule_from="grid"),
    "bayesian's schedule, anew": Method("train", schedule_from="bayesian"),
    "random's schedule, no clipping, anew": Method("train", schedule_from="random, no clipping"),
    "bayesian's schedule, no clipping, anew": Method(
        "train", schedule_from="bayesian, no clipping"
    ),
}

# the rows behind the main results, for images on which not all can be run
KEY_ROWS = (
    "default",
    "end 0.98",
    KNOTS_OF_FEW,
    DRAWN,
    "schedule alone, no clipping",
    "exact, late",
    "exact, late, no clipping",
    "start 0.02",
    DRAWN_START,
    "tau 1.15",
    DRAWN_TAU,
    DRAWN_SCALED,
    "schedule alone, eps_scale 1.15",
    FOUR_OF_FEW,
    KNOTS_OF_MORE,
    FOUR,
    "exact, late's schedule, anew",
)

# where the scale's own epochs are no fewer, or nearly as many
WITHOUT_30_EPOCHS = tuple(name for name in METHODS if not name.endswith("30 epochs"))

CPU = Scale(
    "MNIST at 8x8, 16 channels, six epochs: minutes a run on a core",
    seeds=10,
    shared="""--image_size 8 --model_base_dim 16 --batch_size 256 --timesteps 200 --lr 0.01
        --backward_steps 10 --eval_samples 2000 --threads 1""",
    train="--epochs 6 --fid_samples 0",
    bilevel="--epochs 6 --initial_epoch 2 --fid_samples 1000 --lr_beta 0.02 0.02 0.2 0.002",
    late="--initial_epoch 4 --update_every 20 --exact_every 20 --zo_samples 256",
    trials=6,
    chains=(5, 10, 20, 50),
)

SCALES = {
    "quick": Scale(
        "8x8 digits and a small network: a rehearsal, each run taking minutes",
        seeds=1,
        shared="""--dataset digits --model_base_dim 8 --batch_size 64 --timesteps 100 --lr 0.03
            --backward_steps 5 --eval_samples 500 --threads 1""",
        train="--epochs 6 --fid_samples 0",
        bilevel="""--epochs 6 --initial_epoch 4 --fid_samples 500
            --lr_beta 0.02 0.02 0.1 0.002""",
        coupled="--settle_steps 10 --exact_every 4 --update_every 4",
        late="--initial_epoch 5 --exact_every 2 --update_every 2 --zo_samples 256",
        judged=500,
    ),
    "cpu": CPU,
    "cpu16": CPU._replace(
        meaning="MNIST at 16x16, ten epochs, otherwise as cpu: fifteen minutes or more a run",
        seeds=3,
        shared=f"{CPU.shared} --image_size 16",
        train=f"{CPU.train} --epochs 10",
        bilevel=f"{CPU.bilevel} --epochs 10",
        late=f"{CPU.late} --initial_epoch 7",
        rows=KEY_ROWS,
    ),
    "fashion": CPU._replace(
        meaning="Fashion-MNIST at 8x8, otherwise as cpu",
        seeds=3,
        shared=f"--dataset fashion {CPU.shared}",
        rows=KEY_ROWS,
    ),
    "gpu": Scale(
        "MNIST, the full-size network, fewer epochs than the paper, for a GPU",
        seeds=3,
        shared="",
        train="--epochs 20 --fid_samples 0",
        bilevel="""--epochs 20 --initial_epoch 10 --fid_samples 10000
            --lr_beta 0.02 0.02 0.2 0.002""",
        coupled="--update_every 100",
        late="--initial_epoch 16 --zo_samples 256",
        chains=(5, 10, 20, 50, 100),
        rows=WITHOUT_30_EPOCHS,
        for_gpu=True,
    ),
    "paper": Scale(
        "MNIST, the published epochs and flags, for a GPU",
        seeds=3,
        shared="",
        train="--fid_samples 0",
        bilevel="""--inner_loop 10 --initial_epoch 2 --epochs 3 --fid_samples 10000
            --lr_beta 0.05 0.05 1 0.05""",
        late="--zo_samples 256",
        trials=15,  # the published number, whatever the bilevel run costs
        chains=(5, 10, 20, 50, 100),
        rows=WITHOUT_30_EPOCHS,
        for_gpu=True,
    ),
}


def merge(*texts: str) -> list[str]:
    """Flags in a row, each once: a later text overrides an earlier one in the earlier's place."""
    flags, name = {}, ""
    for text in texts:
        for token in shlex.split(text):
            if token.startswith("--"):
                name = token
                flags[name] = []
            else:
                flags[name].append(token)
    return [token for name, values in flags.items() for token in (name, *values)]
