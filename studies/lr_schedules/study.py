"""The study's two phases for each seed: train all runs together, then judge each of them."""

from dataclasses import asdict, dataclass

from torch import Tensor

from common.errors import at, check_finite
from common.machine import progress_bar
from common.run import Run
from model import Diffusion
from scheduler import Schedule
from studies.lr_schedules.judging import evaluate_run
from studies.lr_schedules.points import PointSet
from studies.lr_schedules.recipes import Recipe
from studies.lr_schedules.together import TIMESTEPS, Together, batch, first_net


@dataclass(frozen=True)
class Settings:
    """What a study trains, and for how long."""

    recipes: list[Recipe]
    seeds: range
    steps: int
    batch_size: int
    lr: float
    epoch_steps: int  # of a pass over the points, after which plateau looks at its mean loss
    log_every: int
    keep_points: bool  # whether some of the first seed's generated points are kept for the figures


@dataclass
class Progress:
    """Where a study stands: its seed, the steps trained and the runs judged of that seed."""

    seed: int
    step: int = 0
    judged: int = 0


def run_study(settings: Settings, run: Run, data: dict[str, PointSet]) -> None:
    """Train and judge the runs of every seed, from wherever the run's folder stands."""
    device = next(iter(data.values())).train.device
    process = Diffusion(Schedule("ddpm_unscaled", TIMESTEPS), device=device)
    progress = Progress(settings.seeds.start)
    saved = run.restore()
    if saved:
        progress = Progress(**saved["progress"])
    for seed in range(progress.seed, settings.seeds.stop):
        groups = make_groups(settings, list(data), seed, device)
        if saved:
            for name, group in groups.items():
                group.load_state_dict(saved["groups"][name])
                group.scale_lr(run.record.rescaled.get("lr", 1.0))
            saved = None
        run.state = lambda groups=groups: state_of(settings, progress, groups)
        train(settings, run, progress, groups, process, {n: x.train for n, x in data.items()})
        judge(settings, run, progress, groups, process, data)
        progress.seed, progress.step, progress.judged = seed + 1, 0, 0
    seeds = len(settings.seeds)
    # what was sampled has been counted already, as it was drawn
    run.finish({"seeds": seeds, "steps": seeds * settings.steps}, drawn=0)


def state_of(settings: Settings, progress: Progress, groups: dict[str, Together]) -> dict:
    """What a checkpoint holds; its step counts over all seeds, since it names the file."""
    seeds_done = progress.seed - settings.seeds.start
    return {
        "step": seeds_done * settings.steps + progress.step,
        "progress": asdict(progress),
        "groups": {name: group.state_dict() for name, group in groups.items()},
    }


def make_groups(settings: Settings, names: list[str], seed: int, device) -> dict[str, Together]:
    """The runs of a seed, those of a data set together."""
    net = first_net(seed).to(device)
    recipes, steps, epoch_steps = settings.recipes, settings.steps, settings.epoch_steps
    return {name: Together(recipes, settings.lr, steps, epoch_steps, net) for name in names}


def train(
    settings: Settings,
    run: Run,
    progress: Progress,
    groups: dict[str, Together],
    process: Diffusion,
    points: dict[str, Tensor],
) -> None:
    """Step all runs of a seed up to the last step; a row of losses every `log_every` steps."""
    seed = progress.seed
    labels = [f"{name}/{recipe.label}" for name in groups for recipe in settings.recipes]
    title = f"seed {seed}: {len(labels)} runs"
    with progress_bar(total=settings.steps, initial=progress.step, desc=title) as bar:
        for step in range(progress.step, settings.steps):
            x0s, t, eps = batch(points, settings.batch_size, seed, step)
            losses = []
            for name, group in groups.items():
                loss, norms = group.step(process, x0s[name], t, eps)
                losses += checked(loss, norms, f"{name}, seed {seed}, step {step + 1}")
            progress.step = step + 1
            run.evaluations["training"] += settings.batch_size * len(labels)
            if progress.step % settings.log_every == 0 or progress.step == settings.steps:
                columns = dict(zip(labels, losses, strict=True))
                run.row("losses.csv", seed=seed, step=progress.step, **columns)
                mean = sum(losses) / len(losses)
                line = f"seed {seed}, step {progress.step} of {settings.steps}: "
                run.log(f"{line}mean loss {mean:.4f}", bar.disable)
            bar.update()
            run.poll()


def checked(losses: Tensor, norms: Tensor, place: str) -> list[float]:
    """The losses as numbers; one that is not finite, or such a gradient, ends the run."""
    values = losses.tolist()
    for value, norm in zip(values, norms.tolist(), strict=True):
        with at(place):
            check_finite(value, "the loss")
            check_finite(norm, "the gradient's norm")
    return values


def judge(
    settings: Settings,
    run: Run,
    progress: Progress,
    groups: dict[str, Together],
    process: Diffusion,
    data: dict[str, PointSet],
) -> None:
    """Evaluation loss, points, times and divergences of each run of a seed, a row a run."""
    keep_points = settings.keep_points and progress.seed == settings.seeds.start
    runs = [(name, i) for name in groups for i in range(len(settings.recipes))]
    with progress_bar(total=len(runs), initial=progress.judged, desc="evaluation") as bar:
        for name, i in runs[progress.judged :]:
            label = settings.recipes[i].label
            key = {"seed": progress.seed, "set": name, "lr_schedule": label}
            evaluate_run(run, key, groups[name], i, process, data[name], keep_points)
            progress.judged += 1
            bar.update()
            run.poll()
