"""The fast paths compute what the plain ones in benchmarks/plain.py do."""

import copy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from harness import TwoLayers
from torch.func import jvp, vmap

from benchmarks import bench, phases, speed_tables
from benchmarks.rows import Rows
from benchmarks.sides import Sides, Sizes
from common import training
from common.fast_layers import channels_last, frozen
from common.fast_unet import Bottleneck, Downsample, FastUNet
from common.networks import compiled
from model import Diffusion
from scheduler import Schedule
from unet import UNet

F64 = {"dtype": torch.float64}


def pair(base=8, dtype=torch.float64, steps=2, **options):
    """A plain and a fast network of the same weights, their batch norm used to some data."""
    ours = FastUNet(base, timesteps=20, **options).to(dtype)
    for parameter in ours.parameters():  # no weight is 0 or 1, where an error could hide
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs = UNet(base, timesteps=20, **options).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(steps):
        x, t = batch(dtype=dtype, channels=options.get("channels", 1))
        ours(x, t), theirs(x, t)
    return ours, theirs


def batch(n=16, size=8, channels=1, dtype=torch.float64):
    return torch.randn(n, channels, size, size, dtype=dtype), torch.randint(1, 21, (n,))


@pytest.mark.parametrize(
    ("base", "options"),
    [(4, {}), (8, {"channels": 3}), (12, {"multipliers": (2,)})],
    ids=["smallest", "colour", "one level"],
)
def test_the_network_trains_as_the_plain_one(base, options):
    """Output, every gradient and every running statistic, after two steps, to rounding."""
    ours, theirs = pair(base, **options)
    x, t = batch(channels=options.get("channels", 1))
    seen = []
    for net in (ours, theirs):
        leaf = x.clone().requires_grad_()
        out = net(leaf, t)
        out.square().sum().backward()
        seen.append([out, leaf.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_float32_agrees_to_1e5():
    ours, theirs = pair(16, torch.float32)
    x, t = batch(64, dtype=torch.float32)
    losses = [net(x, t).square().mean() for net in (ours, theirs)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, t), theirs(x, t), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_freezing_changes_neither_the_output_nor_the_network():
    ours, theirs = pair()
    ours.eval(), theirs.eval()
    before = copy.deepcopy(ours.state_dict())
    x, _ = batch()
    for t in (torch.tensor([3]), torch.tensor([20])):
        with frozen(ours):
            folded = ours(x, t)
        torch.testing.assert_close(folded, theirs(x, t), rtol=1e-9, atol=1e-12)
        assert torch.equal(ours(x, t), folded)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_freezing_ends_with_the_block_also_when_it_raises():
    """What is folded is of the weights at that time: no later pass may see it."""
    ours, theirs = pair()
    ours.eval(), theirs.eval()
    x, t = batch()
    with pytest.raises(ZeroDivisionError), frozen(ours):
        raise ZeroDivisionError
    for net in (ours, theirs):
        net.first[0].weight.data.mul_(1.5)
    torch.testing.assert_close(ours(x, t), theirs(x, t))


def test_what_trains_or_has_no_batch_norm_to_fold_is_left_alone():
    ours, theirs = pair()
    x, t = batch()
    with frozen(ours):
        torch.testing.assert_close(ours(x, t), theirs(x, t))
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    small = TwoLayers(timesteps=20).double().eval()
    with frozen(small):
        inside = small(x, t)
    assert torch.equal(inside, small(x, t))


@torch.no_grad()
def test_forward_mode_through_a_frozen_network():
    ours, theirs = pair()
    ours.eval(), theirs.eval()
    x, t = batch(4)
    directions = torch.randn(3, *x.shape, **F64)
    with frozen(ours):
        out, slopes = vmap(lambda z: jvp(lambda x: ours(x, t), (x,), (z,)))(directions)
    for direction, value, slope in zip(directions, out, slopes, strict=True):
        expected = jvp(lambda x: theirs(x, t), (x,), (direction,))
        torch.testing.assert_close((value, slope), expected)


@pytest.mark.parametrize("kind", [FastUNet, TwoLayers])
def test_sampling_frozen_agrees_with_sampling_plainly(kind):
    """A whole chain in float32, images in [-1, 1]; also of a network that cannot be folded."""
    net = kind(8, timesteps=20)
    net(*batch(dtype=torch.float32)), net.eval()
    process, x = Diffusion(Schedule("cosine", 20)), torch.randn(6, 1, 8, 8)
    other = net
    if isinstance(net, FastUNet):
        other = UNet(8, timesteps=20).eval()
        other.load_state_dict(net.state_dict())
    with torch.inference_mode():
        expected = process.sample(other, x, 10)
        with frozen(net):
            torch.testing.assert_close(process.sample(net, x, 10), expected, rtol=0, atol=3e-5)


@torch.no_grad()
def test_bfloat16_changes_the_loss_by_less_than_a_percent():
    ours, _ = pair(16, torch.float32)
    process, (x0, t) = Diffusion(Schedule("cosine", 20)), batch(64, dtype=torch.float32)
    eps, losses = torch.randn_like(x0), []
    for amp in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            losses.append(process.loss(ours, x0, t, eps).item())
    assert losses[1] != losses[0] and losses[1] == pytest.approx(losses[0], rel=0.01)


def passed(unit, x, amp=False):
    """What a copy of a unit computes in training: output, every gradient, statistics."""
    unit, leaf = copy.deepcopy(unit), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        out = torch.cat(unit(leaf) if isinstance(unit, Downsample) else unit(leaf, leaf), 1)
    (out * torch.linspace(-1, 1, out.shape[1])[:, None, None]).sum().backward()
    found = {"out": out, "x": leaf.grad, **{n: p.grad for n, p in unit.named_parameters()}}
    return found | {n: buffer.float() for n, buffer in unit.named_buffers()}


@pytest.mark.parametrize("kind, sizes", [(Bottleneck, (32, 32)), (Downsample, (16, 32))])
def test_a_unit_is_that_of_float64_to_its_precisions_rounding(kind, sizes):
    """In bfloat16 only what is no small difference of large sums, as gradients of scales are."""
    unit = kind(*sizes)  # made here, where the random state is fixed, not when tests are collected
    x = channels_last(torch.randn(64, 16, 8, 8))
    exact = passed(copy.deepcopy(unit).double(), x.double())
    for name, value in passed(unit, x).items():
        assert (value - exact[name]).norm() <= 5e-4 * exact[name].norm(), name
    rough = passed(unit, x, amp=True)
    assert rough["out"].dtype == torch.bfloat16
    for name in ("out", "x", "left.0.0.weight", "right.0.0.weight", "left.1.1.running_var"):
        assert (rough[name] - exact[name]).norm() <= 0.04 * exact[name].norm(), name


@torch.inference_mode()
def test_freezing_in_bfloat16_computes_the_same_bits():
    ours, _ = pair(8, torch.float32)
    ours.eval()
    x, _ = batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = ours(x, torch.tensor([3]))
        with frozen(ours):
            assert ours.first.folded[0].dtype == torch.bfloat16
            assert torch.equal(ours(x, torch.tensor([3])), expected)


def test_folding_is_faithful_where_a_channel_is_dead_or_large():
    ours, theirs = pair()
    for net in (ours, theirs):
        net.encoders[0].bottlenecks[0].left[0][1].running_var[0] = 0
        net.encoders[0].bottlenecks[1].right[1][1].running_mean[1] = 1e4
        net.eval()
    x, t = batch()
    with frozen(ours):
        torch.testing.assert_close(ours(x, t), theirs(x, t), rtol=1e-7, atol=1e-9)


def test_a_compiled_network_is_one_graph_and_the_same():
    """Training, sampling and frozen sampling are traced whole, without a break; copies are not."""
    ours, _ = pair(4, torch.float32, multipliers=(2,))
    same, (x, t) = copy.deepcopy(ours), batch(dtype=torch.float32)
    compiled(ours, "fused", mode=None, backend="eager", fullgraph=True)
    assert ours._compiled_call_impl and not copy.deepcopy(ours)._compiled_call_impl
    for net in (ours, same):
        net(x, t).square().sum().backward()
    for one, other in zip(ours.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
    for one, other in zip(ours.buffers(), same.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    ours.eval(), same.eval()
    with torch.inference_mode():
        expected = same(x, t[:1])
        torch.testing.assert_close(ours(x, t[:1]), expected)
        with frozen(ours):
            torch.testing.assert_close(ours(x, t[:1]), expected)


def test_the_benchmark_adds_up_its_phases_and_makes_its_table():
    sides = Sides(Sizes(base=4, batch_size=2, steps=2, images=2, extractor="mnist"))
    rows = Rows(sides.device, repeats=1)
    phases.bilevel_iteration(rows, sides, quick=True)
    *parts, total, forward = rows.rows
    for side in ("ours", "plain"):
        median = sum(row[side]["median"] for row in parts)
        assert total[side]["median"] == pytest.approx(median) and median > 0
    assert total["ratio"] == total["ours"]["median"] / total["plain"]["median"]
    assert "forward mode" in forward["what"] and "plain" not in forward
    record = {
        "command": "x",
        "machine": "y",
        "rows": [*rows.rows, {"what": "peak memory, z", "GiB": 1}],
    }
    text = speed_tables.of_times(record, ("ours", "plain"))
    assert text.endswith("Peak memory: z 1.00 GiB.") and text.count("\n|") == len(rows.rows) + 2


@pytest.mark.parametrize(
    "flags, name",
    [
        ([], "bench"),
        (["--amp"], "bench_bfloat16"),
        (["--compile"], "compiled"),
        (["--device", "cuda"], "bench_cuda"),
        (["--device", "cuda:1", "--amp"], "bench_bfloat16_cuda"),
    ],
)
def test_each_device_has_its_own_file_of_results(flags, name):
    assert bench.result_name(bench.make_parser().parse_args(flags)) == name


def test_adamw_is_torchs_to_the_bit():
    nets, seen = [torch.nn.Linear(5, 3) for _ in range(2)], []
    nets[1].load_state_dict(nets[0].state_dict())
    for net, kind in zip(nets, (training.AdamW, torch.optim.AdamW), strict=True):
        optimizer = kind(net.parameters(), lr=0.01, fused=True)
        cycle, random = training.one_cycle(optimizer, 0.01, 6), torch.manual_seed(2)
        for _ in range(6):
            net(torch.randn(4, 5, generator=random)).square().sum().backward()
            optimizer.step(), cycle.step(), optimizer.zero_grad()
        seen.append([*net.parameters(), *optimizer.state[net.weight].values()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_run_never_imports_torchs_compiler(tmp_path):
    """It takes as long to import as torch itself; training, sampling and pictures need none."""
    words = "--cpu --dataset digits --model_base_dim 4 --timesteps 4 --backward_steps 2 --epochs 1"
    words += " --limit_batches 2 --n_samples 3 --fid_samples 0 --eval_samples 0 --runs_dir"
    code = "import runpy, sys\ntry: runpy.run_path('train_mnist.py', run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code\n"
    code += "assert 'torch.optim' in sys.modules and 'torch._dynamo' not in sys.modules"
    command = [sys.executable, "-c", code, *words.split(), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
