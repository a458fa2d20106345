"""How fast are our paths, beside the plain ones of plain.py, in turn in one process?

python -m benchmarks.bench --threads 2             prints the table, writes docs/results/bench.json
python -m benchmarks.bench --quick                 small, in a few minutes; writes nothing
python -m benchmarks.bench --threads 2 --amp       our side in bfloat16; bench_bfloat16.json
python -m benchmarks.bench --threads 2 --compile   what torch.compile brings; compiled.json
python -m benchmarks.bench --device cuda           the same on a GPU; bench_cuda.json
python -m benchmarks.page --pages speed.md         fills the tables of docs/speed.md
"""

from common import cli

QUICK = {"base": 8, "batch_size": 16, "steps": 3, "extractor": "mnist"}


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python -m benchmarks.bench"
    add = cli.adder(parser)
    add("device", "cpu", "cpu or cuda", type=cli.named_device)
    add("threads", 1, "CPU threads", type=cli.threads_given)
    add("repeats", 3, "measurements of each side, in turn", type=cli.count)
    add("base", 64, "channels of the network", type=cli.count)
    add("batch_size", 128, "images per training step", type=cli.count)
    add("steps", 100, "DDIM steps of a sampling", type=cli.count)
    add("images", 36, "images of a sampling", type=cli.count)
    add("extractor", "inception", "extractor of the FIDs", choices=["inception", "mnist"])
    small = ", ".join(f"{name} {value}" for name, value in QUICK.items())
    add("quick", False, f"measure at {small}; write nothing", action="store_true")
    add("compile", False, "measure only what torch.compile brings", action="store_true")
    add("amp", False, "measure our side in bfloat16", action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import json

import torch

from benchmarks import floors, phases, processes
from benchmarks.record import command_line, load_average, machine, write_json
from benchmarks.rows import Rows
from benchmarks.sides import Sides, Sizes


def sizes_of(args) -> Sizes:
    names = ("device", "base", "batch_size", "steps", "images", "extractor", "amp")
    values = {name: getattr(args, name) for name in names}
    return Sizes(**values | (QUICK if args.quick else {}))


def measure(args, rows: Rows, sides: Sides) -> None:
    """All rows; those that bfloat16 does not change are left out with --amp."""
    phases.training_and_sampling(rows, sides, args.quick)
    phases.bilevel_iteration(rows, sides, args.quick)
    processes.memory_peaks(rows, sides.sizes, args.threads)
    if not args.amp:
        phases.fids(rows, sides, largest=1000 if args.quick else 10000)
        processes.set_up(rows)
        processes.search_overhead(rows, args.quick)


def result_name(args) -> str:
    """The file in docs/results; each device has its own."""
    name = "compiled" if args.compile else "bench_bfloat16" if args.amp else "bench"
    return name if args.device == "cpu" else f"{name}_{args.device.partition(':')[0]}"


def main(args) -> None:
    torch.set_num_threads(args.threads)
    sides = Sides(sizes_of(args))
    rows = Rows(sides.device, args.repeats, keep_both=args.compile)
    work = {}
    if args.compile:
        phases.compiled_and_not(rows, sides)
    else:
        measure(args, rows, sides)
        work = {} if args.amp else floors.work(sides)  # the floors are those of float32
        print(json.dumps(work, indent=1))
    if not args.quick:
        write_json(result_name(args), record(args, rows.rows, work))


def record(args, rows: list[dict], work: dict) -> dict:
    """What was measured, and on what."""
    precision = "our side in bfloat16" if args.amp else "float32"
    weights = ", random weights" if args.extractor == "inception" else ""
    return {
        "command": command_line("bench"),
        "machine": f"{machine(args.device, args.threads)}, {precision}; median, least and most of "
        f"{args.repeats} measurements or more (one, where these agree), the sides in turn; the "
        f"machine's load at the end {load_average():.1f}",
        "extractor": args.extractor + weights,
        "rows": rows,
        "work": work,
    }


if __name__ == "__main__":
    main(ARGS)
