"""benchmarks/gpu.py without a GPU: its rehearsal, its choice, its refusal."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from benchmarks import gpu, gpu_settings
from benchmarks.gpu_settings import BFLOAT16, FLOAT32, SETTINGS, Setting
from common import graphs

FEW = [FLOAT32, Setting(channels_last=True), BFLOAT16, Setting(compile="graphs"), FLOAT32]


def row(setting: Setting, step: float, sampling: float) -> dict:
    times = {"training_step": {"median": step}, "sampling": {"median": sampling}}
    return {"setting": setting.name, "flags": setting.flags, **vars(setting), **times}


def test_the_rehearsal_measures_and_trains_alike_and_writes_nothing(monkeypatch, capsys):
    written, recorded = [], []
    real = graphs.run_eagerly
    monkeypatch.setattr(graphs, "run_eagerly", lambda run, n: recorded.append(n) or real(run, n))
    monkeypatch.setattr(gpu, "SETTINGS", FEW)
    monkeypatch.setattr(gpu, "write_json", lambda *content: written.append(content))
    gpu.main(gpu.make_parser().parse_args(["--rehearse"]))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == gpu.HEAD and not written
    assert recorded == [3, 1]  # the graphs' step and chain, and no other setting's
    losses = [float(line.split()[-1]) for line in lines[: len(FEW)]]
    assert len({losses[i] for i in (0, 1, 3, 4)}) == 1 and losses[2] == pytest.approx(
        losses[0], rel=0.02
    )
    assert graphs.recorder(torch.device("cpu")) is None  # the rehearsal is over
    assert [line.split(":")[0] for line in lines[len(FEW) :]] == [
        "float32", "bfloat16", "no flag, channels last"
    ]  # fmt: skip


def test_every_setting_differs_from_the_plain_one_and_its_switches_are_put_back():
    assert len(set(SETTINGS)) == len(SETTINGS) - 1  # the plain one comes twice
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark
    for setting in SETTINGS:
        with pytest.raises(ZeroDivisionError), gpu_settings.switches(setting):
            assert (cudnn.allow_tf32, cudnn.benchmark) == (setting.tf32, setting.cudnn_benchmark)
            raise ZeroDivisionError
    assert before == (cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark)


def test_the_choice_is_the_fastest_flag_of_each_precision():
    rows = [
        row(FLOAT32, 1.0, 1.0),
        row(Setting(compile="fused"), 0.5, 0.5),
        row(Setting(compile="graphs"), 0.25, 0.64),
        row(Setting(tf32=True), 1.0, 0.99),
        row(BFLOAT16, 0.5, 1.0),
        row(Setting(amp=True, channels_last=True), 0.5, 0.25),
        {"setting": "x", "error": "refused"},
    ]
    assert gpu.choice(rows) == [
        "float32: --compile graphs (0.40 of the time without flags)",
        "TF32: no flag is worth it (0.99 of the time without flags)",
        "bfloat16: --amp (0.71 of the time without flags)",
        "--amp, channels last: 0.50 of the time without (not a flag)",
    ]
    assert "nothing to choose" in gpu.choice(rows[1:])[0]
    one = "float32: no flag is worth it (1.00 of the time without flags)"
    assert gpu.choice([rows[0], rows[5]]) == [one]  # with nothing to hold channels last against


def test_a_setting_that_fails_or_comes_too_late_has_a_row_and_ends_nothing():
    class Failing:
        def measure(self, setting):
            if setting.amp:
                raise RuntimeError("CUDA error\nat some length")
            return row(setting, 1.0, 2.0) | {"peak_bytes": 2**31, "loss": 1.5}

    rows = gpu.measured(Failing(), [FLOAT32, BFLOAT16], 100)
    assert rows[1]["error"] == "RuntimeError: CUDA error" and "error" not in rows[0]
    assert gpu.line(rows[0]).split()[-4:] == ["1000.00", "2.0000", "2.00", "1.5000"]
    late = gpu.measured(Failing(), [FLOAT32], -1)
    assert late == [{"setting": "no flag", "error": "not measured: out of time"}]


def test_without_a_gpu_it_is_one_line_and_exit_code_2():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "--rehearse" in done.stderr
