"""Stable-Diffusion pipelines of Hugging Face diffusers as pre-trained models.

diffusers and transformers are optional: nothing else in the project needs both. Guidance is that of
guidance.py in latents: the gradient of the decoded image's reward passes through decoder and U-Net,
with classifier-free guidance inside. Sampling is DDIM whatever scheduler the pipeline brings.
"""

import hashlib
import json

import torch
from torch import Tensor

from common.errors import Stop, first_line
from common.machine import stream
from studies.reward.drawing import Poll
from studies.reward.guidance import Reward, slope

NEEDED = "--pipeline needs two optional packages: pip install diffusers transformers"
# what from_pretrained raises for a folder or a name that it cannot use
UNUSABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


class PipelineModel:
    """A text-to-image pipeline with one prompt."""

    def __init__(self, pipe, scheduler, embeddings: Tensor, scale: float, shape, device, name: str):
        self.unet, self.vae, self.scheduler = pipe.unet, pipe.vae, scheduler
        self.embeddings = embeddings  # (1,L,D), or (2,L,D): of the empty prompt, then of the prompt
        self.scale, self.shape, self.device = scale, tuple(shape), device
        self.draws_digits = False
        self.predicts = pipe.scheduler.config.get("prediction_type", "epsilon")
        self.passes = len(scheduler.timesteps) * len(embeddings)
        self.identity, self.sizes = name, []

    def noise(self, n: int, seed: int, *names) -> Tensor:
        return torch.randn(n, *self.shape, generator=stream("cpu", seed, *names))

    def draw(self, noise: Tensor, reward: Reward | None, lam: float, poll: Poll) -> Tensor:
        z, sizes = noise.to(self.device), []
        with torch.no_grad():
            for t in self.scheduler.timesteps:
                if reward is None:
                    eps = self.predicted(z, t)
                else:
                    eps, gradient = self.guided(z, t, reward, lam)
                    sizes.append(gradient.flatten(1).norm(dim=1))
                z = self.scheduler.step(eps, t, z).prev_sample
                poll()
            images = self.decoded(z)
        if sizes:
            self.sizes.append((float(torch.stack(sizes).cpu().double().mean()), len(noise)))
        return images

    def guided(self, z: Tensor, t: Tensor, reward: Reward, lam: float) -> tuple[Tensor, Tensor]:
        """The guided noise, and the gradient of r(Dec(z0_hat)) in z_t that guides it."""
        signal, noise = self.levels(t)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            eps = self.predicted(z, t)
            gradient = slope(reward, self.decoded((z - noise * eps) / signal), z)
        return eps.detach() - noise / lam * gradient, gradient

    def predicted(self, z: Tensor, t: Tensor) -> Tensor:
        """The noise, by classifier-free guidance where there are two embeddings."""
        copies = len(self.embeddings)
        embeddings = self.embeddings.repeat_interleave(len(z), 0)  # (copies·B,L,D)
        output = self.unet(z.repeat(copies, 1, 1, 1), t, encoder_hidden_states=embeddings).sample
        if copies == 2:
            empty, prompted = output.chunk(2)
            output = empty + self.scale * (prompted - empty)
        if self.predicts == "epsilon":
            return output
        signal, noise = self.levels(t)  # v = signal eps - noise z0
        return signal * output + noise * z

    def decoded(self, z: Tensor) -> Tensor:
        """Images (B,3,H,W) in [-1, 1] of latents (B,4,h,w)."""
        return self.vae.decode(z / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.scheduler.alphas_cumprod[t].to(self.device)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def load(
    path: str, prompt: str, scale: float, steps: int, size: int | None, device: torch.device
) -> PipelineModel:
    """A pipeline from a folder or from the hub; what is missing or unfit is a Stop."""
    try:
        import transformers  # noqa: F401, the text encoder's package
        from diffusers import DDIMScheduler, StableDiffusionPipeline  # slow, and optional
    except ImportError:
        raise Stop(NEEDED, code=2) from None
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            path, safety_checker=None, requires_safety_checker=False
        )
    except UNUSABLE as error:
        raise Stop(f"--pipeline {path}: cannot be loaded ({first_line(error)})", code=2) from None
    predicts = pipe.scheduler.config.get("prediction_type", "epsilon")
    if predicts not in ("epsilon", "v_prediction"):
        raise Stop(f"--pipeline {path}: its network predicts {predicts}, not noise or v", code=2)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval().to(device)
    changes = {"clip_sample": False, "thresholding": False, "prediction_type": "epsilon"}
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    if steps > scheduler.config.num_train_timesteps:
        limit = scheduler.config.num_train_timesteps
        raise Stop(f"--backward_steps {steps} exceeds T = {limit} of {path}", code=2)
    scheduler.set_timesteps(steps)
    shape = latent_shape(pipe, size, path)
    with torch.no_grad():
        prompted, empty = pipe.encode_prompt(prompt, device, 1, scale > 1)
    embeddings = torch.cat([empty, prompted]) if scale > 1 else prompted
    how = identity_of({**scheduler.config, "predicts": predicts})
    factor = pipe.vae.config.get("scaling_factor")
    facts = f"{fingerprint(pipe)} {prompt} {scale} {steps} {shape} {factor} {how}"
    name = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return PipelineModel(pipe, scheduler, embeddings, scale, shape, device, name)


def latent_shape(pipe, size: int | None, path: str) -> tuple[int, int, int]:
    """Channels, height and width of the latents for images of `size` pixels."""
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    side = size // factor if size else pipe.unet.config.sample_size
    if size and size % factor:
        raise Stop(f"--pipeline_size {size}: not a multiple of {factor}, as {path} needs", code=2)
    return pipe.unet.config.in_channels, side, side


def identity_of(config: dict) -> str:
    """The settings of a scheduler; what diffusers adds for itself is in no fixed order."""
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    return json.dumps(settings, sort_keys=True, default=str)


def fingerprint(pipe) -> str:
    """A hash of the first numbers of every weight: enough to tell two trainings apart."""
    digest = hashlib.sha256()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        for name, weight in part.state_dict().items():
            digest.update(name.encode() + weight.flatten()[:16].cpu().double().numpy().tobytes())
    return digest.hexdigest()[:16]
