"""The coupled penalty on a bilevel problem whose hypergradient is known in closed form.

python -m benchmarks.data_cleaning --data_dir data

Data cleaning on MNIST: half of 5,000 training labels are wrong. Lower level: softmax regression,
example i weighted by sigmoid(q_i), with weight decay. Upper level: the loss on 5,000 other digits
with true labels. The implicit gradient is -d2L/dq dtheta H^-1 dF/dtheta with the Hessian H written
out, in float64. Writes docs/results/data_cleaning.csv, the penalty's gradient at equal weights, and
docs/results/data_cleaning_end.csv, what the weights are worth after they have been learned. Rows
that are in the files stay, and only what is missing is measured.
"""

from common import cli


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.data_cleaning"
    add = cli.adder(parser)
    add("data_dir", "data", "folder that contains MNIST/raw")
    add("seeds", 3, "choices of images, wrong labels and draws", type=cli.count)
    add("updates", 20, "updates of the weights of the examples", type=cli.count)
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import RESULTS
from common.data import Source
from common.machine import stream
from common.penalty import Penalty, PenaltySettings
from common.tables import read_csv, rounded, write_csv
from common.training import Learner
from common.weights import flat
from common.zeroth_order import Slope

CLASSES = 10
TABLE, END = RESULTS / "data_cleaning.csv", RESULTS / "data_cleaning_end.csv"
DECAY = 1e-3  # of the weights, in L: it makes the lower level strongly convex
SETTLE, EVERY, MEMORY = 1500, 25, 20  # coupled steps before, and to, an update; of the averages


class Features:
    """Pooled digits with a constant feature, (n,d), and their labels, (n,)."""

    def __init__(self, images: Tensor, labels: Tensor, pool: int):
        x = F.avg_pool2d(images.float() / 255, pool).flatten(1)
        self.x, self.y = F.pad(x, (0, 1), value=1.0), labels

    def cross_entropy(self, net: nn.Module, i: Tensor | slice = slice(None)) -> Tensor:
        return F.cross_entropy(net(self.x[i]), self.y[i], reduction="none")

    def accuracy(self, net: nn.Module) -> float:
        with torch.no_grad():
            return (net(self.x).argmax(1) == self.y).double().mean().item()


class Weights(nn.Module):
    """What the upper level moves: q_i of every example. The interface is that of a schedule."""

    timesteps = 1

    def __init__(self, n: int):
        super().__init__()
        self.q = nn.Parameter(torch.zeros(n))


class Indices:
    """Batches of the numbers of the examples, as common.data.Batches gives images."""

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.seed, self.batch_size = n, seed, min(n, batch_size)
        self.steps = n // self.batch_size

    def __call__(self, epoch: int, i: int) -> Tensor:
        order = torch.randperm(self.n, generator=stream("cpu", self.seed, "shuffle", epoch))
        return order[i * self.batch_size : (i + 1) * self.batch_size]


class Cleaning:
    """Both levels: the loss that a Learner asks for, and the slopes that a Penalty asks for."""

    def __init__(self, data_dir: str, seed: int, n: int = 5000, pool: int = 2):
        source = Source("mnist", data_dir)
        images, labels = source.images("train"), source.labels("train")
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=random)
        ours, others = order[:n], order[n : 2 * n]
        self.wrong = torch.arange(n) < n // 2
        shift = torch.randint(1, CLASSES, (n,), generator=random)
        given = (labels[ours] + shift * self.wrong) % CLASSES
        self.train = Features(images[ours], given, pool)
        self.validation = Features(images[others], labels[others], pool)
        self.test = Features(source.images("test"), source.labels("test"), pool)
        self.schedule, self.seed = Weights(n), seed

    def loss(self, net: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, levels=None) -> Tensor:
        """L on the examples numbered x0; q is a constant to a step, which gives `levels`."""
        q = self.schedule.q if levels is None else self.schedule.q.detach()
        weighted = (q[x0].sigmoid() * self.train.cross_entropy(net, x0)).mean()
        return weighted + DECAY / 2 * sum(p.square().sum() for p in net.parameters())

    def slopes(self, net: nn.Module, step: int, name: str) -> list[Slope]:
        """dF/dq at fixed weights, which is 0, and dF/dtheta."""
        value = self.validation.cross_entropy(net).mean()
        gradient = torch.autograd.grad(value, list(net.parameters()))[0].flatten()
        nothing = torch.zeros_like(self.schedule.q)
        return [Slope(nothing, value.item(), nothing), Slope(gradient, value.item(), 0 * gradient)]

    def learner(self, batches: Indices) -> Learner:
        net = nn.Linear(self.train.x.shape[1], CLASSES, bias=False)
        nn.init.zeros_(net.weight)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
        return Learner(net, optimizer, batches, self.seed)

    def coupled(self, batch_size: int, gamma: float | None = None) -> tuple[Penalty, Indices]:
        batches = Indices(len(self.train.y), batch_size, self.seed)
        s = PenaltySettings(gamma, exact_every=5, average_steps=MEMORY, batches=batches.steps)
        return Penalty(self.learner(batches), self.learner(batches), self, s), batches

    def implicit(self, penalty: Penalty, batches: Indices, update: int = 0) -> Tensor:
        """The penalty's gradient, (n,)."""
        penalty.slope(self, penalty.batches(batches), self.seed, update)
        return penalty.terms[1].gradient.flatten()

    @torch.no_grad()
    def exact(self, net: nn.Module) -> Tensor:
        """The implicit gradient in closed form, at these weights, (n,) float64."""
        theta, weight = flat(net).double().view(CLASSES, -1), self.schedule.q.double().sigmoid()
        x, v = self.train.x.double(), self.validation.x.double()
        p, error = probabilities(x, theta, self.train.y)
        outer = probabilities(v, theta, self.validation.y)[1].T @ v / len(v)  # dF/dtheta, (10,d)
        h = hessian(x, p, weight / len(x)) + DECAY * torch.eye(theta.numel(), dtype=x.dtype)
        s = torch.linalg.solve(h, outer.flatten()).view_as(theta)
        each = (error * (x @ s.T)).sum(1)  # dL_i/dtheta along s
        return -weight * (1 - weight) / len(x) * each


def probabilities(x: Tensor, theta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax and what it has too much, (n,10) each."""
    p = (x @ theta.T).softmax(1)
    return p, p - F.one_hot(y, CLASSES)


def hessian(x: Tensor, p: Tensor, weight: Tensor) -> Tensor:
    """Of sum_i weight_i cross-entropy_i in theta, (10d,10d)."""
    d = x.shape[1]
    h = torch.empty(CLASSES, d, CLASSES, d, dtype=x.dtype)
    for a in range(CLASSES):
        for b in range(a + 1):
            c = weight * p[:, a] * (float(a == b) - p[:, b])
            h[a, :, b] = h[b, :, a] = x.T @ (c[:, None] * x)  # symmetric in x
    return h.view(CLASSES * d, CLASSES * d)


def agreement(ours: Tensor, exact: Tensor) -> dict[str, float]:
    ours = ours.double()
    return {
        "cosine": F.cosine_similarity(ours, exact, dim=0).item(),
        "signs": (ours * exact > 0).double().mean().item(),
        "error": ((ours - exact).norm() / exact.norm()).item(),
    }


def gradients(cleaning: Cleaning) -> Iterator[dict]:
    """A row a lower level and gamma, all examples weighted the same."""
    auto = None
    for batch_size, gamma, coupled in [
        (5000, None, True), (500, None, True), (500, 1e-4, True), (500, 0.01, True),
        (500, 100.0, True), (500, None, False),
    ]:  # fmt: skip
        penalty, batches = cleaning.coupled(batch_size, gamma and gamma * auto)
        if not coupled:
            penalty.theta_z.batches = Indices(batches.n, batch_size, cleaning.seed + 1)
        for _ in range(SETTLE):
            penalty.step(cleaning, 0)
        auto = auto or penalty.gamma
        row = {"images": batch_size, "same_batches": coupled, "gamma": penalty.gamma}
        row |= {"auto": gamma is None}
        net = penalty.averages[1].model.module
        yield row | agreement(cleaning.implicit(penalty, batches), cleaning.exact(net))


def learned(cleaning: Cleaning, by: str, updates: int) -> dict:
    """Weights learned by one gradient or the other, and what they are worth."""
    nn.init.zeros_(cleaning.schedule.q)
    penalty, batches = cleaning.coupled(500)
    optimizer = torch.optim.Adam(cleaning.schedule.parameters(), lr=0.2)
    lowest = 1.0
    for step in range(SETTLE + EVERY * (updates - 1)):
        penalty.step(cleaning, 0)
        if (since := step + 1 - SETTLE) < 0 or since % EVERY:
            continue
        net = penalty.averages[1].model.module
        if by == "penalty":
            slope = cleaning.implicit(penalty, batches, since // EVERY)
            if since // EVERY % 5 == 0:
                lowest = min(lowest, agreement(slope, cleaning.exact(net))["cosine"])
        else:
            slope = cleaning.exact(net)
        cleaning.schedule.q.grad = slope.float()
        optimizer.step()
    scores = detection(cleaning) | trained(cleaning)
    return {"least_cosine": lowest if by == "penalty" else ""} | scores


def detection(cleaning: Cleaning) -> dict[str, float]:
    """How well q finds the wrong labels: F1 of q < 0, and the area under the ROC curve."""
    q, wrong = cleaning.schedule.q.detach(), cleaning.wrong
    called = q < 0
    f1 = 2 * (called & wrong).sum() / (called.sum() + wrong.sum())
    ranks, right = q.argsort().argsort().double(), (~wrong).sum()
    auc = (ranks[~wrong].sum() - right * (right - 1) / 2) / (right * wrong.sum())
    return {"f1": f1.item(), "auc": auc.item()}


def trained(cleaning: Cleaning, steps: int = 2000) -> dict[str, float]:
    """The accuracy of a regression trained anew with the weights as they are."""
    learner = cleaning.learner(Indices(len(cleaning.wrong), 500, cleaning.seed))
    for _ in range(steps):
        learner.step(cleaning, 0)
    return {"accuracy": cleaning.test.accuracy(learner.net)}


CHOICES = ("all alike", "true labels alone", "learned, penalty gradient", "learned, exact gradient")


def end(cleaning: Cleaning, choice: str, updates: int) -> dict:
    """What a choice of weights is worth."""
    if choice.startswith("learned"):
        return learned(cleaning, "penalty" if "penalty" in choice else "exact", updates)
    q, wrong = cleaning.schedule.q.data, cleaning.wrong
    q.zero_() if choice == "all alike" else q.copy_(torch.where(wrong, -20.0, 20.0))
    return {"least_cosine": "", "f1": "", "auc": ""} | trained(cleaning)


def main(args) -> None:
    torch.set_num_threads(1)
    if not TABLE.exists():
        write_csv(TABLE, [rounded(row, 4) for row in gradients(Cleaning(args.data_dir, 0))])
    rows = read_csv(END) if END.exists() else []
    known = {(row["seed"], row["weights"]) for row in rows}
    for seed in range(args.seeds):
        cleaning = Cleaning(args.data_dir, seed)
        for choice in CHOICES:
            if (seed, choice) not in known:
                row = {"seed": seed, "weights": choice} | end(cleaning, choice, args.updates)
                rows.append(rounded(row, 4))
                print(rows[-1], flush=True)
                write_csv(END, rows)


if __name__ == "__main__":
    main(ARGS)
