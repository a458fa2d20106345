"""What a sampler draws depends on purpose and image alone: not on chunks, nor on who looks."""

from itertools import combinations

import pytest
import torch
from torch import nn

from common.sampling import EVAL_SEED, Sampler, SamplerSettings
from model import Diffusion
from scheduler import Schedule

SIDE, N = 8, 30


class Denoiser(nn.Module):
    """What a perfect network answers for pixels from N(0, 1): x_t is then N(0, 1) at every t."""

    def forward(self, x, t):
        noise = Diffusion(Schedule("cosine", 100)).levels().noise[t]
        return noise.view(-1, 1, 1, 1) * x


def drawn(purpose="picture", eta=1.0, chunk=500, n=N, scale=1.0):
    process = Diffusion(Schedule("cosine", 100), scale)
    sampler = Sampler(
        process, SamplerSettings(20, eta=eta, clip=False, chunk=chunk), (1, SIDE, SIDE)
    )
    return sampler, torch.cat(list(sampler.many(Denoiser(), n, purpose))).clone()


def correlation(x, y):
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_another_purpose_has_other_noise_at_the_start_and_in_every_step(eta):
    (_, a), (_, b) = drawn("sample 0", eta), drawn("sample 1", eta)
    assert abs(correlation(a, b)) < 4 / a.numel() ** 0.5  # four standard errors
    assert a.std().item() == pytest.approx(1, abs=0.15)  # in so few steps


def test_images_do_not_depend_on_the_chunks():
    whole = drawn(n=510)[1]  # more than one block
    torch.testing.assert_close(drawn(n=510, chunk=7)[1], whole, rtol=1e-5, atol=1e-5)
    assert abs(correlation(whole[:10], whole[500:])) < 4 / whole[:10].numel() ** 0.5


def test_the_noise_of_each_step_is_another_and_not_that_of_the_start():
    sampler, _ = drawn()
    fresh = sampler.step_noise(N, "a", 0)
    x = torch.zeros(N, 1, SIDE, SIDE)
    drawn_here = [sampler.noise(N, EVAL_SEED, "a", 0), fresh(x), fresh(x)]
    for one, other in combinations(drawn_here, 2):
        assert abs(correlation(one, other)) < 4 / x.numel() ** 0.5


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_film_ends_with_the_picture(scale):
    sampler, images = drawn(scale=scale)
    torch.testing.assert_close(sampler.film(Denoiser(), N)[-1], images)
