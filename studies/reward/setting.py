"""The rewards of a run, as its flags say or as the rule chooses them, and what images score."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import Stop
from common.extractors import Extractor, load_extractor
from common.judging import Judge
from studies.reward import choice
from studies.reward.drawing import Sampling
from studies.reward.estimator import Values
from studies.reward.guidance import Reward
from studies.reward.rewards import Checked, LogProbability, loaded, mean_and_error_of, values

CHOICE_SEED = 0  # the choice is the same for all seeds
# Extractors: of r2, of r1, and of the judge, whose features no reward uses.
FIRST, SECOND, JUDGE = "first", "second", "mnist"


class Rewards(NamedTuple):
    """r1, r2 and, where rule or flags chose them, the class of r1 and its pair with a direction."""

    upper: Reward
    lower: Reward
    pair: choice.Pair | None = None
    target_class: int | None = None


def extractors(device: torch.device) -> tuple[Extractor, Extractor]:
    """The classifiers of r2 and of r1, trained on disjoint halves of the training images."""
    return load_extractor(FIRST, device), load_extractor(SECOND, device)


def rewards_of(
    sampling: Sampling,
    lower: str | None,
    upper: str | None,
    target_class: int | None,
    direction: int | None,
    n_directions: int,
    samples: int,
    min_ess: float,
    lambda_max: float,
) -> Rewards:
    """Both rewards; what is not given as module:function comes from the classifiers."""
    given = [user_reward("--upper_reward", upper), user_reward("--lower_reward", lower)]
    if lower and upper:
        return Rewards(given[0], given[1])
    if not sampling.model.draws_digits:
        raise Stop(
            "class and direction are for digits of 28x28 pixels: other images need --lower_reward "
            "and --upper_reward", code=2
        )  # fmt: skip
    device = sampling.model.device
    first, second = extractors(device)
    if lower:  # nothing is left to choose
        r1 = Checked("r1", LogProbability(second, target_class))
        return Rewards(r1, given[1], target_class=target_class)
    if upper:  # no class is chosen then, nor does one matter
        target_class = 0
    images, _ = sampling.samples(samples, "choice", CHOICE_SEED)
    pair = choice.chosen(
        images, first, second, target_class, direction, n_directions, min_ess, lambda_max, device
    )
    from_pair = pair.rewards(first, second)
    r1, r2 = (Checked(n, r) for n, r in zip(("r1", "r2"), from_pair, strict=True))
    return Rewards(given[0], r2) if upper else Rewards(r1, r2, pair, pair.target_class)


def user_reward(flag: str, spec: str | None) -> Reward | None:
    """A user's reward, checked at every call."""
    if spec is None:
        return None
    try:
        return Checked(spec, loaded(spec))
    except ValueError as error:
        raise Stop(f"{flag} {error}", code=2) from None


def bank(sampling: Sampling, rewards: Rewards, n: int) -> tuple[Values, Values, float]:
    """r1 and r2 of n samples without guidance, (n,) each, and the seconds of drawing them."""
    images, seconds = sampling.samples(n, "bank")
    device = sampling.model.device
    r1, r2 = (values(reward, images, device).numpy() for reward in (rewards.upper, rewards.lower))
    return r1, r2, seconds


def scores(images: Tensor, rewards: Rewards, judge: Judge | None) -> dict:
    """Means of both rewards with their standard errors; of digits also what the judge says."""
    r1, r1_se = mean_and_error_of(values(rewards.upper, images, images.device))
    r2, r2_se = mean_and_error_of(values(rewards.lower, images, images.device))
    row = {"r1": r1, "r1_se": r1_se, "r2": r2, "r2_se": r2_se, "n": len(images)}
    if judge is None:
        return row
    if rewards.target_class is not None:
        with torch.no_grad():
            labels = torch.cat([judge.extractor(x)[1].argmax(1) for x in images.split(250)])
        row["accuracy"] = float((labels == rewards.target_class).cpu().double().mean())
    judged = judge.score(images.split(250), splits=1)
    row["frechet_distance"] = judged["fid"]  # of a classifier's features, so no FID
    return row | {name: judged[name] for name in ("kid", "extractor", "reference")}
