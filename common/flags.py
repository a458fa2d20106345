"""The flag groups that the scripts share; no torch."""

from common import cli
from common.cli import adder, count, count_or_none, device, number, parameter, positive
from common.datasets import DATASETS, IMAGE_SIZES
from common.families import FAMILIES, KNOTS, MAX_TIMESTEPS, TOLD

DATA_DIR = (
    "folder that contains MNIST/raw or FashionMNIST/raw, which is downloaded if it is missing, or "
    "your images"
)
CHUNK = 500  # images sampled at once
LR_SCHEDULES = ("onecycle", "constant", "cosine", "step", "exponential", "plateau")
EXTRACTORS = ("mnist", "first", "second", "pixels", "inception")
ETA_TEXT = "noise that each DDIM step adds, from 0 (none) to 1 (as much as in DDPM)"
EPS_SCALE_TEXT = (
    "sampling multiplies the predicted noise by this; a little above 1, images are sharper and "
    "vary less"
)
EXTRACTOR_TEXT = (
    "feature extractor for FID and IS: mnist, a classifier of 28x28 digits; first or second, "
    "classifiers made for the data set and its size; pixels, the mean of each cell of an 8x8 grid, "
    "without a network and without IS; or inception, InceptionV3"
)
EXTRACTOR_DEFAULT = (
    "mnist for 28x28 MNIST and for digits, else first, or pixels where there is no such network"
)
COST_OF_FID = "On MNIST, 10000 images with 100 DDIM steps cost about as much as 5.5 training epochs"
EVALUATED = "images for the final FID and Inception Score; 0: skip them. " + COST_OF_FID
WIDTH = number(int, 1, 4096)
TIMESTEPS = 1000  # T unless a flag or a schedule file sets another
MEANING = {
    "start": "start of the interval of the family's curve",
    "end": "end of the interval of the family's curve",
    "tau": "temperature of the schedule",
    "epsilon": "offset of the schedule",
}


def add_data(parser):
    add = adder(parser, "data")
    text = "; ".join(f"{name}: {entry.meaning}" for name, entry in DATASETS.items())
    add("dataset", "mnist", text, choices=list(DATASETS))
    add("data_dir", "data", DATA_DIR)
    text = (
        "side of the images in pixels (default: the data set's own, 28 or 8). Of MNIST and "
        "Fashion-MNIST 32 is the image framed in black, 64 that image enlarged, and 8 and 16 are "
        "means over its blocks"
    )
    add("image_size", None, text, type=int, choices=IMAGE_SIZES)
    add("cache_dir", "cache", "folder in which reference statistics of the FID are cached")


def add_network(parser):
    add = adder(parser, "network")
    add("model_base_dim", 64, "channels of the first layer; a multiple of 4", type=WIDTH)


def add_process(group, timesteps_from=""):
    """The flags of the diffusion process that every script has, fixed schedule or learned."""
    add = adder(group)
    text = f"number of diffusion steps T (default: {TIMESTEPS}{timesteps_from})"
    add("timesteps", None, text, type=number(int, 1, MAX_TIMESTEPS))
    text = "b in x_t = sqrt(alpha_bar) b x_0 + sqrt(1 - alpha_bar) eps: scales the data"
    add("input_scale", 1.0, text, type=positive)
    text = (
        "do not divide the network's input by the standard deviation that it would have if pixels "
        "had mean 0 and variance 1; no effect if --input_scale is 1"
    )
    add("no_normalise", False, text, action="store_true")
    text = (
        "time that the network receives as input; index: t; log_snr: the t at which the default "
        "cosine schedule is nearest in log SNR, so that an input means a noise level under every "
        "schedule"
    )
    add("time_condition", "index", text, choices=["index", "log_snr"])


def add_schedule(parser):
    group = parser.add_argument_group("schedule")
    add = adder(group)
    add("scheduler_type", "cosine", "family of the noise schedule", choices=list(FAMILIES))
    for name, meaning in MEANING.items():
        defaults = ", ".join(f"{f} {p[name].default:g}" for f, p in FAMILIES.items() if name in p)
        add(name, None, f"{meaning} (default: {defaults})", type=parameter)
    text = "read family, T and parameters of the schedule from a schedule.json, or that of a run"
    add("schedule_from", None, text, metavar="FILE|RUN")
    add_sampling_schedule(add)
    add_knots(add)
    add_process(group, ", or the T of --schedule_from")


def add_sampling_schedule(add) -> None:
    text = (
        "sample with another schedule: a schedule.json, that of a run, or a family with its "
        "default parameters"
    )
    add("sampling_schedule", None, text, metavar="FILE|RUN|FAMILY")
    text = (
        "time that the network receives where --sampling_schedule differs from the schedule that "
        "it was trained with; visited: the time of the step; nearest: the training time of the "
        "nearest noise level (default: as in the file of a schedule learned with --freeze_network, "
        "else nearest)"
    )
    add("told", None, text, choices=TOLD)


def add_knots(add) -> None:
    text = "pieces of the knots schedule, on each of which log SNR is linear in time"
    add("knots", KNOTS, text, type=number(int, 1, 1000))


def add_training(parser, epochs=100, meaning="passes over the training images"):
    add = adder(parser, "training")
    add("epochs", epochs, meaning, type=count)
    add("batch_size", 128, "images per training step", type=number(int, 2, cli.MANY))
    add("lr", 0.001, "peak learning rate of AdamW", type=positive)
    text = "learning-rate schedule; onecycle warms up during the first quarter of the steps"
    add("lr_schedule", "onecycle", text, choices=LR_SCHEDULES)
    text = "training steps between updates of the network's moving average (EMA)"
    add("model_ema_steps", 10, text, type=count)
    text = "decay of the EMA before it is rescaled by batch size, update interval and epochs"
    add("model_ema_decay", 0.995, text, type=number(float, 0, 1))
    text = (
        "training steps that the EMA looks back over, instead of --model_ema_decay; compare only "
        "runs in which it is equal (default: by the rule of --model_ema_decay, and logged)"
    )
    add("ema_memory", None, text, type=positive)
    add("limit_batches", 0, "maximum number of batches per epoch; 0: all", type=count_or_none)
    text = "initialise the network with the weights in a checkpoint, or in the newest one of a run"
    add("ckpt", "", text, metavar="FILE|RUN")


def add_noise_levels(parser):
    """What training with a fixed schedule draws and weighs; more in docs/tuning.md."""
    add = adder(parser, "noise levels")
    text = "weight of the squared error at each time t; min_snr: min(SNR, 5)/SNR"
    add("loss_weighting", "none", text, choices=["none", "min_snr"])
    text = (
        "times that training draws; adaptive: more often where the losses so far show that there "
        "is much information, without importance weights"
    )
    add("time_sampling", "uniform", text, choices=["uniform", "adaptive"])


def add_evaluation(parser, reference="test", evaluated=EVALUATED):
    """`reference` is the split that a script's own FID is measured against."""
    add = adder(parser, "evaluation")
    add("n_samples", 36, "images in the sample grid that is saved after each epoch", type=count)
    add("backward_steps", 100, "DDIM steps per sampled image", type=count)
    add("tau_type", "linear", "spacing of the DDIM steps", choices=["linear", "quadratic"])
    text = (
        "ddim: visits --backward_steps steps, without noise unless --eta asks for it; ddpm: visits "
        "all T steps, with noise"
    )
    add("sampler", "ddim", text, choices=["ddim", "ddpm"])
    add("eta", 0.0, ETA_TEXT, type=number(float, 0, 1))
    add("eps_scale", 1.0, EPS_SCALE_TEXT, type=number(float, 0, 2))
    text = "do not clip the predicted x_0 to [-1, 1] during sampling"
    add("no_clip", False, text, action="store_true")
    text = (
        "images for the FID and Inception Score after each epoch; 0: skip them. On MNIST, 500 "
        "images with 100 DDIM steps cost about 30%% of a training epoch"
    )
    add("fid_samples", 500, text, type=cli.images)
    add("eval_samples", 10000, evaluated, type=cli.images)
    text = "images sampled at once when many are wanted; less memory if smaller"
    add("eval_chunk", CHUNK, text, type=count)
    add("extractor", None, f"{EXTRACTOR_TEXT} (default: {EXTRACTOR_DEFAULT})", choices=EXTRACTORS)
    text = "pytorch-fid's InceptionV3 weights as a local file; downloaded if not given"
    add("inception_weights", None, text, metavar="FILE")
    text = "split whose images are the reference of --extractor; the other judges use test"
    if reference == "train":
        text = "split whose images are the reference of the FID that is optimised; reports use test"
    add("reference", reference, text, choices=["test", "train"])


def add_runtime(parser):
    add = adder(add_machine(parser))
    add("amp", False, "train and sample with bfloat16 autocast", action="store_true")
    text = (
        "compile the networks, which takes minutes at the start of a run; graphs also records CUDA "
        "graphs"
    )
    add("compile", "off", text, choices=["off", "fused", "graphs"])
    text = (
        "let CUDA multiply float32 numbers as TF32, which keeps 10 of 23 bits of each: faster, but "
        "FIDs change slightly"
    )
    add("tf32", False, text, action="store_true")
    text = "print what the command would do and what it costs, then exit"
    add("dry_run", False, text, action="store_true")


def add_machine(parser):
    """The runtime flags of every script that makes runs."""
    group = parser.add_argument_group("runtime")
    add = adder(group)
    text = "cpu, mps, cuda or cuda:N; auto takes cuda if available, else mps, else cpu"
    add("device", "auto", text, type=device)
    add("cpu", False, "run on the CPU, like --device cpu", action="store_true")
    text = (
        "seed of the run's random numbers; in the training scripts, images for pictures and scores "
        "start from the same noise under every seed"
    )
    add("seed", 0, text, type=number(int, 0, 2**32 - 1))
    text = "CPU threads; 0: torch's default. Use fewer if other jobs share the machine"
    add("threads", 0, text, type=cli.threads)
    text = "seconds between checkpoints; 0: one after every step"
    add("save_seconds", 60.0, text, type=number(float, 0))
    text = "resume an unfinished run: its folder or number, or 'latest'"
    add("resume", None, text, metavar="latest|RUN")
    return group


def add_output(parser, tensorboard: bool = True):
    group = parser.add_argument_group("output")
    add = adder(group)
    add("runs_dir", "runs", "folder in which each run creates a numbered folder")
    add("log_freq", 10, "training steps (bilevel: iterations) between log lines", type=count)
    if tensorboard:
        text = "also write losses, scores, schedule and sample pictures for TensorBoard"
        add("tensorboard", False, text, action="store_true")
    return group
