"""Does a test notice when a protection is gone? python tests/sabotage.py

Each removal is applied to a copy of the code, and the tests that should fail are run there. What is
listed as a survivor has no test. `--only lock` tries those whose name contains a text. The results
are kept in docs/results/sabotage.json: what is recorded there is not tried again, unless its entry
in removals.py has changed.
"""

import hashlib
import importlib
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import pytest
from removals import ROOT, Removal, removals

sys.path.insert(0, str(ROOT))

from benchmarks.record import machine, read_json, write_json
from common import cli
from common.provenance import commit

FILE = "sabotage"  # docs/results/sabotage.json
PATIENCE = {True: 90, False: 1800}  # seconds, whether tests hang without the protection
FORK = multiprocessing.get_context("fork")
# imported once: the processes of the tests are forked with them, and import only the copy's modules
LIBRARIES = ["torch", "torchvision.utils", "matplotlib.pyplot", "skopt", "sklearn", "hypothesis"]


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__.splitlines()[0])
    parser.prog = "python tests/sabotage.py"
    add = cli.adder(parser)
    add("only", None, "removals whose name contains one of these", nargs="+")
    add("jobs", 1, "copies at work at the same time", type=cli.number(int, 1, 64))
    add("fresh", False, "try again what is recorded", action="store_true")
    add("dry_run", False, "list the removals, then exit", action="store_true")
    return parser


def copy_to(folder: Path) -> None:
    """The code with its tests, and the data where the tests look for them."""
    ignored = shutil.ignore_patterns("runs", "__pycache__", ".*_cache", "cache", ".venv", ".git")
    shutil.copytree(ROOT, folder, ignore=ignored, symlinks=True)


def forget_this_checkout(copy: Path) -> None:
    """What is imported next is the copy's."""
    inside = lambda path: Path(path or ".").resolve().is_relative_to(ROOT)  # noqa: E731
    for name, module in list(sys.modules.items()):
        if name != "__main__" and inside(getattr(module, "__file__", None) or "/"):
            del sys.modules[name]
    sys.path[:] = [str(copy), *(path for path in sys.path if not inside(path))]
    os.chdir(copy)


def run_tests(copy: Path, tests: str, output: Path) -> None:
    """In a process of its own, in the copy; its exit code is pytest's."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.setdefault("MNIST_DIR", str(ROOT.parent / "shared" / "datasets"))
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    forget_this_checkout(copy)
    code = pytest.main(["-q", "-n0", "-x", "-p", "no:cacheprovider", *shlex.split(tests)])
    sys.stdout.flush()
    os._exit(code)


def tried(removal: Removal, copy: Path) -> dict:
    """Whether the tests fail without the protection, and which; or what pytest says."""
    path, output = copy / removal.file, copy.with_suffix(".txt")
    whole, began = path.read_text(), time.monotonic()
    path.write_text(whole.replace(removal.old, removal.new))
    output.write_text("")
    process = FORK.Process(target=run_tests, args=(copy, removal.tests, output))
    process.start()
    process.join(PATIENCE[removal.hangs])
    late = process.is_alive()
    with suppress(ProcessLookupError):  # with whatever the tests have started
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    path.write_text(whole)
    said = output.read_text()
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    if late:  # where no end is expected, that is what notices; else it is no verdict
        noticed, by = removal.hangs, f"{removal.tests}: no end in {PATIENCE[removal.hangs]} s"
    else:  # 1: a test failed; 0: none did; anything else: none was run
        noticed, by = process.exitcode == 1, failed[0] if failed else said[-200:]
    return {"noticed": noticed, "by": by, "seconds": round(time.monotonic() - began, 1)}


def entry_of(removal: Removal) -> str:
    """What was tried, in a few letters: another text or other tests are another removal."""
    return hashlib.sha256(repr(astuple(removal)[1:5]).encode()).hexdigest()[:12]


def known(record: dict, removal: Removal) -> bool:
    """Whether this removal was tried as it is written today, and noticed."""
    result = record["removals"].get(removal.name, {})
    return result.get("noticed", False) and result["entry"] == entry_of(removal)


def try_all(chosen: list[Removal], record: dict, jobs: int) -> None:
    """Each in one of the copies; the record is written after each."""
    writing = threading.Lock()
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copies = [Path(folder) / str(i) for i in range(jobs)]
        for copy in copies:
            copy_to(copy)

        def work(i: int) -> None:
            for removal in chosen[i::jobs]:
                result = tried(removal, copies[i])
                result |= {"commit": commit(), "entry": entry_of(removal)}
                with writing:
                    record["removals"][removal.name] = result
                    write_json(FILE, record)
                    verdict = "noticed" if result["noticed"] else f"SURVIVES ({result['by']})"
                    print(f"{removal.name}: {verdict}", flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(work, range(jobs)))


def main(args) -> int:
    chosen = [r for r in removals() if not args.only or any(t in r.name for t in args.only)]
    if args.dry_run:
        for removal in chosen:
            print(f"{removal.name}: {removal.file}; {removal.tests}")
        return 0
    record = read_json(FILE) or {"removals": {}}
    record = {"command": "python tests/sabotage.py", "machine": machine(), **record}
    names = {removal.name for removal in removals()}
    record["removals"] = {k: v for k, v in record["removals"].items() if k in names}
    new = [removal for removal in chosen if args.fresh or not known(record, removal)]
    try_all(new, record, args.jobs)
    survivors = [r.name for r in chosen if not record["removals"][r.name]["noticed"]]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed")
    for name in survivors:
        print(f"no test notices: {name}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(make_parser().parse_args()))
