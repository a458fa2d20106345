"""The model card of an exported network: data, schedule, evaluation, use.

Every number is read from the run's args.json and summary.json.
"""

from string import Template

from common.sampling import SamplerSettings

ABOUT = ("command", "commit", "versions", "device", "threads", "data")  # not numbers of a judge
HEAD = Template("""---
license: mit
tags: [diffusion, noise-schedule]
datasets: [$dataset]
---

# $name

A diffusion model of $parameters parameters for images of shape $shape.

* Data: $dataset, fingerprint $data
* Seed: $seed
* Schedule: $schedule
* Sampling: $sampling
* Command: `$command`
* Commit: $commit; versions: $versions; device: $device
* Licence: MIT, see LICENSE

## Evaluation

$evaluation

## Use

```python
from common.sampling import sample

images = sample("$name", 16)  # (16,C,H,W) in [-1, 1]
```

$diffusers
""")
DIFFUSERS = Template("""```python
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from unet import UNet

net = UNet($base, timesteps=$timesteps, channels=$channels).eval()
net.load_state_dict(load_file("$name/model.safetensors"))
ddim = DDIMScheduler.from_pretrained("$name", subfolder="scheduler")
ddim.set_timesteps($steps)
x = torch.randn(16, $shape)
with torch.inference_mode():
    for t in ddim.timesteps:
        eps = net(x, t[None] + 1)
        x = ddim.step(eps, t, x, eta=$eta, use_clipped_model_output=$clip).prev_sample
```""")
NO_DIFFUSERS = """This network was trained on scaled data, samples with another schedule than it was
trained with, at quadratic times, in steps that do not divide T or by scaled predictions, or is told
another time than the step's. diffusers' scheduler knows only the betas; `sample` does the rest, and
sampling.json lists the times that the network is told."""


def card(
    name: str,
    state: dict,
    settings: SamplerSettings,
    parameters: int,
    about: dict,
    summary: dict,
    diffusers: bool,
) -> str:
    """The text of README.md; `about` and `summary` are the run's two records, empty if unknown."""
    args, schedule = state["args"], dict(state["schedule"])
    family, timesteps = schedule.pop("family"), schedule.pop("timesteps")
    values = "".join(f", {key} {value:.6g}" for key, value in schedule.items())
    clip = "clipped" if settings.clip else "not clipped"
    noise = f" with eta {settings.eta:g}" if settings.eta else ""
    noise += f", predicted noise times {settings.eps_scale:g}" if settings.eps_scale != 1 else ""
    chain = f"DDIM{noise}, {settings.steps} steps, {settings.tau_type}"
    known = {key: value for key in ABOUT if (value := about.get(key))}
    if type(versions := known.get("versions")) is dict:
        known["versions"] = ", ".join(f"{key} {value}" for key, value in versions.items())
    return HEAD.substitute(
        dict.fromkeys(ABOUT, "not recorded") | known,
        name=name,
        dataset=args["dataset"],
        parameters=f"{parameters:,}",
        shape=tuple(state["shape"]),
        seed=args.get("seed", "not recorded"),
        schedule=f"{family}, T {timesteps}{values}",
        sampling=f"{chain} spacing, predicted x_0 {clip}",
        evaluation=evaluation(summary),
        diffusers=with_diffusers(name, state, settings) if diffusers else NO_DIFFUSERS,
    )


def evaluation(summary: dict) -> str:
    """Every number that the run recorded, whichever judges it has."""
    if summary.get("fid") is None:
        return "No final evaluation is recorded with this network."
    rows = [f"| {key} | {value} |" for key, value in flat(summary).items()]
    lines = ["An FID can be compared only with one of the same n, extractor and reference.", ""]
    return "\n".join([*lines, "| number | value |", "|---|---|", *rows])


def flat(content: dict, before: str = "") -> dict[str, object]:
    """The plain values of nested dictionaries and lists, under names such as default.fid."""
    values: dict[str, object] = {}
    for name, value in content.items():
        if not before and name in ABOUT:
            continue
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            values |= flat(value, f"{before}{name}.")
        elif value is not None:
            values[f"{before}{name}"] = value
    return values


def with_diffusers(name: str, state: dict, settings: SamplerSettings) -> str:
    """The lines that sample without this project's sampler."""
    return DIFFUSERS.substitute(
        name=name,
        base=state["args"]["model_base_dim"],
        timesteps=state["args"]["timesteps"],
        channels=state["shape"][0],
        steps=settings.steps,
        shape=", ".join(map(str, state["shape"])),
        clip=settings.clip,
        eta=f"{settings.eta:g}",
    )
