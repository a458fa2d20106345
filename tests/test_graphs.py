"""Recorded steps and chains give the same bits as ordinary ones, on a tape instead of a CUDA graph.

No GPU is needed; what a tape cannot show is in graphs.record_cuda alone.
"""

import contextlib
import json
from copy import deepcopy
from types import SimpleNamespace

import pytest
import tape
import torch
from harness import Script
from toys import small_upper

from common import graphs
from common.data import Batches
from common.errors import NotFinite
from common.graphs import Static, restored, run_eagerly
from common.objective import UpperSettings
from common.sampling import Sampler, SamplerSettings
from common.training import Average, Learner, LRSchedule, make_optimizer
from common.upper_level import UpperLevel
from common.weights import flat, set_weights
from model import Diffusion
from scheduler import Schedule
from unet import UNet

T, STEPS = 20, 6


@pytest.fixture(params=[run_eagerly, tape.record], ids=["eagerly", "recorded"])
def recording(request, monkeypatch):
    """Static functions on the CPU: called, or recorded and replayed."""
    monkeypatch.setattr(graphs, "recorder", lambda _: request.param)


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(graphs, "recorder", lambda _: tape.record)


def learner(graphs=False, amp=False):
    torch.manual_seed(0)
    net = UNet(4, timesteps=T)  # the network of a GPU: no other is recorded
    images = torch.randint(0, 255, (40, 1, 8, 8), dtype=torch.uint8)
    optimizer = make_optimizer(net.parameters(), 0.01)
    rate = LRSchedule("onecycle", optimizer, STEPS)
    return Learner(net, optimizer, Batches(images, 8, 0), 0, "step", rate, amp, graphs)


def processes():
    """A schedule that moves, as in the bilevel script: levels are other numbers at every step."""
    for i in range(STEPS):
        schedule = Schedule("cosine", T, end=0.9 + 0.01 * i)
        yield Diffusion(schedule)


def everything(one: Learner) -> list[torch.Tensor]:
    """Weights, statistics, gradients, and what the optimizer keeps."""
    state = [x for s in one.optimizer.state.values() for x in s.values()]
    return [*one.net.state_dict().values(), *(p.grad for p in one.net.parameters()), *state]


def assert_same_bits(one, other):
    assert len(one) == len(other) and all(
        torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("amp", [False, True])
def test_a_static_step_takes_the_ordinary_step(recording, amp):
    """OneCycle moves the rate and a beta; every other step has a pull, every step its levels."""
    ordinary, static = learner(amp=amp), learner(True, amp)
    first = next(processes())
    pull = 0.01 * torch.randn_like(flat(ordinary.net))
    for i, process in enumerate(processes()):
        options = process.levels(), (i + 1) * pull if i % 2 else None
        losses = [each.step(first, *options) for each in (ordinary, static)]
        assert losses[0] == losses[1] and ordinary.lr == static.lr
        assert_same_bits(everything(ordinary), everything(static))
    assert len(static.static.recorded) == 2 and ordinary.static is None


def test_a_static_learner_goes_on_from_a_loaded_state(recorded):
    """Weights are loaded in place; the optimizer's tensors are replaced, and none is recorded."""
    ordinary, static = learner(), learner(graphs=True)
    process = next(processes())
    static.step(process)
    for _ in range(2):
        ordinary.step(process)
    static.load_state_dict(deepcopy(ordinary.state_dict()))
    ordinary.net.zero_grad(), static.net.zero_grad()
    for _ in range(2):
        assert ordinary.step(process) == static.step(process)
    assert_same_bits(everything(ordinary), everything(static))


def test_averages_follow_a_static_learner(recorded):
    nets = []
    for each in (learner(), learner(graphs=True)):
        average, process = Average(each.net, 0.9, 1, 0), next(processes())
        for _ in range(3):
            each.step(process)
            average.after_step(each.net, each.count)
        nets.append(list(average.state_dict().values()))
    assert_same_bits(*nets)


@pytest.mark.parametrize("what", ["image", "pull"])
def test_nothing_is_stepped_on_that_is_not_finite(recording, what):
    one, process = learner(graphs=True), next(processes())
    one.step(process)
    before = deepcopy([list(one.net.parameters()), one.optimizer.state_dict()["state"]])
    extra = None
    if what == "image":
        one.batches = NanBatches()
    else:
        extra = torch.full_like(flat(one.net), torch.inf)
    with pytest.raises(NotFinite):
        one.step(process, extra=extra)
    assert_same_bits(before[0], list(one.net.parameters()))
    for name, state in one.optimizer.state_dict()["state"].items():
        assert_same_bits(list(before[1][name].values()), list(state.values()))
    assert one.optimizer.found_inf is None  # an ordinary step that follows is not held back


class NanBatches:
    """Batches of one image that is not finite."""

    steps = 5

    def __call__(self, epoch, i):
        return torch.full((8, 1, 8, 8), torch.nan)


def test_warm_up_leaves_weights_optimizer_and_statistics_alone(monkeypatch):
    """Warm-up and recording, without a replay: nothing of them is left."""
    calls = []

    def record(run, warm_up):
        statistics = one.net.first[1].running_var
        start = statistics.clone()
        for _ in range(warm_up + 1):
            outputs = run()
            calls.append(torch.equal(start, statistics))
        return lambda: outputs

    monkeypatch.setattr(graphs, "recorder", lambda _: record)
    one, process = learner(graphs=True), next(processes())
    before = deepcopy(one.net.state_dict())
    x0, t, eps = torch.randn(8, 1, 8, 8), torch.arange(1, 9), torch.randn(8, 1, 8, 8)
    pointers = [x.data_ptr() for x in one.net.state_dict().values()]
    one.static(process, one.net, x0, t, eps, False, None, None)
    assert calls == [False] * 4  # each pass did move them
    assert_same_bits(list(before.values()), list(one.net.state_dict().values()))
    assert pointers == [x.data_ptr() for x in one.net.state_dict().values()]
    assert not one.optimizer.state


def test_what_is_kept_is_restored_after_an_error():
    x = torch.ones(3)
    with pytest.raises(ZeroDivisionError), restored([x]):
        x.fill_(7)
        raise ZeroDivisionError
    assert x.tolist() == [1, 1, 1]


def samplers(**settings):
    settings = {"steps": 5} | settings
    schedule = Schedule("cosine", T, end=0.9)
    process = Diffusion(schedule, 1.5, sampling_schedule=Schedule("linear", T))
    return [
        Sampler(process, SamplerSettings(**settings, graphs=g), (1, 8, 8)) for g in (False, True)
    ]


@pytest.mark.parametrize("settings", [{}, {"amp": True}, {"clip": False, "tau_type": "quadratic"}])
def test_a_static_chain_samples_the_same_images(recording, settings):
    """Also after the weights have moved in place, from other noise and with other levels."""
    net, (ordinary, static) = learner().net.eval(), samplers(**settings)
    seen = []
    for i in range(3):
        set_weights(net, flat(net) * 1.01)
        x = static.noise(4, i, "chain")
        levels = static.process.levels(Schedule("cosine", T, end=0.9 + 0.02 * i))
        for context in (torch.inference_mode, torch.no_grad):
            with context():
                images = [each(net, x, levels=levels) for each in (ordinary, static)]
            assert torch.equal(*images)
        seen.append(images)
    assert len(static.chains.recorded) == 1 and ordinary.chains is None
    for one, other in seen:  # a later chain does not write into an earlier result
        assert torch.equal(one, other)


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_many_images_are_the_same_and_each_step_is_polled(recorded, scale):
    net, polls = learner().net.eval(), []
    found = [
        torch.cat(list(each.many(net, 7, "many", lambda: polls.append(0))))
        for each in samplers(chunk=3, eps_scale=scale)
    ]
    assert torch.equal(*found) and len(polls) == 2 * 3 * 5


def test_what_a_chain_cannot_hold_is_sampled_step_by_step(recorded):
    """DDPM draws noise at every step, a film looks at every step."""
    net = learner().net.eval()
    for settings in ({"steps": T, "eta": 1.0}, {}):
        ordinary, static = samplers(**settings)
        if settings:
            many = [torch.cat(list(each.many(net, 2, "many"))) for each in (ordinary, static)]
            assert torch.equal(*many)
        for a, b in zip(ordinary.film(net, 2), static.film(net, 2), strict=True):
            assert torch.equal(a, b)
        assert not static.chains or not static.chains.recorded


def test_only_a_few_chains_are_kept(recorded, monkeypatch):
    monkeypatch.setattr(graphs, "CHAINS", 2)
    net, (_, static) = learner().net.eval(), samplers()
    with torch.inference_mode():
        for n in (1, 2, 3, 1):
            assert static(net, static.noise(n, 0, "few")).shape[0] == n
    assert [key[5 + 5] for key in static.chains.recorded] == [(3, 1, 8, 8), (1, 1, 8, 8)]


@pytest.mark.parametrize("kind", ["zo", "forward", "exact"])
def test_the_upper_level_replays_values_and_never_derivatives(recorded, monkeypatch, kind):
    noise = Sampler.noise
    monkeypatch.setattr(Sampler, "noise", lambda *a, **k: noise(*a, **k).double())
    upper, net, schedule, _ = small_upper(upper_gradient=kind)
    static = UpperLevel(
        Sampler(upper.sampler.process, SamplerSettings(5, clip=False, graphs=True), (1, 8, 8)),
        upper.judge, schedule, UpperSettings(5, 8, directions=2, truncation=1.0,
        upper_gradient=kind),
    )  # fmt: skip
    assert bool(static.sampler.chains) == (kind == "zo")
    for name in ("slope_of_schedule", "slope_of_weights"):
        a, b = (getattr(each, name)(net, 3) for each in (upper, static))
        assert torch.equal(a.gradient, b.gradient) and a.value == b.value


def test_a_recorded_step_of_adamw_would_keep_its_first_beta():
    """Why the optimizer is not in the graph: the fused kernel's beta is a number of the host."""
    weights = []
    for record in (run_eagerly, tape.record):
        weight = torch.nn.Parameter(torch.ones(3))
        weight.grad = torch.full((3,), 2.0)
        optimizer = make_optimizer([weight], 0.1)
        with restored([weight]):
            optimizer.step()
        replay = record(optimizer.step, 0)
        for i, beta in enumerate((0.95, 0.5)):
            weight.grad.fill_(1.0 - 2 * i)
            optimizer.param_groups[0]["betas"] = beta, 0.999
            replay()
        weights.append(weight.detach().clone())
    assert not torch.allclose(*weights)


@pytest.mark.parametrize("body", [lambda x: x.sum().item(), lambda x: torch.rand(2)])
def test_the_tape_refuses_what_a_capture_refuses(recorded, body):
    with pytest.raises(tape.Refused):
        Static(body, [torch.ones(2)])


class PretendCuda:
    """torch.cuda as record_cuda uses it; notes the order of what happens."""

    def __init__(self):
        self.order, self.tape = [], tape.Tape()

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.order.append("side waits"))

    def current_stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.order.append("ours waits"))

    @contextlib.contextmanager
    def stream(self, side):
        self.order.append("on the side")
        yield
        self.order.append("back")

    def CUDAGraph(self):
        return self.tape

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.order.append("capture")
        with graph:
            yield


def test_the_cuda_recorder_warms_up_on_a_side_stream_and_then_captures(monkeypatch):
    cuda = PretendCuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(graphs, "recorder", lambda _: graphs.record_cuda)
    static = Static(lambda x: cuda.order.append("run") or 2 * x, [torch.ones(2)])
    order = ["side waits", "on the side", "run", "run", "run", "back", "ours waits"]
    assert cuda.order == [*order, "capture", "run"]
    assert static(torch.tensor([3.0, 4.0])).tolist() == [6, 8]
    assert static(torch.tensor([5.0, 6.0])).tolist() == [10, 12] and cuda.order[-1] == "run"


def test_where_there_are_no_graphs_the_user_gets_a_line():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert "no CUDA graphs on cpu" in graphs.without_graphs("graphs", cpu)
    assert graphs.without_graphs("graphs", cuda) is None
    assert graphs.without_graphs("fused", cpu) is None
    assert learner(graphs=True).static is None and samplers()[1].chains is None


FLAGS = """
    --cpu --dataset digits --timesteps 20 --batch_size 8 --limit_batches 3 --epochs 2
    --backward_steps 2 --n_samples 2 --fid_samples 6 --eval_samples 20 --log_freq 1
""".split()
BILEVEL = "--initial_epoch 1 --zo_samples 4 --initial_end 0.9 --recipe".split()


def on_tape():
    graphs.recorder = lambda _: tape.record
    torch.nn.Module.compile = lambda self, **_: None  # takes minutes, and is tested elsewhere


def not_compiled():
    torch.nn.Module.compile = lambda self, **_: None


@pytest.mark.parametrize("kind, flags", [("train", []), ("bilevel", [*BILEVEL, "ours"])])
def test_a_whole_run_with_graphs_is_the_run_without(tmp_path, kind, flags):
    """And one that was recorded goes on where nothing can record, with a line that says so."""
    found = []
    for how, sabotage in (("off", None), ("graphs", on_tape), ("graphs", not_compiled)):
        folder = tmp_path / f"{len(found)}"
        folder.mkdir()
        script = Script(folder, kind)
        assert script.run(*FLAGS, *flags, "--compile", how, sabotage=sabotage) == 0, script.said()
        assert ("no CUDA graphs on cpu" in script.said()) == (sabotage is not_compiled)
        summary = json.loads((script.only / "summary.json").read_text())
        names = ("losses.csv", "iterations.csv", "scores.csv")
        tables = [(script.only / n).read_text() for n in names if (script.only / n).exists()]
        found.append([tables, summary["fid"], summary["loss"]])
    assert found[0] == found[1] == found[2] and len(found[0][0]) == 2
