"""What the scripts share of a run: its data, its networks, its sampler and its FID."""

import argparse
import json
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import checkpoint
import figures
import metrics
from cli import Stop, by_number
from data import fingerprint, images_to_plan, load_images
from families import FAMILIES
from layers import compiled, frozen
from model import Diffusion
from run import Run, progress_bar, setup, stream
from scheduler import Schedule
from unet import UNet

EVAL_SEED = 0  # every run is judged on images from the same noise
CHUNK = 500  # images sampled at once when many are wanted


class Sampler:
    """The sampler's settings of one run: steps, spacing, clipping, precision."""

    def __init__(self, diffusion: Diffusion, args, shape, device):
        self.diffusion, self.device, self.shape = diffusion, device, tuple(shape)
        self.steps = args.timesteps if args.sampler == "ddpm" else args.backward_steps
        self.eta = 1.0 if args.sampler == "ddpm" else 0.0
        self.tau_type, self.clip, self.amp = args.tau_type, not args.no_clip, args.amp

    def noise(self, n: int, seed: int, *names) -> Tensor:
        """The starting noise of one purpose, (n, C, H, W)."""
        generator = stream(self.device, seed, *names)
        return torch.randn(n, *self.shape, generator=generator, device=self.device)

    def __call__(self, net: nn.Module, x: Tensor, seed: int = EVAL_SEED, **options) -> Tensor:
        """Images in [-1, 1] from starting noise x; `seed` is for DDPM's own noise."""
        generator = stream(self.device, seed, "ddpm") if self.eta else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp), frozen(net):
            return self.diffusion.sample(
                net, x, self.steps, self.tau_type, self.eta, self.clip, generator, **options
            )

    def many(
        self, net: nn.Module, n: int, purpose: str, run: Run | None = None
    ) -> Iterator[Tensor]:
        """n images in chunks, with a progress bar; a run may be interrupted in between."""

        def on_step(_):
            bar.update(1)
            if run:
                run.poll()

        chunks = math.ceil(n / CHUNK)
        with progress_bar(total=chunks * self.steps, desc=f"{n} images", unit="step") as bar:
            for i in range(chunks):
                x = self.noise(min(CHUNK, n - i * CHUNK), EVAL_SEED, purpose, i)
                with torch.inference_mode():  # not around the yield: it would leak to the caller
                    x = self(net, x, EVAL_SEED + i, on_step=on_step)
                yield x

    def film(self, net: nn.Module, n: int, frames: int = 24) -> list[Tensor]:
        """The way of n images from noise to data: evenly spaced steps, the end last."""
        seen = [self.noise(n, EVAL_SEED, "picture", 0)]
        with torch.inference_mode():
            self(net, seen[0], on_step=lambda x: seen.append(x.float()))
        return seen[:: -max(1, self.steps // frames)][::-1]


def fixed_schedules(args) -> tuple[Schedule, Schedule | None]:
    """The training schedule of the flags, and the sampling one if it is another."""
    values = {name: getattr(args, name) for name in FAMILIES[args.scheduler_type]}
    schedule = Schedule(args.scheduler_type, args.timesteps, **values)
    other = args.sampling_schedule
    return schedule, other and sampling_schedule(other, args.timesteps)


def make_network(args, device) -> UNet:
    """The U-Net of the flags, with the weights of --ckpt if it is given."""
    torch.manual_seed(args.seed)  # the same weights whatever was loaded before
    net = UNet(args.model_base_dim, timesteps=args.timesteps).to(device)
    if args.ckpt:
        given, state = load_network(args.ckpt, device)
        try:
            net.load_state_dict(given.state_dict())
        except RuntimeError:
            its = [f"--{n} {state['args'][n]}" for n in ("model_base_dim", "timesteps")]
            raise Stop(f"{args.ckpt}: was made with {' '.join(its)}", code=2) from None
    return compiled(net, args.compile)


def make_judge(args, device) -> tuple:
    """Extractor and reference statistics; made before any training, so that errors come early."""
    extractor = metrics.load_extractor(args.extractor, device, args.inception_weights)
    reference = metrics.reference_statistics(
        args.dataset, args.data_dir, "test", extractor, device, args.cache_dir
    )
    return extractor, reference


def process_of(state: dict, device) -> Diffusion:
    """The diffusion that a checkpoint was trained with, its schedule as it was then."""
    args, other = state["args"], state["args"].get("sampling_schedule")
    schedule = Schedule.from_dict(state["schedule"])
    other = other and sampling_schedule(other, schedule.timesteps)
    return Diffusion(schedule, args["input_scale"], not args["no_normalise"], other, device)


def sampling_schedule(other: str | dict, timesteps: int) -> Schedule:
    """What --sampling_schedule means: a family with its defaults, or a file's content."""
    return Schedule.from_dict(other) if isinstance(other, dict) else Schedule(other, timesteps)


def evaluate(
    sampler: Sampler, net: nn.Module, n: int, judge, run: Run | None, purpose: str
) -> dict:
    """FID and IS of n images, with n, extractor and reference; nothing is drawn for n = 0."""
    if not n:
        return {"fid": None, "is_mean": None, "is_std": None, "n": None}
    say = run.log if run else print
    if n >= 1000:
        say(f"{purpose}: {n} images, {n * sampler.steps:,} network evaluations")
    extractor, reference = judge
    try:
        # the Inception Score of a split of few images says nothing: at least 50 images in each
        splits = max(1, min(10, n // 50))
        images = sampler.many(net, n, purpose, run)
        return metrics.evaluate(images, extractor, reference, splits) | {"splits": splits}
    except ValueError as error:
        raise Stop(f"{purpose}: {error}") from None


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


def load_network(path: str, device) -> tuple[UNet, dict]:
    """The averaged network in a checkpoint, ready to sample, and the checkpoint."""
    state = checkpoint.load(path)
    try:
        args = state["args"]
        net = UNet(args["model_base_dim"], timesteps=args["timesteps"]).to(device)
        weights = state["ema"]
        net.load_state_dict(
            {k.removeprefix("module."): v for k, v in weights.items() if k != "n_averaged"}
        )
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise Stop(f"{path}: not a checkpoint of a run ({reason})") from None
    return net.eval().requires_grad_(False), state


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


def load_sampler(path, device, args=None) -> tuple[UNet, Sampler]:
    """The network in a checkpoint and its sampler, set as `args` or as its own run says."""
    net, state = load_network(path, device)
    args = args or argparse.Namespace(**state["args"])
    return net, Sampler(process_of(state, device), args, state["shape"], device)


def judge_checkpoint(path, args, device, run: Run | None = None, purpose="evaluation") -> dict:
    """FID and IS of the network in a checkpoint; another `purpose` starts from other noise."""
    net, sampler = load_sampler(path, device, args)
    return evaluate(sampler, net, args.eval_samples, make_judge(args, device), run, purpose)


def judge_again(args) -> None:
    """FID and IS of a run's newest checkpoint, appended to its summary.json if it has one."""
    folder = by_number(args.run)
    if not folder.is_dir():
        raise Stop(f"--run {args.run}: no such run, or several", code=2)
    path = checkpoint.newest(folder)
    if not path:
        raise Stop(f"--run {folder}: it has no checkpoint", code=2)
    given = {k: v for k, v in vars(args).items() if v is not None}
    own = checkpoint.load(path)["args"]
    args = argparse.Namespace(**{**own, "cpu": False, **given})
    scores = judge_checkpoint(path, args, setup(args))
    print(json.dumps(scores, indent=2))
    known = folder / "summary.json"
    if known.exists():  # a summary says that a run is complete: an unfinished one gets none
        summary = json.loads(known.read_text())
        summary.setdefault("judged_again", []).append({**scores, "checkpoint": path.name})
        checkpoint.write_atomically(known, (json.dumps(summary, indent=2) + "\n").encode())
