"""What surrounds a training script: data, folder, progress, the end of an epoch."""

from collections.abc import Callable

import torch
from torch import nn

from common import estimate, figures
from common.data import Source, fingerprint
from common.graphs import without_graphs
from common.judging import Judge, evaluate
from common.machine import progress_bar, setup
from common.networks import make_network
from common.processes import one_writes
from common.run import Run
from common.sampling import Sampler
from scheduler import Schedule


class Progress:
    """Where a run stands: epochs that are done and judged, iterations, the losses of the epoch."""

    def __init__(self, epochs: int, per_epoch: int):
        self.epochs, self.per_epoch = epochs, per_epoch
        self.epoch = 0
        self.iteration = 0  # over all epochs
        self.loss_sum, self.mean_loss = 0.0, 0.0

    @property
    def batch(self) -> int:
        """Iterations of the current epoch that are done."""
        return self.iteration - self.epoch * self.per_epoch

    @property
    def total(self) -> int:
        return self.epochs * self.per_epoch

    def advance(self, loss: float) -> None:
        self.iteration += 1
        self.loss_sum += loss

    def end_epoch(self) -> None:
        self.epoch += 1
        self.mean_loss, self.loss_sum = self.loss_sum / self.per_epoch, 0.0

    def is_due(self, every: int) -> bool:
        """Whether a line of the log is: every so many iterations, and at the last."""
        return self.iteration % every == 0 or self.iteration == self.total

    def bar(self):
        """A bar over the current epoch, from where it stands."""
        return progress_bar(
            total=self.per_epoch, initial=self.batch, desc=f"epoch {self.epoch + 1}"
        )

    def state_dict(self) -> dict:
        names = ("epoch", "iteration", "loss_sum", "mean_loss")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def end_of_epoch(
    run: Run,
    progress: Progress,
    step: int,
    sampler: Sampler,
    net: nn.Module,
    judge: Judge | None,
    schedule: Schedule,
    fid_samples: int,
    n_samples: int,
) -> dict:
    """Scores, picture and row of the epoch that is done; `progress` moves on to the next one."""
    scores = evaluate(sampler, net, fid_samples, judge, "fid", run)
    samples = torch.cat(list(sampler.many(net, n_samples, "picture", run.poll)))
    # counted when all is drawn: an interrupt in between draws it all again
    run.evaluations["sampling"] += (fid_samples + n_samples) * sampler.steps
    progress.end_epoch()
    figures.save_grid(run.folder / "samples" / f"epoch_{progress.epoch:03d}.png", samples)
    if run.board:
        run.board.epoch(step, samples, schedule)
    run.epoch_row(progress.epoch, step, progress.mean_loss, scores, schedule.values())
    return scores


def run_script(kind: str, args, train: Callable, print_plan: Callable) -> None:
    """What a training script does around its `train(args, run, images)`: data, folder, resuming.

    `print_plan(args, images)` prints a plan and returns its images through the network by purpose.
    """
    device = setup(args.device, args.cpu, args.threads, args.tf32)
    source = Source.from_flags(**vars(args))
    if args.ckpt:  # a foreign checkpoint is refused before there is a run
        network = args.model_base_dim, args.timesteps, device
        make_network(*network, ckpt=args.ckpt, time_condition=args.time_condition)
    if args.dry_run:
        images = source.planned_images()
        cost = print_plan(args, images)
        size = args.model_base_dim, args.timesteps, args.batch_size
        print(estimate.text(cost, estimate.measure(images, *size, device, args.amp), device))
        return
    images = source.images("train").to(device)
    with (
        one_writes(vars(args)) as arguments,
        Run.open(kind, arguments, device, data=fingerprint(images)) as run,
    ):
        if run.finished:
            run.log(f"{run.folder} is complete: nothing to resume")
            return
        run.log(f"{run.folder}: {len(images)} images of {source.name}, on {device}")
        if line := without_graphs(args.compile, device):
            run.log(line)
        train(args, run, images)
