"""A network and its schedule as other programs read them, without this project's checkpoints.

model.safetensors                  the averaged network's weights
config.json                        flags, schedule and shape of the images
scheduler/scheduler_config.json    diffusers' DDIMScheduler with the schedule's betas
sampling.json                      the sampler's times and noise levels
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from common import checkpoint
from common.errors import Stop, parse_json
from common.networks import network_in
from common.optional import optional
from model import Diffusion

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# flags that name a place on the machine of the run
PLACES = {"data_dir", "runs_dir", "cache_dir", "schedule_from", "resume", "ckpt"}
PLACES |= {"inception_weights"}
KEPT = ("kind", "schedule", "shape")  # of a checkpoint, beside its flags and weights


def write_json(path: Path, content: dict) -> None:
    """For other programs: without NaN, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, content, allow_nan=False)


def write_network(folder: Path, net: nn.Module, state: dict) -> None:
    """The weights, and what it takes to build the network and its process again."""
    safetensors = optional("safetensors.torch", "common.export")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    content = safetensors.save(weights, metadata={"format": "pt"})
    checkpoint.write_atomically(folder / WEIGHTS, content)
    args = {name: value for name, value in state["args"].items() if name not in PLACES}
    about = {"_class_name": "UNet"} | {name: state[name] for name in KEPT if name in state}
    write_json(folder / CONFIG, {**about, "args": args})


def read_network(folder: Path, device: torch.device | str) -> tuple[nn.Module, dict]:
    """The network of such a folder, and what a checkpoint would say of it."""
    safetensors = optional("safetensors.torch", f"{folder}")
    try:
        state = parse_json((folder / CONFIG).read_bytes())
        state["ema"] = safetensors.load((folder / WEIGHTS).read_bytes())
        state["shape"] = tuple(state["shape"])
    except OSError as error:
        raise Stop(f"{error.filename}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, optional("safetensors", "").SafetensorError) as error:
        raise Stop(f"{folder}: not an exported network ({error})") from None
    return network_in(state, device, str(folder)), state


def sampling_steps(process: Diffusion, steps: int, tau_type: str = "linear") -> dict:
    """What DDIM visits, in the order of sampling: times, alpha_bar and sigma, 0 and 1 at the end.

    x_t = signal_t x_0 + noise_t eps, and sigma_t = noise_t/signal_t is what samplers that work with
    noise levels take.
    """
    exact = process.replaced(dtype=torch.float64, device="cpu")
    visits = exact.visits(steps, tau_type)
    log_alpha_bar = exact.sampling_schedule.log_alpha_bar().detach()
    sigmas = visits.levels.noise / visits.levels.signal
    sigmas[0] = 0.0  # a root's floor keeps it above
    times = [0, *visits.times]
    return {
        "steps": steps, "tau_type": tau_type, "times": times[::-1],
        "network_times": visits.net_times.tolist()[::-1],
        "alpha_bar": log_alpha_bar[times].exp().tolist()[::-1], "sigmas": sigmas.tolist()[::-1],
    }  # fmt: skip


def sampling_table(visited: dict) -> str:
    """The same as a table to read."""
    lines = ["   t  alpha_bar         sigma"]
    for t, ab, sigma in zip(visited["times"], visited["alpha_bar"], visited["sigmas"], strict=True):
        lines.append(f"{t:4d}  {ab:.10f}  {sigma:.8g}")
    return "\n".join(lines)


def scheduler_config(betas: Tensor, clip: bool) -> dict:
    """diffusers' DDIMScheduler, whose t is this project's t - 1."""
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": len(betas),
        "trained_betas": betas.tolist(),
        "timestep_spacing": "trailing",
        "prediction_type": "epsilon",
        "clip_sample": clip,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    }


def fits_diffusers(process: Diffusion) -> bool:
    """Whether those betas are the whole process: no scaled data, one schedule for both uses, and a
    network that is told the time itself."""
    alone = process.sampling_schedule is process.schedule and process.reference is None
    return math.isclose(process.b, 1.0) and alone
