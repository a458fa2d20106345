"""What the jobs of test_executors.py do in processes that an engine starts: a trial, or worse."""

import os
import signal
import time

from harness import TwoLayers, kill_self

import train_mnist
from common import networks, training
from search.executors import run_elsewhere


def once(folder, name):
    """Whether this is the first time in a trial's folder."""
    try:
        (folder / name).mkdir(parents=True)
        return True
    except FileExistsError:
        return False


def at_step(count, what):
    real = training.Learner.step

    def step(self, *rest):
        if self.count == count:
            what()
        return real(self, *rest)

    training.Learner.step = step


def small(home, folder, args, limit):
    """As the search of the harness has it: a network of two layers, no figures."""
    networks.network_class = lambda _: TwoLayers
    train_mnist.leave_figures = lambda *_: None
    return run_elsewhere(home, folder, args, limit)


def preempted(home, folder, args, limit):
    """Trial 1 is preempted at its third step, trial 2 is killed."""
    os.chdir(home)
    if folder.name == "001" and once(folder, "preempted"):
        at_step(2, lambda: os.kill(os.getpid(), signal.SIGUSR2))
    if folder.name == "002":
        kill_self()
    return small(home, folder, args, limit)


def lost(home, folder, args, limit):
    """Trial 0 is slow, trial 1 loses its process once, trial 2 each time."""
    os.chdir(home)
    if folder.name == "000":
        time.sleep(3)
    if folder.name == "001" and once(folder, "lost"):
        at_step(2, kill_self)
    if folder.name == "002":
        kill_self()
    return small(home, folder, args, limit)
