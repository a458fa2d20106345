"""Which flags are fastest on this GPU? Measures them in at most five minutes.

python -m benchmarks.gpu               prints the table and the choice, writes docs/results/gpu.json
python -m benchmarks.gpu --rehearse    runs the same code, tiny, on the CPU; writes nothing

Measured are a training step (base 64, batch 128) and a sampling (36 images, 100 DDIM steps): in
float32, TF32 and bfloat16, in channels last, with cudnn.benchmark, compiled, and with CUDA graphs.
The loss after as many steps from the same weights shows that a setting trains as the others do.
"""

from common import cli

SECONDS = 240  # no setting is begun later: one that compiles may take a minute


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.gpu"
    add = cli.adder(parser)
    add("device", "cuda", "cuda or cuda:N", type=cli.named_device)
    add("seconds", SECONDS, "no setting is begun later than this", type=cli.count)
    add("rehearse", False, "run the same code, tiny, on the CPU", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from math import sqrt

import torch

from benchmarks.gpu_settings import REHEARSAL, SETTINGS, Bench, Setting, Workload, rehearsed
from benchmarks.record import command_line, load_average, write_json
from common.errors import Stop, guarded
from common.machine import setup
from common.provenance import cuda_facts

HEAD = f"{'setting':40s} {'step, ms':>9s} {'sampling, s':>12s} {'GiB':>6s} {'loss':>8s}"
WORTH = 0.97  # a flag is chosen where it takes less than this part of the time without it


def line(row: dict) -> str:
    """A row as it is printed."""
    if "error" in row:
        return f"{row['setting']:40s} {row['error']}"
    step, sampling = (row[name]["median"] for name in ("training_step", "sampling"))
    memory = f"{row['peak_bytes'] / 2**30:6.2f}" if row["peak_bytes"] else f"{'':>6s}"
    return f"{row['setting']:40s} {1e3 * step:9.2f} {sampling:12.4f} {memory} {row['loss']:8.4f}"


def measured(bench: Bench, settings: list[Setting], limit: float) -> list[dict]:
    """A row for each setting; one that fails, or that time is too short for, has an error."""
    began, rows = time.monotonic(), []
    print(HEAD)
    for setting in settings:
        if time.monotonic() - began > limit:
            row = {"setting": setting.name, "error": "not measured: out of time"}
        else:
            try:
                row = bench.measure(setting)
            except Exception as error:  # whatever the card or the compiler refuses is a result
                reason = str(error).strip().splitlines() or [""]
                row = {
                    "setting": setting.name,
                    "error": f"{type(error).__name__}: {reason[0][:100]}",
                }
        rows.append(row)
        print(line(row), flush=True)
    return rows


def ratio(row: dict, base: dict) -> float:
    """How much of the time of `base` a row takes: the geometric mean of training and sampling."""
    parts = (row[name]["median"] / base[name]["median"] for name in ("training_step", "sampling"))
    one, other = parts
    return sqrt(one * other)


def choice(rows: list[dict]) -> list[str]:
    """Which flags to take: without a change of precision first, then with."""
    rows = [row for row in rows if "error" not in row]
    base = next((row for row in rows if row["setting"] == "no flag"), None)
    if base is None:
        return ["nothing to choose: the setting without flags was not measured"]
    flags = [row for row in rows if not (row["channels_last"] or row["cudnn_benchmark"])]
    lines = []
    for title, same in (
        ("float32", lambda row: not row["amp"] and not row["tf32"]),
        ("TF32", lambda row: row["tf32"]),
        ("bfloat16", lambda row: row["amp"]),
    ):
        kind = [row for row in flags if same(row)]
        if kind:
            flagged = [row for row in kind if row["flags"]] or kind
            best = min(flagged, key=lambda row: ratio(row, base))
            part = ratio(best, base)
            name = best["flags"] if part < WORTH else "no flag is worth it"
            lines.append(f"{title}: {name} ({part:.2f} of the time without flags)")
    for row in rows:
        if row["channels_last"] or row["cudnn_benchmark"]:
            plain = next((r for r in flags if r["flags"] == row["flags"]), None)
            if plain:
                part = ratio(row, plain)
                lines.append(f"{row['setting']}: {part:.2f} of the time without (not a flag)")
    return lines


def card(device: torch.device) -> dict:
    """The card and the software that its numbers depend on."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        driver = answer.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = None
    facts = {name: value for name, value in cuda_facts().items() if name in ("cuda", "cudnn")}
    name = torch.cuda.get_device_name(device)
    return {"card": name, "driver": driver, **facts, "torch": torch.__version__}


def main(args) -> None:
    if not args.rehearse and not torch.cuda.is_available():
        raise Stop("no NVIDIA GPU on this machine; --rehearse runs the code on the CPU", code=2)
    device = setup("cpu" if args.rehearse else args.device)
    workload = REHEARSAL if args.rehearse else Workload()
    with rehearsed() if args.rehearse else nullcontext():
        rows = measured(Bench(device, workload), SETTINGS, args.seconds)
    chosen = choice(rows)
    print("\n".join(chosen))
    if not args.rehearse:
        about = {"command": command_line("gpu"), **card(device), "load": load_average()}
        write_json("gpu", {**about, "workload": asdict(workload), "rows": rows, "choice": chosen})


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "python -m benchmarks.gpu"))
