"""The console commands of an installed package: each runs its script as `python SCRIPT` does."""

import runpy


def train_mnist() -> None:
    _run("train_mnist")


def train_mnist_bayesian() -> None:
    _run("train_mnist_bayesian")


def train_mnist_bilevel_zo() -> None:
    _run("train_mnist_bilevel_ZO")


def reproduce() -> None:
    _run("reproduce")


def evaluate() -> None:
    _run("common.evaluate")


def export() -> None:
    _run("common.export")


def _run(module):
    # as the main module: a script parses its flags before it imports torch, and a search's
    # processes find it again by its name
    runpy.run_module(module, run_name="__main__", alter_sys=True)
