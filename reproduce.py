"""Run the paper's comparison with one command: default, grid, random, Bayesian search, bilevel.

python reproduce.py --scale quick               run what is missing, evaluate it, write the results
python reproduce.py --scale cpu --dry_run       list the runs and their cost
python reproduce.py --scale quick --cell 3      run one cell of that list, for a job array
python reproduce.py --scale quick --collect     write the results of the finished runs
python reproduce.py --scale quick --report      rewrite tables and figures from the CSV file

Every cell, one method and seed, is a run below runs/reproduce/SCALE that one of the three scripts
makes; an interrupted one is resumed, and one whose rows the CSV files hold is not run again. Every
network is judged by several judges on held-out noise, with and without clipping.
"""

from common import cli
from comparison.scales import METHODS, SCALES


def make_parser() -> cli.Parser:
    parser = cli.Parser("Run the paper's comparison and write its table.")
    add = cli.adder(parser)
    text = "; ".join(f"{name}: {scale.meaning}" for name, scale in SCALES.items())
    add("scale", "quick", f"data and sizes of the comparison. {text}", choices=list(SCALES))
    text = "number of seeds, counted from 0 (default: set by --scale)"
    add("seeds", None, text, type=cli.number(int, 1, 1000))
    names = "; ".join(METHODS)
    text = (
        "run only these methods (default: those of the scale; with --collect, all); one or more "
        f"of: {names}"
    )
    add("methods", None, text, nargs="+", choices=list(METHODS), metavar="METHOD")
    text = "run only this cell, a number from the list of --dry_run; --collect writes the table"
    add("cell", None, text, type=cli.count_or_none)
    add("jobs", 1, "runs in parallel", type=cli.number(int, 1, 1024))
    text = "CPU threads of each run; 0: torch's default (default: set by --scale)"
    add("threads", None, text, type=cli.threads)
    add("device", "auto", "device of every run: auto, cpu, mps, cuda or cuda:N", type=cli.device)
    text = "folder that contains MNIST/raw or FashionMNIST/raw; what is missing is downloaded"
    add("data_dir", "data", text)
    add("runs_dir", "runs/reproduce", "folder for the runs of the comparison")
    text = "folder for the CSV file; the page and the figures are written next to it"
    add("results_dir", "docs/results", text)
    add("dry_run", False, "list the runs and their cost, then exit", action="store_true")
    text = "start no run; evaluate the finished ones and write the results"
    add("collect", False, text, action="store_true")
    text = "start no run and evaluate nothing; write table and figures from the CSV file"
    add("report", False, text, action="store_true")
    text = (
        "also run cells that the CSV file has, from other machines or earlier versions, and "
        "replace their rows; a run that lies finished in --runs_dir is judged, not run again"
    )
    add("fresh", False, text, action="store_true")
    text = "run cells once more and keep their first rows; the page says how far apart the two are"
    add("again", False, text, action="store_true")
    return parser


if __name__ == "__main__":  # before torch is imported, so that -h and a wrong flag answer at once
    ARGS = make_parser().parse_args()

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from common import estimate, figures
from common.data import Source
from common.errors import Stop, guarded
from common.locate import ROOT
from common.machine import gpus_to_share, setup
from common.processes import refuse
from common.run import forward_passes
from common.tables import counted, read_text_csv, rounded, write_csv
from comparison import pictures, report, results
from comparison.cells import Cell, Places, make_cell, make_cells
from comparison.jobs import Job
from comparison.kept import Kept, figure_path, place, read_tables, results_path
from comparison.rows import REGIMES
from comparison.running import lock_of, run_all


def main(args) -> None:
    refuse("a comparison", "--jobs")
    unset = make_parser().defaults()
    for flag in ("dry_run", "collect", "cell", "fresh", "again"):
        if args.report and getattr(args, flag) != getattr(unset, flag):
            raise Stop(f"--report and --{flag} contradict each other", code=2)
    first_path = Path(args.results_dir) / f"reproduce_{args.scale}.csv"
    path = results_path(first_path, "again" if args.again else "")
    failed = [] if args.report else make_results(args, first_path, path)
    if failed is None:
        return
    if not first_path.exists():
        raise Stop(f"{first_path}: no results yet; run without --report first", code=2)
    write_report(args.scale, first_path)
    report_missing(failed)


def make_results(args, first_path: Path, path: Path) -> Sequence[Job] | None:
    """Run what is missing and write the CSV files; returns what failed.

    None where this process has nothing to write: it plans alone, or another one judges.
    """
    places = places_of(args)
    first = make_cell(args.scale, places, "default", 0).parsed()
    images = Source.from_flags(**vars(first)).planned_images()
    cells = cells_of(args, places, images)
    if args.again:
        cells = held_alone(cells, read_tables(first_path))

    def passes(cell: Cell) -> int:
        return forward_passes(cell.cost(images))

    def kept_now() -> Kept:
        return Kept(path, every_cell(args.scale, places, path, images), cells, args.fresh)

    kept = kept_now()
    if kept.changed:
        text = f"{counted(kept.changed, 'cell')} with rows of other flags, or that began with such"
        print(f"{path} has {text}, which the next write drops")
    kept.offer_schedules(cells)
    asked = chosen(cells, args.cell)
    missing = kept.missing(asked)
    if args.dry_run:
        numbers = {place(cell): number for number, cell in enumerate(cells)}
        # what a cell of --methods begins with may be none of them, and has no number
        costs = [
            (numbers.get(place(c)), c.method, c.seed, passes(c), kept.holds(c))
            for c in missing
            if not c.done
        ]
        print_plan(args.scale, costs, first, images)
        return None
    failed: Sequence[Job] = []
    if not args.collect:
        ended = run_all(missing, args.jobs, passes, gpus_to_share(args.device))
        failed = ended.failed
        if ended.taken or args.cell is not None:
            report_missing(failed)
            known = all(map(kept.has_rows, asked))
            print(why_not_judged(len(ended.taken), path if known else None))
            return None
    with judging_alone(Path(places.runs_dir) / args.scale):
        # other processes may have added rows to the files since
        write_results(args, path, cells, kept_now())
    return failed


def print_plan(scale: str, costs: list[tuple], first, images) -> None:
    """The runs and their minutes, at the rate of a few steps with the flags of `first`."""
    device = setup(first.device, first.cpu, first.threads)
    size = first.model_base_dim, first.timesteps, first.batch_size
    rate, projected = estimate.measure(images, *size, device, first.amp).passes, None
    if SCALES[scale].for_gpu:
        projected = estimate.H100_ASSUMED / estimate.operations_of_pass(images, *size[:2])
    report.print_plan(costs, rate, torch.get_num_threads(), projected)


def every_cell(scale: str, places: Places, path: Path, images) -> list[Cell]:
    """All methods, for the seeds of the scale and those that the file has rows of."""
    rows = read_text_csv(path) if path.exists() else []
    known = {int(row["seed"]) for row in rows if row["seed"].isdecimal()}
    seeds = sorted(known | set(range(SCALES[scale].seeds)))
    return make_cells(scale, places, METHODS, seeds, images)


def held_alone(cells: list[Cell], tables: dict[str, list[dict]]) -> list[Cell]:
    """The cells that have rows and begin with no other: only these are made again."""
    held = {(row["method"], row["seed"]) for row in tables["runs"]}
    cells = [cell for cell in cells if place(cell) in held and not cell.begins_with]
    if not cells:
        text = "--again: no cell that can be made again has rows; one that needs another's run"
        raise Stop(f"{text} is not made again", code=2)
    return cells


def chosen(cells: list[Cell], number: int | None) -> list[Cell]:
    """The cell that --cell names, or all."""
    if number is None:
        return cells
    if number >= len(cells):
        raise Stop(f"--cell {number}: there are {len(cells)} cells, counted from 0", code=2)
    return [cells[number]]


def why_not_judged(taken: int, path: Path | None) -> str:
    """What a process says that leaves the judging to another; `path` has all that it was to run."""
    if path:
        return f"nothing to run: {path} has the rows; --fresh makes them anew"
    if taken:
        return f"not judged yet; cells that other processes run: {taken}"
    return "not judged yet; --collect judges the runs and writes the table"


def report_missing(failed: Sequence[Job]) -> None:
    """A Stop that names what has no result."""
    if failed:
        names = "; ".join(f"{cell.method}, seed {cell.seed}" for cell in failed)
        raise Stop(f"missing from the results: {names}; output.txt in the folder of one says why")


@contextmanager
def judging_alone(folder: Path) -> Iterator[None]:
    """Holds the lock of the results; of processes that end together, one judges."""
    lock = lock_of(folder)
    if not lock:
        raise Stop(f"{folder}: another process is writing the results", code=0)
    with lock:
        yield


def places_of(args) -> Places:
    runs_dir = f"{args.runs_dir}/again" if args.again else args.runs_dir
    return Places(args.device, args.data_dir, runs_dir, args.threads)


def cells_of(args, places: Places, images) -> list[Cell]:
    """The cells of --methods, for --seeds."""
    of_scale = not args.collect and SCALES[args.scale].rows
    methods = args.methods or of_scale or list(METHODS)
    seeds = range(args.seeds or SCALES[args.scale].seeds)
    return make_cells(args.scale, places, methods, seeds, images)


def write_results(args, path: Path, cells: list[Cell], kept: Kept) -> None:
    """A row a cell, a row a point of the curves, and the samples of one seed."""
    # with the run that it begins with at hand, whose cost is a part of its own
    done = [cell for cell in cells if cell.done and cell.ready]
    for cell in cells:
        if cell.done and not cell.ready:
            print(f"{cell.folder}: not judged, since the run that it needs is missing")
    kept.replace(done)
    if not done and not kept.places:
        folder = f"{places_of(args).runs_dir}/{args.scale}"
        raise Stop(f"no run came to its end; see {folder}/*/output.txt")
    runs, scores = results.rows_of(done)
    tables = {"": scores, "runs": runs}
    if not args.again:
        tables |= {"curves": results.curves(done), "slopes": results.slopes(done)}
        tables["null"] = results.beside_noise(done)
    for name, rows in tables.items():
        if rows := kept.merged(name, list(map(rounded, rows))):
            write_csv(results_path(path, name), rows)
        else:  # what was there is of runs that have been replaced
            results_path(path, name).unlink(missing_ok=True)
    if not args.again:
        draw_samples(figure_path(path, "samples"), done, kept)


def draw_samples(path: Path, done: list[Cell], kept: Kept) -> None:
    """The samples side by side; a figure that shows runs that are not at hand stays as it is."""
    drawn = [cell for cell in done if cell.seed == 0 and cell.method in pictures.IN_FIGURES]
    absent = [method for method in pictures.IN_FIGURES if (method, "0") in kept.places]
    if drawn and absent and path.exists():
        print(f"{path} stays as it is: the runs of {'; '.join(absent)} are not at hand")
    elif drawn:
        grids = {
            f"{cell.method}\n{REGIMES[str(clip)]}": figures.grid(results.samples_of(cell, clip))
            for cell in drawn
            for clip in results.drawn_with(cell)
        }
        figures.save_beside(path, grids, 3.2, across=figures.ACROSS)


def write_report(scale: str, path: Path) -> None:
    """The page, its figures and the README's table, from the CSV files alone."""
    tables = read_tables(path)
    for name, plot in (("curves", pictures.plot_curves), ("slopes", pictures.plot_slopes)):
        if tables[name]:
            plot(figure_path(path, name), tables[name])
        else:  # one that is there is of runs that have been replaced
            figure_path(path, name).unlink(missing_ok=True)
    if SCALES[scale].chains:
        pictures.plot_steps(figure_path(path, "steps"), tables[""])
    pictures.plot_learned(figure_path(path, "schedules"), tables["runs"])
    page = report.page_of(scale, SCALES[scale].meaning, tables, path)
    print(f"wrote {report.write_page(path, page)}")
    if path.parent.resolve() == ROOT / "docs" / "results":
        report.fill_readme(ROOT / "README.md", path.stem, tables[""], tables["again"])


if __name__ == "__main__":
    sys.exit(guarded(main, ARGS, "reproduce.py"))
