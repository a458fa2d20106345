"""An upper level small enough for float64 and finite differences."""

import torch

from common.fast_unet import FastUNet
from common.judging import Judge
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.upper_level import UpperLevel
from metrics import Reference
from model import Diffusion
from scheduler import Schedule

F64 = torch.float64


class Features:
    """An extractor without weights: random projections and their squares."""

    name, dim, weights_hash = "random projections", 12, ""

    def __init__(self):
        self.w = torch.randn(64, 6, dtype=F64, generator=torch.Generator().manual_seed(5))

    def __call__(self, x):
        features = x.double().flatten(1) @ self.w
        return torch.cat([features, features.square()], 1), None


def small_upper(
    net=None, n=8, family="cosine", no_clip=True, tau_type="linear", eps_scale=1.0, **settings
):
    """An upper level of a small U-Net in float64."""
    settings = UpperSettings(
        **{"backward_steps": 5, "samples": n, "directions": 2, "truncation": 1.0}
        | {"upper_gradient": "forward", **settings}
    )
    points = {"start": 0.1, "end": 0.9} | (
        {"tau": 1.3, "epsilon": 0.02} if family == "cosine" else {}
    )
    schedule = Schedule(family, 40, learned=True, **points)
    process = Diffusion(schedule, dtype=F64)
    root = torch.randn(12, 12, dtype=F64)
    reference = Reference(torch.zeros(12, dtype=F64), root @ root.T, 100, "toy", Features.name)
    judge = Judge(Features(), reference)
    drawn = SamplerSettings(5, tau_type, clip=not no_clip, eps_scale=eps_scale)
    sampler = Sampler(process, drawn, (1, 8, 8))
    net = (net or FastUNet(4, timesteps=40)).double().eval()
    noise = torch.randn(n, 1, 8, 8, dtype=F64)
    return UpperLevel(sampler, judge, schedule, settings), net, schedule, noise
