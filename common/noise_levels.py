"""Which noise levels training sees and how much each counts: min-SNR weights, adaptive times.

Without either, times are uniform and every squared error counts the same. Both change what is
minimised: an adaptive sampler has no importance weights, so that a level that is drawn twice as
often counts twice. That is what another noise schedule would do, and what is compared with one.
"""

import torch
from torch import Tensor

from model import Diffusion, log_snr

MIN_SNR = 5.0  # gamma of min-SNR weighting
BINS = 32  # of times, each with one running error
MEMORY = 0.99  # of a running error, per step
FEWEST = 10.0  # images of a bin before its error is known
UNIFORM = 0.1  # share of the draws that stays uniform, so that every error is followed
# p ~ information to this power: with 1, almost clean images would take a large share of the draws,
# and what is left to learn there are shades of grey
POWER = 0.5


class NoiseLevels:
    """The times that a learner draws for its batches, and the weights of their squared errors.

    Adaptive times follow the information that an observation at a level adds: by I-MMSE the rate
    dI/d(log SNR) is half the summed squared error of the predicted noise, which training computes
    anyway. A bin of times has the mean of its latest errors times its length in log SNR.
    """

    def __init__(self, process: Diffusion, weighting: str = "none", sampling: str = "uniform"):
        self.timesteps, self.adaptive = process.schedule.timesteps, sampling == "adaptive"
        with torch.no_grad():
            levels = process.levels()
            snr = (levels.signal / levels.noise) ** 2  # (T+1,)
            self.weights = torch.ones_like(snr)
            if weighting == "min_snr":  # min(SNR, 5)/SNR: the weight of the predicted noise
                self.weights = (MIN_SNR / snr).clamp(max=1)
            log_snrs = log_snr(process.schedule.log_alpha_bar()).clamp(-20, 20)
        count = min(BINS, self.timesteps)
        firsts = [1 + self.timesteps * k // count for k in range(count + 1)]  # the last one is T+1
        all_firsts = torch.tensor(firsts, device=self.weights.device)
        self.firsts, self.width = all_firsts[:-1], all_firsts.diff()
        inner = [(log_snrs[t - 1] + log_snrs[t]).item() / 2 for t in firsts[1:-1]]
        edges = [log_snrs[1].item(), *inner, log_snrs[-1].item()]
        self.length = -torch.tensor(edges).to(self.weights).diff()  # in log SNR, (bins,)
        self.sums = torch.zeros(2, count, device=self.weights.device)  # of errors and of images
        # whether every bin has had FEWEST images
        self.all_known = torch.zeros((), dtype=torch.bool, device=self.weights.device)

    @classmethod
    def from_flags(
        cls, process: Diffusion, /, *, loss_weighting, time_sampling, **_
    ) -> "NoiseLevels | None":
        """What the flags ask for; None where they ask for nothing."""
        if loss_weighting == "none" and time_sampling == "uniform":
            return None
        return cls(process, loss_weighting, time_sampling)

    def probabilities(self) -> Tensor:
        """The probability of each bin, (bins,): uniform in time until every error is known."""
        errors, images = self.sums
        uniform = self.width / self.timesteps
        information = errors / images.clamp(min=1e-9) * self.length
        share = information**POWER
        adaptive = UNIFORM * uniform + (1 - UNIFORM) * share / share.sum().clamp(min=1e-30)
        return torch.where(self.all_known, adaptive, uniform)

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """n times 1..T, (n,)."""
        device = self.weights.device
        if not self.adaptive:
            return torch.randint(1, self.timesteps + 1, (n,), generator=random, device=device)
        bins = torch.multinomial(self.probabilities(), n, replacement=True, generator=random)
        inside = torch.rand(n, generator=random, device=device) * self.width[bins]
        return self.firsts[bins] + inside.long().minimum(self.width[bins] - 1)

    def observe(self, t: Tensor, errors: Tensor) -> None:
        """Follow the squared errors (n,) of a batch at the times t (n,)."""
        # no index_add_, whose sums have no fixed order on a GPU
        members = (torch.searchsorted(self.firsts, t, right=True) - 1)[:, None]
        members = (members == torch.arange(len(self.width), device=t.device)).float()  # (n,bins)
        new = torch.stack([(members * errors.float()[:, None]).sum(0), members.sum(0)])
        self.sums = MEMORY * self.sums + new
        self.all_known = self.all_known | (self.sums[1].min() >= FEWEST)

    def state_dict(self) -> dict:
        return {"sums": self.sums, "all_known": self.all_known}

    def load_state_dict(self, state: dict) -> None:
        self.sums = state["sums"].to(self.sums.device)
        known = state.get("all_known", self.sums[1].min() >= FEWEST)  # older checkpoints lack it
        self.all_known = known.to(self.sums.device)
