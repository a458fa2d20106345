"""The lower level: sampling guided towards a reward, direct or by repeated linearisation.

A guided sampler replaces the predicted noise eps by

    eps - sqrt(1 - alpha_bar_t)/lambda · gradient of r(x0_hat) in x_t

whose gradient passes through the network. It is a plug-in for the score of the tilted law
p_data exp(r/lambda): exact for a linear reward of Gaussian data, an approximation otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model import Diffusion

Reward = Callable[[Tensor], Tensor]  # images (B,C,H,W) in [-1, 1] -> (B,)
Draw = Callable[[Tensor, Reward | None, float], Tensor]  # noise, reward, lambda -> images

# Below it x0_hat = (x_t - noise eps)/signal has 200 times the network's error or more, while the
# step that it guides moves x_t by next to nothing.
MIN_SIGNAL = 0.005
BACKWARD = 2  # a backward pass counts as two forward ones


class Guided(nn.Module):
    """A network whose predicted noise is guided: it takes the network's place in a sampler."""

    def __init__(self, net: nn.Module, process: Diffusion, reward: Reward, lam: float):
        super().__init__()
        self.net, self.process, self.reward, self.lam = net, process, reward, lam
        self.sizes: list[Tensor] = []  # of each step, the norms of the gradients, (B,)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, noise, scale = (c[t] for c in self.process.levels())  # each (1,)
        if signal < MIN_SIGNAL:
            return self.net(x, t)
        with torch.enable_grad():
            xt = (x / scale).detach().requires_grad_()
            eps = self.net(scale * xt, t)
            gradient = slope(self.reward, (xt - noise * eps) / signal, xt)
        self.sizes.append(gradient.flatten(1).norm(dim=1))
        return eps.detach() - noise * self.strength(signal, noise) * gradient

    def strength(self, signal: Tensor, noise: Tensor) -> Tensor | float:
        """What the reward's gradient is multiplied by: the same at every level."""
        return 1 / self.lam

    def mean_size(self) -> float:
        """The mean over steps and images of the gradient's norm."""
        return float(torch.stack(self.sizes).cpu().double().mean()) if self.sizes else 0.0


def slope(reward: Reward, x: Tensor, wrt: Tensor) -> Tensor:
    """The gradient of each image's reward in `wrt`; images do not mix, so their sum serves."""
    (gradient,) = torch.autograd.grad(reward(x).sum(), wrt)
    return gradient.detach()


class Linear:
    """A reward's tangent at images x: <g, x'> + b, with an intercept of each image's own."""

    def __init__(self, reward: Reward, x: Tensor):
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            value = reward(x)
            (self.g,) = torch.autograd.grad(value.sum(), x)
        self.b = (value - (self.g * x).flatten(1).sum(1)).detach()  # (B,)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.g * x).flatten(1).sum(1) + self.b


@dataclass(frozen=True)
class Towards:
    """-beta/2 (r - target)²: the published loss, which pushes a reward back above its target."""

    reward: Reward
    target: float
    beta: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return -self.beta / 2 * (self.reward(x) - self.target).square()


@dataclass(frozen=True)
class LowerLevel:
    """How the lower level is solved; `target` None tilts by exp(r/lambda) itself."""

    mode: str = "direct"  # or "linearised"
    passes: int = 7
    target: float | None = None
    beta: float = 1.0

    def aimed(self, reward: Reward) -> Reward:
        return reward if self.target is None else Towards(reward, self.target, self.beta)

    def __call__(self, draw: Draw, noise: Tensor, reward: Reward, lam: float) -> Tensor:
        """Guided images from starting noise; every pass of the linearised mode starts there."""
        if self.mode == "direct":
            return draw(noise, self.aimed(reward), lam)
        images = draw(noise, None, lam)
        for _ in range(self.passes):
            images = draw(noise, self.aimed(Linear(reward, images)), lam)
        return images

    def evaluations(self, steps: int) -> int:
        """Forward passes an image, a backward pass counted as two."""
        guided = (1 + BACKWARD) * steps
        return guided if self.mode == "direct" else steps + self.passes * guided
