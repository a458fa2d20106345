"""What bench.py measures against: the published computations as written, layer by layer.

The network is unet.py's; AdamW goes tensor by tensor; one sampling a side; the FID by a general
eigenproblem.
"""

import torch
from torch import Tensor, nn


def fid(mean: Tensor, cov: Tensor, reference) -> Tensor:
    """The Fréchet distance by the eigenvalues of the product of two covariances."""
    trace_sqrt = torch.linalg.eigvals(cov @ reference.cov).sqrt().real.sum()
    gap = (mean - reference.mean).square().sum()
    return gap + cov.trace() + reference.cov.trace() - 2 * trace_sqrt


@torch.no_grad()
def side(net: nn.Module, sampler, levels, extractor, reference, noise: Tensor) -> Tensor:
    """One side of a zeroth-order difference: a sampling, its features, its FID."""
    features = extractor(sampler.process.sample(net, noise, sampler.steps, levels=levels))[0]
    features = features.double()
    return fid(features.mean(0), features.mT.cov(), reference)
