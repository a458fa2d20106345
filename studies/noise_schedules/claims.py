"""The claims of the paper as questions to the rows, and the rule of their verdicts.

The rule is written in docs/noise_schedules.md; it was there before the first row.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

from common.tables import counted
from studies.noise_schedules.plan import (
    BASE,
    CROSSED,
    DATASETS,
    FUNCTIONS,
    MATCHED,
    NOT_NORMALISED,
    SCALES,
    SEEDS,
    SIZES,
    SMALL_B,
)

JUDGES = ("first", "second", "pixels")
AS_GOOD = 1.05  # an FID that is at most so many times another one is as good
ALIKE = 1.1  # two FIDs whose ratio is at most this are alike
STANDS, IN_PART, DOES_NOT, UNDECIDED = "stands", "in part", "does not", "undecided"
PAIRS = (*pairwise(SIZES), (SIZES[0], SIZES[-1]))
Sizes = tuple[int, ...]  # of a place: one, or two that are compared


class Group:
    """The rows of one data set, size and seed."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict] = {}  # by recipe and sampling schedule

    def fid(self, recipe: str, judge: str, by: str = "own") -> float:
        return float(self.rows[recipe, by][f"fid_{judge}"])

    def lowest(self, recipes: Iterable[str], judge: str) -> str:
        """The recipe of the lowest FID."""
        return min(recipes, key=lambda recipe: self.fid(recipe, judge))

    def has(self, needs: Iterable[tuple[str, str]]) -> bool:
        return all(need in self.rows for need in needs)

    def sees(self, judge: str, needs: Iterable[tuple[str, str]]) -> bool:
        """Whether a judge has scored all that is needed."""
        return all(self.rows[need].get(f"fid_{judge}") for need in needs)


Groups = dict[tuple[str, int, int], Group]  # by data set, size and seed


def groups_of(rows: Iterable[dict]) -> Groups:
    groups: Groups = {}
    for row in rows:
        group = groups.setdefault((row["dataset"], int(row["size"]), int(row["seed"])), Group())
        group.rows[row["recipe"], row["sampled_by"]] = row
    return groups


class Claim(NamedTuple):
    """One claim: the rows it needs at a place, and its checks for one seed and judge."""

    text: str
    needs: tuple[tuple[str, str], ...]
    checks: Callable[[list[Group], str], list[bool]]
    across_sizes: bool = False  # the groups are those of a smaller and a larger size


def by_own_schedule(*recipes: str) -> tuple[tuple[str, str], ...]:
    return tuple((recipe, "own") for recipe in recipes)


def noisier_by(column: str, recipes: tuple[str, ...]) -> Callable[[list[Group], str], list[bool]]:
    """Whether a column of the best recipe falls with size: strictly from the first to the last."""

    def checks(groups: list[Group], judge: str) -> list[bool]:
        rows = [group.rows[group.lowest(recipes, judge), "own"] for group in groups]
        small, large = (float(row[column]) for row in rows)
        ends = tuple(int(row["size"]) for row in rows) == (SIZES[0], SIZES[-1])
        return [large < small if ends else large <= small]

    return checks


def alike(groups: list[Group], judge: str) -> list[bool]:
    (group,) = groups
    ratios = [group.fid(b, judge) / group.fid(other, judge) for b, other in MATCHED.items()]
    return [1 / ALIKE <= ratio <= ALIKE for ratio in ratios]


def b_reaches_functions(groups: list[Group], judge: str) -> list[bool]:
    (group,) = groups
    by_b, by_function = (
        group.fid(group.lowest(recipes, judge), judge) for recipes in (SCALES, FUNCTIONS)
    )
    return [by_b <= AS_GOOD * by_function]


def cosine_is_as_good(groups: list[Group], judge: str) -> list[bool]:
    (group,) = groups
    return [
        group.fid(recipe, judge, "cosine") <= AS_GOOD * group.fid(recipe, judge)
        for recipe in CROSSED
    ]


def normalisation_helps(groups: list[Group], judge: str) -> list[bool]:
    (group,) = groups
    return [
        group.fid(f"{b}, {NOT_NORMALISED}", judge) > AS_GOOD * group.fid(b, judge) for b in SMALL_B
    ]


CLAIMS = {
    "1": Claim(
        "the optimum moves to noisier schedules as images grow: by b",
        by_own_schedule(*SCALES), noisier_by("input_scale", SCALES), across_sizes=True,
    ),
    "2": Claim(
        "the same by functions",
        by_own_schedule(*FUNCTIONS), noisier_by("log_snr_middle", FUNCTIONS), across_sizes=True,
    ),
    "4": Claim(
        "scaling the input by b does what a noisier function does",
        by_own_schedule(*MATCHED, *MATCHED.values()), alike,
    ),
    "5": Claim(
        "at a fixed function, b alone reaches the best of strategy 1",
        by_own_schedule(*dict.fromkeys((*SCALES, *FUNCTIONS))), b_reaches_functions,
    ),
    "6": Claim(
        f"{BASE} is a good sampling schedule, whatever was trained with",
        tuple((recipe, by) for recipe in CROSSED for by in ("own", "cosine")), cosine_is_as_good,
    ),
    "7": Claim(
        "normalisation matters for small b",
        by_own_schedule(*SMALL_B, *(f"{b}, {NOT_NORMALISED}" for b in SMALL_B)),
        normalisation_helps,
    ),
}  # fmt: skip


class Verdict(NamedTuple):
    """What the rows say of a claim at one place."""

    seeds: int  # with all rows that it needs
    judges: tuple[str, ...]
    held: int
    checks: int

    @property
    def name(self) -> str:
        if self.seeds < SEEDS or not self.checks:
            return UNDECIDED
        if self.held == self.checks:
            return STANDS
        return DOES_NOT if 2 * self.held < self.checks else IN_PART

    @property
    def text(self) -> str:
        seeds = counted(self.seeds, "seed")
        return f"{self.name}: {self.held} of {self.checks}, {seeds}" if self.seeds else self.name


def verdict_at(claim: Claim, groups: Groups, dataset: str, sizes: Sizes) -> Verdict:
    """The verdict at a place: a size, or two that are compared."""
    of_seeds: dict[int, list[Group]] = {}
    for seed in sorted({seed for _, _, seed in groups}):
        of_sizes = [groups.get((dataset, size, seed), Group()) for size in sizes]
        if all(group.has(claim.needs) for group in of_sizes):
            of_seeds[seed] = of_sizes
    judges, answers = [], []
    for judge in JUDGES if of_seeds else ():
        all_groups = [group for of_seed in of_seeds.values() for group in of_seed]
        if all(group.sees(judge, claim.needs) for group in all_groups):
            judges.append(judge)
            answers += [ok for group in of_seeds.values() for ok in claim.checks(group, judge)]
    return Verdict(len(of_seeds), tuple(judges), sum(answers), len(answers))


def places_of(claim: Claim) -> tuple[Sizes, ...]:
    return PAIRS if claim.across_sizes else tuple((size,) for size in SIZES)


def verdicts(claim: Claim, groups: Groups) -> dict[tuple[str, Sizes], Verdict]:
    """By data set and sizes."""
    return {
        (dataset, sizes): verdict_at(claim, groups, dataset, sizes)
        for dataset in DATASETS
        for sizes in places_of(claim)
    }


def as_a_whole(names: Iterable[str]) -> str:
    """A claim's verdict from those of its places."""
    names = set(names)
    if UNDECIDED in names:
        return UNDECIDED
    return names.pop() if len(names) == 1 else IN_PART
