"""The coupled penalty against closed forms, and against training again at another q."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from harness import TwoLayers
from test_checkpoint import same
from torch import nn
from toys import F64, small_upper

from common import penalty as penalties
from common.data import Batches
from common.fast_unet import FastUNet
from common.penalty import Penalty, PenaltySettings, gamma_for, loss_differences, seen_by_loss
from common.training import Learner, LRSchedule, make_optimizer
from common.weights import flat
from common.zeroth_order import Slope
from unet import UNet


class Quadratic:
    """L = (theta - B q)' A (theta - B q)/2 and F = |theta - c|^2/2 + r |q|^2/2: all is known.

    argmin L = B q, so dF/dq = r q directly, and B' (B q - c) through theta.
    """

    def __init__(self, d=6, p=3):
        root = torch.randn(d, d, dtype=F64)
        self.a, self.b = root @ root.T / d + torch.eye(d, dtype=F64), torch.randn(d, p, dtype=F64)
        self.c, self.r = torch.randn(d, dtype=F64), 0.7
        self.q = nn.Parameter(torch.randn(p, dtype=F64))
        self.schedule = SimpleNamespace(timesteps=10, parameters=lambda: iter(self.q.unbind()))
        self.implicit = (self.b.T @ (self.b @ self.q - self.c)).detach()
        self.direct = (self.r * self.q).detach()

    def loss(self, net, x0, t, eps, levels=None):
        gap = net(x0) - self.b @ (self.q.detach() if levels is not None else self.q)
        return gap @ self.a @ gap / 2 + 0 * eps.sum()

    def slopes(self, net, step, name):
        theta = net(None).detach()
        value = ((theta - self.c).square().sum() + self.r * self.q.square().sum()).item() / 2
        return [Slope(self.direct, value, 0 * self.direct), Slope(theta - self.c, value, 0 * theta)]


class Vector(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d, dtype=F64))

    def forward(self, _):
        return self.theta


class SomeBatches:
    steps, batch_size = 5, 2

    def __call__(self, epoch, i):
        return torch.zeros(2, 1, 1, 1)


def on_quadratic(gamma, steps, optimizer=None, **options):
    torch.manual_seed(1)
    problem = Quadratic()
    problem.schedule.parameters = lambda: iter([problem.q])
    make = optimizer or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5))
    learners = []
    for _ in range(2):
        net = Vector(6)
        learners.append(Learner(net, make(net.parameters()), SomeBatches(), seed=0))
    settings = PenaltySettings(gamma, average_steps=10, **options)
    penalty = Penalty(*learners, problem, settings)
    for _ in range(steps):
        penalty.step(problem, levels=0)
    direct, implicit = penalty.slopes(problem, [torch.zeros(1, 1, 1, 1)], 0, 0)
    return problem, penalty, direct.gradient.flatten(), implicit.gradient.flatten()


@pytest.mark.parametrize("every", [1, 7])
def test_on_a_quadratic_it_is_the_hypergradient(every):
    """In closed form, at a gamma that leaves theta_z at argmin L; and wrong where it does not."""
    problem, penalty, direct, implicit = on_quadratic(1e6, 400, exact_every=every)
    torch.testing.assert_close(direct, problem.direct)
    torch.testing.assert_close(implicit, problem.implicit, rtol=1e-4, atol=1e-4)
    both = penalty.slope(problem, [torch.zeros(1, 1, 1, 1)], 0, 0).flatten()
    torch.testing.assert_close(both, problem.direct + problem.implicit, rtol=1e-4, atol=1e-4)
    assert penalty.warning() is None
    _, small, _, wrong = on_quadratic(0.1, 400)
    assert (wrong - problem.implicit).norm() > 0.2 * problem.implicit.norm()
    assert "left argmin L" in small.warning()


def test_gamma_times_the_difference_is_constant_in_gamma():
    one, two, three = (on_quadratic(gamma, 60)[3] for gamma in (1e5, 1e6, 1e7))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(two, three, rtol=1e-4, atol=1e-5)
    assert one.norm() > 0.1


def adamw(parameters):
    return make_optimizer(parameters, 0.05)


def test_with_an_infinite_gamma_the_difference_is_exactly_zero():
    _, penalty, _, implicit = on_quadratic(float("inf"), 50, adamw)
    assert torch.equal(penalty.theta_z.net.theta, penalty.theta_y.net.theta)
    assert implicit.isnan().all()  # infinity times 0; any other difference would be infinite


@pytest.mark.parametrize("network", [FastUNet, UNet, TwoLayers])
def test_an_infinite_gamma_is_theta_y_to_the_bit_in_a_network(network):
    """Batches, times, noise, optimizer, batch norm and rate: nothing but dF/dtheta separates."""
    penalty, process, levels = in_a_network(network, 1e300)
    for _ in range(6):
        penalty.step(process, levels)
    theta_z, theta_y = penalty.theta_z, penalty.theta_y
    assert same(theta_z.net.state_dict(), theta_y.net.state_dict())
    moments = [learner.optimizer.state_dict()["state"] for learner in (theta_z, theta_y)]
    assert same(*moments)
    nets = [average.model for average in penalty.averages]
    assert (loss_differences(process, *nets, [torch.randn(4, 1, 8, 8)], 0, 0) == 0).all()
    assert penalty.pull.any()


def in_a_network(network, gamma, every=2, **options):
    torch.manual_seed(0)
    upper, net, schedule, _ = small_upper(network(4, timesteps=40), n=6, upper_gradient="exact")
    process = upper.sampler.process
    process.dtype = torch.float32
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    batches = Batches(images, 16, seed=0)
    learners = []
    for _ in range(2):
        torch.manual_seed(3)
        net = network(4, timesteps=40)
        optimizer = make_optimizer(net.parameters(), 1e-3)
        rate = LRSchedule("onecycle", optimizer, 40) if not learners else None
        learners.append(Learner(net, optimizer, batches, 0, lr_schedule=rate))
    theta_y, theta_z = learners
    for _ in range(3):
        theta_y.step(process)
    penalty = Penalty(theta_y, theta_z, upper, PenaltySettings(gamma, every, **options))
    return penalty, process, process.levels_of(schedule.log_alpha_bar().detach())


def test_it_survives_a_checkpoint():
    states = []
    for interrupted in (False, True):
        penalty, process, levels = in_a_network(TwoLayers, None, every=3)
        for i in range(7):
            if i == 4 and interrupted:
                saved = [x.state_dict() for x in (penalty.theta_y, penalty.theta_z, penalty)]
                saved = deepcopy(saved)
                penalty, process, levels = in_a_network(TwoLayers, None, every=3)
                for part, state in zip(
                    (penalty.theta_y, penalty.theta_z, penalty), saved, strict=True
                ):
                    part.load_state_dict(state)
            penalty.step(process, levels)
        terms = penalty.slopes(process, [torch.ones(4, 1, 8, 8)], 0, 0)
        states.append([penalty.state_dict(), *[tuple(term) for term in terms]])
    assert same(*states)


def test_networks_that_part_by_themselves_begin_again_together(monkeypatch):
    """With the gamma that is chosen, not with one given by hand; no update until it has settled."""
    together = [0, 0, 2, 2, 4, 4, 6], [4, 6]
    for gamma, limit, (began, due) in (
        (None, 1e-12, together), (None, 1.0, ([0] * 7, [3, 4, 5, 6, 7])),
        (1e3, 1e-12, ([0] * 7, [3, 4, 5, 6, 7])),
    ):  # fmt: skip
        monkeypatch.setattr(penalties, "PARTED", limit)
        penalty, process, levels = in_a_network(TwoLayers, gamma, settle_steps=2)
        seen = []
        for _ in range(7):
            loss_y = penalty.step(process, levels)
            seen.append((penalty.began, penalty.due()))
            if penalty.began == penalty.steps - 1:  # nothing of before is averaged or compared
                averages = [average.model.module.state_dict() for average in penalty.averages]
                nets = [each.net.state_dict() for each in (penalty.theta_z, penalty.theta_y)]
                assert same(averages, nets)
                assert penalty.losses == [penalty.loss_z, loss_y]
        assert [x for x, _ in seen] == began
        assert [i for i, (_, x) in enumerate(seen, 1) if x] == due
        assert ("parted" in (penalty.warning() or "")) == (began[-1] > 0)
        assert len(penalty.direct) == (1 if began[-1] else 4)  # none of before they parted


@pytest.mark.parametrize(("apart", "parted"), [(3e-4, False), (1e-2, True)])
@pytest.mark.parametrize(("higher", "left"), [(0.02, False), (0.1, True)])
def test_what_was_measured_lies_on_both_sides_of_the_limits(apart, parted, higher, left):
    """Two networks that a chosen gamma sets apart, or chaos; a loss near argmin L, or not."""
    penalty, *_ = in_a_network(TwoLayers, None)
    penalty.begin()
    weight = penalty.theta_z.net.last.weight
    with torch.no_grad():
        weight.add_(apart * flat(penalty.theta_y.net).norm() / weight.numel() ** 0.5)
    assert penalty.distance() == pytest.approx(apart, rel=1e-3) and penalty.parted() == parted
    penalty.steps, penalty.losses = 1, [1 + higher, 1.0]
    assert ("left argmin L" in (penalty.warning() or "")) == left


@pytest.mark.parametrize("network", [FastUNet, UNet, TwoLayers])
def test_weights_that_the_loss_is_blind_to_are_not_pulled(network):
    """Against the loss itself, tensor by tensor: in training mode it changes along no other one."""
    net = network(4, timesteps=40).double()
    x, t = torch.randn(8, 1, 8, 8, dtype=F64), torch.randint(1, 41, (8,))
    net.train()
    parameters = dict(net.named_parameters())
    gradient = torch.autograd.grad(net(x, t).square().sum(), list(parameters.values()))
    moved = {n for n, g in zip(parameters, gradient, strict=True) if g.abs().max() > 1e-9}
    parts = seen_by_loss(net).split([p.numel() for p in parameters.values()])
    assert {n for n, part in zip(parameters, parts, strict=True) if part.all()} == moved
    assert {n for n, part in zip(parameters, parts, strict=True) if part.any()} == moved
    assert moved < set(parameters)


def test_weights_that_the_loss_is_blind_to_part_nothing():
    """A card's rounding moves them by themselves."""
    penalty, *_ = in_a_network(FastUNet, None)
    z, y = (dict(learner.net.named_parameters()) for learner in (penalty.theta_z, penalty.theta_y))
    sizes = [p.numel() for p in z.values()]
    blind = [not part.any() for part in seen_by_loss(penalty.theta_z.net).split(sizes)]
    with torch.no_grad():
        for name, is_blind in zip(z, blind, strict=True):
            z[name].copy_(y[name] + is_blind)
        assert any(blind) and penalty.distance() == 0
        z[list(z)[blind.index(False)]].add_(1)
        assert penalty.distance() > 0


def test_the_pull_follows_statistics_and_leaves_alone_what_the_loss_is_blind_to(monkeypatch):
    """dF/dtheta goes through batch norm's statistics, of the batches of the next steps."""
    penalty, process, levels = in_a_network(FastUNet, None)
    net, z, losses = penalty.theta_z.net, penalty.theta_z, []

    def through(asked, gradient, passes):
        assert asked is net
        asked.train()
        losses.extend(run(asked).item() for run in passes)
        return torch.ones_like(gradient)

    monkeypatch.setattr(penalties, "through_statistics", through)
    penalty.begin()
    expected = [z.loss(process, levels, z.count + i, net.train()).item() for i in range(2)]
    penalty.step(process, levels)
    assert torch.equal(penalty.pull, seen_by_loss(net)) and losses == expected
    assert penalty.loss_z == pytest.approx(expected[0], rel=1e-4)  # its own step saw that batch


def test_gamma_is_chosen_from_the_sizes_of_both_levels():
    assert gamma_for(30.0, 0.15) == 2e6
    assert gamma_for(300.0, 0.15) == 2e7
    assert gamma_for(0.0, 0.15) > 0


@pytest.mark.parametrize("inner_loop", [1, 3, 7, 50, 120])
def test_the_updates_that_are_planned_are_made(inner_loop):
    """Also where the steps of an iteration skip the multiples of update_every."""
    settings = PenaltySettings(update_every=50, settle_steps=100)
    iterations = 1000 // inner_loop
    reached = {i * inner_loop // 50 for i in range(iterations + 1)}
    made = [i for i in range(1, iterations + 1) if settings.due(i * inner_loop, inner_loop)]
    assert len(made) == settings.updates(iterations, inner_loop) == len(reached - {0, 1, 2}) > 0


def test_the_training_steps_of_an_iteration_are_the_losses_that_were_taken(monkeypatch):
    """With and without an update of the schedule, which is due every 8 steps."""
    penalty, process, levels = in_a_network(TwoLayers, 1e3, 3, update_every=8, batches=2)
    taken, loss, dealt = [], process.loss, [torch.ones(4, 1, 8, 8)] * 2
    monkeypatch.setattr(process, "loss", lambda *a, **b: taken.append(1) or loss(*a, **b))
    due = []
    for update in range(3):
        taken.clear()
        for _ in range(5):
            penalty.step(process, levels)
        due.append(penalty.due(5))
        if due[-1]:
            penalty.slope(process, dealt, 0, update)
        assert penalty.training_steps(5) == len(taken)
    assert due == [False, True, False]


def test_the_difference_sees_batches_in_an_order_that_no_epoch_has():
    """Two of them and the beginning of another, and none twice."""

    class Numbers(SomeBatches):
        def __call__(self, epoch, i):
            return epoch, i

    penalty, *_ = in_a_network(TwoLayers, None, batches=12)
    first = list(penalty.batches(Numbers()))
    assert len(set(first)) == 12 and all(epoch < 0 for epoch, _ in first)
    assert [i for _, i in first] == [*range(5), *range(5), 0, 1]
    penalty.steps = 50
    assert not set(first) & set(penalty.batches(Numbers()))
