"""What surrounds a training script: data, folder, resuming, the end of an epoch."""

import torch

from common import figures
from common.data import fingerprint, images_to_plan, load_images
from common.judging import evaluate
from common.machine import setup
from common.networks import make_network
from common.run import Run


def end_of_epoch(args, run: Run, at: dict, steps: int, sampler, ema, judge, schedule) -> None:
    """Scores, picture and row of the epoch that is done; `at` moves on to the next one."""
    scores = evaluate(sampler, ema, args.fid_samples, judge, run, "fid")
    samples = torch.cat(list(sampler.many(ema, args.n_samples, "picture", run)))
    # counted when all is drawn: an interrupt in between draws it all again
    run.evaluations["sampling"] += (args.fid_samples + args.n_samples) * sampler.steps
    epoch = at["epoch"] + 1
    figures.save_grid(run.folder / "samples" / f"epoch_{epoch:03d}.png", samples)
    at.update(epoch=epoch, batch=0, mean_loss=at["loss_sum"] / steps, loss_sum=0.0)
    run.epoch_row(epoch, at["step"], at["mean_loss"], scores, schedule.values())


def run_script(kind: str, args, train, print_plan) -> None:
    """What a training script does around its `train(args, run, images)`: data, folder, resuming."""
    device = setup(args)
    if args.dry_run:
        print_plan(args, images_to_plan(args.dataset))
        return
    images = load_images(args.dataset, args.data_dir, "train").to(device)
    if args.ckpt:
        make_network(args, device)  # a foreign checkpoint is refused before there is a run
    with Run.open(kind, args, device, data=fingerprint(images)) as run:
        if run.finished:
            run.log(f"{run.folder} is complete: nothing to resume")
            return
        run.log(f"{run.folder}: {len(images)} images of {args.dataset}, on {device}")
        train(args, run, images)
