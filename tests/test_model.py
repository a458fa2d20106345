"""The diffusion against an exact denoiser, against diffusers, and against its own definition."""

import math
from itertools import pairwise

import pytest
import torch

from common.fast_unet import FastUNet
from model import Diffusion, fresh_noise, visited_times
from scheduler import Schedule

MEAN, STD = 0.3, 0.5
F64 = {"dtype": torch.float64}


def exact_denoiser(process, mean=MEAN, std=STD):
    """E[eps | x_t] for data N(mean, std^2): what a perfect network would answer."""
    levels = process.levels()

    def net(x, t):
        signal, noise, scale = (c[t] for c in levels)
        x = x / scale  # undo the variance normalisation
        return noise * (x - signal * mean) / ((signal * std) ** 2 + noise**2)

    return net


def ddim_law(process, steps, **options):
    """DDIM on Gaussian data is affine: two starting points tell the mean and the spread exactly."""
    ends = torch.tensor([-1.0, 1.0], **F64)
    low, high = process.sample(exact_denoiser(process), ends, steps, clip=False, **options)
    return (high + low).item() / 2, (high - low).item() / 2


@pytest.mark.parametrize("family", ["cosine", "sigmoid", "linear", "ddpm"])
@pytest.mark.parametrize("b", [1.0, 0.5])
def test_ddim_reaches_the_law_of_gaussian_data(family, b):
    process = Diffusion(Schedule(family, 1000), input_scale=b, **F64)
    error = {n: math.dist(ddim_law(process, n), (MEAN, STD)) for n in (10, 100, 1000)}
    assert error[1000] < 0.01
    assert error[1000] < error[100] < error[10]


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_steps_with_noise_reach_the_law_of_gaussian_data(eta):
    process, n = Diffusion(Schedule("cosine", 1000), **F64), 20_000
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, **F64, generator=generator)
    out = process.sample(
        exact_denoiser(process), x, 1000, eta=eta, clip=False, fresh=fresh_noise(generator)
    )
    assert out.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(n))
    assert out.std().item() == pytest.approx(STD, rel=4 / math.sqrt(2 * n))  # standard errors


@pytest.mark.parametrize("scale", [1.0, 1.1])
@pytest.mark.parametrize("b", [1.0, 0.5])
def test_a_scaled_prediction_is_that_of_every_step(scale, b):
    """Of data N(0, 1) a step with the exact noise is a factor: their product in closed form."""
    process, steps = Diffusion(Schedule("cosine", 40), input_scale=b, **F64), 8
    levels = process.levels()
    signal, noise, _ = (c[[0, *visited_times(40, steps)]] for c in levels)
    factor = 1 / b
    for i in range(steps, 0, -1):
        eps = scale * noise[i] / (signal[i] ** 2 + noise[i] ** 2)  # of x = 1
        factor *= signal[i - 1] * (1 - noise[i] * eps) / signal[i] + noise[i - 1] * eps
    options = {"clip": False, "eps_scale": scale}
    x = torch.tensor([1.0, -2.0], **F64)
    out = process.sample(exact_denoiser(process, 0.0, 1.0), x, steps, **options)
    torch.testing.assert_close(out, factor * x, rtol=1e-9, atol=1e-12)


def test_clipping_comes_after_the_scale():
    """At the first of two steps x_0 is 0.8 x, which only the scaled prediction takes beyond 1."""
    process = Diffusion(Schedule("cosine", 40, end=0.9), **F64)
    signal, noise, _ = (c[[0, 20, 40]] for c in process.levels())
    eps = {scale: (1 - 0.8 * signal[2]) / noise[2] / scale for scale in (1.0, 1.1)}

    def net(x, t):  # of x = 1
        return eps[1.0] * torch.ones_like(x) if t == 40 else torch.zeros_like(x)

    seen = []
    for scale in (1.0, 0.9):
        process.sample(net, torch.ones(1, **F64), 2, eps_scale=scale, on_step=seen.append)
    x0 = ((1 - scale * noise[2] * eps[1.0]) / signal[2]).clamp(-1, 1)
    kept = (1 - signal[2] * x0) / noise[2]
    torch.testing.assert_close(seen[2], (signal[1] * x0 + noise[1] * kept).view(1))
    assert x0 == 1 and seen[0] != seen[2]


def test_a_process_that_is_replaced_keeps_everything_else():
    train, sampling, fixed = (Schedule(family, 20) for family in ("cosine", "linear", "sigmoid"))
    process = Diffusion(train, 0.5, False, sampling, "meta", torch.float64, "visited", fixed)
    assert vars(process.replaced()) == vars(process)
    assert vars(process.replaced(told="nearest")) == vars(process) | {"told": "nearest"}
    alone = Diffusion(train).replaced(schedule=fixed)
    assert alone.schedule is alone.sampling_schedule is fixed


def test_quadratic_spacing_reaches_the_law_too():
    process = Diffusion(Schedule("linear", 1000), **F64)
    assert ddim_law(process, 300, tau_type="quadratic") == pytest.approx((MEAN, STD), abs=0.01)


def test_another_sampling_schedule_reaches_the_law():
    """The network is told the training time that has the noise it is shown."""
    schedule, other = Schedule("cosine", 1000), Schedule("linear", 400, end=0.999)
    process = Diffusion(schedule, sampling_schedule=other, **F64)
    assert ddim_law(process, 400) == pytest.approx((MEAN, STD), abs=0.01)
    assert process.visits(400).net_times[-1] > 950
    assert Diffusion(schedule, **F64).visits(4).net_times.tolist() == [250, 500, 750, 1000]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("eta", "steps"), [(0.0, 20), (0.5, 20), (1.0, 20), (1.0, 200)])
def test_each_step_agrees_with_diffusers(eta, steps, clip):
    diffusers = pytest.importorskip("diffusers")
    T = 200
    schedule = Schedule("cosine", T, end=0.95)
    process = Diffusion(schedule, **F64)
    options = {"trained_betas": schedule.betas().detach().numpy(), "clip_sample": clip}
    if steps == T:
        theirs = diffusers.DDPMScheduler(T, variance_type="fixed_small", **options)
    else:
        theirs = diffusers.DDIMScheduler(
            T, timestep_spacing="trailing", set_alpha_to_one=True, **options
        )
    # in float32 its own 1 - alpha_bar has lost 3 digits at small t: give it our float64 curve
    theirs.betas = schedule.betas().detach()
    theirs.alphas = 1 - theirs.betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    theirs.one = theirs.final_alpha_cumprod = torch.ones((), **F64)
    theirs.set_timesteps(steps)

    def net(x, t):  # any network does, if it answers both the same
        return torch.tanh(1.5 * x + 0.001 * t) * 0.9

    start = torch.randn(4, 1, 8, 8, **F64)
    ours = []
    process.sample(
        net, start, steps, eta=eta, clip=clip, on_step=ours.append,
        fresh=fresh_noise(torch.Generator().manual_seed(3)),
    )  # fmt: skip
    x, generator = start, torch.Generator().manual_seed(3)
    for time, our in zip(theirs.timesteps, ours, strict=True):
        options = {} if steps == T else {"eta": eta, "use_clipped_model_output": True}
        x = theirs.step(net(x, time + 1), time, x, generator=generator, **options).prev_sample
        torch.testing.assert_close(our, x, rtol=1e-7, atol=1e-7)
        x = our  # step for step: errors do not add up


def test_visited_times():
    assert visited_times(1000, 1000) == list(range(1, 1001))
    assert visited_times(1000, 4) == [250, 500, 750, 1000]
    for tau_type in ("linear", "quadratic"):
        for T in (1, 7, 50, 1000):
            for steps in range(1, T + 1, max(1, T // 13)):
                times = visited_times(T, steps, tau_type)
                assert len(times) == steps and times[-1] == T and times[0] >= 1
                assert all(a < b for a, b in pairwise(times))
    # DDIM's quadratic spacing spends its steps where there is little noise
    assert sum(visited_times(1000, 10, "quadratic")) < sum(visited_times(1000, 10))


def test_xt_has_the_variance_that_the_normalisation_assumes():
    process = Diffusion(Schedule("cosine", 100), input_scale=0.4, **F64)
    seen = {}

    def net(x, t):
        seen["x"] = x
        return torch.zeros_like(x)

    x0, eps = torch.randn(2, 50_000, 1, **F64).unbind(0)
    for t in (1, 30, 70, 100):
        process.loss(net, x0, torch.full((len(x0),), t), eps)
        assert seen["x"].var().item() == pytest.approx(1, rel=0.03)


def test_loss_of_the_exact_denoiser_is_what_theory_says():
    """The least possible loss at t is the variance of eps given x_t."""
    process = Diffusion(Schedule("cosine", 100), **F64)
    x0, eps = MEAN + STD * torch.randn(200_000, **F64), torch.randn(200_000, **F64)
    for t in (10, 50, 90):
        s, n, _ = (c[t].item() for c in process.levels())
        least = (s * STD) ** 2 / ((s * STD) ** 2 + n**2)
        loss = process.loss(exact_denoiser(process), x0, torch.full((len(x0),), t), eps)
        assert loss.item() == pytest.approx(least, rel=0.02)


def test_loss_reaches_every_parameter_of_a_learned_schedule():
    schedule = Schedule("cosine", 50, learned=True, start=0.1, end=0.9, tau=1.5)
    process = Diffusion(schedule, **F64)
    x0, eps = torch.randn(2, 64, 1, 4, 4, **F64).unbind(0)
    t = torch.randint(1, 51, (64,))

    def loss():
        return process.loss(lambda x, t: torch.tanh(x) * 0.8, x0, t, eps)

    loss().backward()
    for parameter in schedule.parameters():
        h, value = 1e-6, parameter.item()
        sides = []
        for side in (value + h, value - h):
            parameter.data.fill_(side)
            sides.append(loss().item())
        parameter.data.fill_(value)
        slope = (sides[0] - sides[1]) / (2 * h)
        assert parameter.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_clipping_keeps_an_early_end_from_exploding():
    """With alpha_bar(T) near 0 the first step divides by nearly nothing."""
    process = Diffusion(Schedule("cosine", 1000))
    wrong = lambda x, t: 0.95 * x  # noqa: E731, slightly off, as every network is
    x = torch.randn(16, 1, 8, 8)
    assert process.sample(wrong, x, 10, clip=True).abs().max() <= 1
    assert process.sample(wrong, x, 10, clip=False).abs().max() > 10


def test_unet_has_the_published_size():
    assert sum(p.numel() for p in FastUNet().parameters()) == 1_084_897


@pytest.mark.parametrize("size", [8, 28])
def test_unet_keeps_the_shape_and_uses_time(size):
    net = FastUNet(8, timesteps=10).eval()
    x = torch.randn(3, 1, size, size)
    one = net(x, torch.tensor([4]))
    assert one.shape == x.shape
    torch.testing.assert_close(one, net(x, torch.tensor([4, 4, 4])))
    assert not torch.allclose(one, net(x, torch.tensor([9])))
    with pytest.raises(IndexError):
        net(x, torch.tensor([11]))
