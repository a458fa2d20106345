"""Does a test notice when a protection is gone? python tests/sabotage.py

Each removal is applied to a copy of the code, and the tests that should fail are run there. What is
listed as a survivor has no test. `--only lock` tries those whose name contains a text. The results
are kept in docs/results/sabotage.json: what is recorded there is not tried again, unless its entry
in removals.py has changed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

from removals import ROOT, Removal, removals

sys.path.insert(0, str(ROOT))

from benchmarks.record import machine, read_json, write_json
from common import cli
from common.provenance import commit

FILE = "sabotage"  # docs/results/sabotage.json


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


def tried(removal: Removal, copy: Path) -> dict:
    """Whether the tests fail without the protection, and which; or what pytest says."""
    path = copy / removal.file
    whole, began = path.read_text(), time.monotonic()
    path.write_text(whole.replace(removal.old, removal.new))
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-x", "-p", "no:cacheprovider"]
    data = os.environ.get("MNIST_DIR", str(ROOT.parent / "shared" / "datasets"))
    environment = {**os.environ, "MNIST_DIR": data, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *removal.tests.split()], cwd=copy, env=environment, capture_output=True,
            text=True, timeout=removal.seconds,
        )  # fmt: skip
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        # 1: a test failed; 0: none did; anything else: none was run
        noticed = done.returncode == 1
        by = failed[0] if noticed else (done.stdout + done.stderr).strip()[-200:]
    except subprocess.TimeoutExpired:
        noticed, by = True, f"{removal.tests}, which hangs"
    finally:
        path.write_text(whole)
    return {"noticed": noticed, "by": by, "seconds": round(time.monotonic() - began, 1)}


def known(record: dict, removal: Removal) -> bool:
    """Whether this removal was tried as it is written today, and noticed."""
    result = record["removals"].get(removal.name, {})
    return result.get("noticed", False) and result["entry"] == list(astuple(removal)[1:5])


def counts(record: dict) -> tuple[int, int]:
    """How many of the removals are noticed, and how many were tried."""
    results = [record["removals"][r.name] for r in removals() if r.name in record["removals"]]
    return sum(result["noticed"] for result in results), len(results)


def try_all(chosen: list[Removal], record: dict, jobs: int) -> None:
    """Each in one of the copies; the record is written after each."""
    writing = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copies = [Path(folder) / str(i) for i in range(jobs)]
        for copy in copies:
            copy_to(copy)

        def work(i: int) -> None:
            for removal in chosen[i::jobs]:
                result = tried(removal, copies[i])
                result |= {"commit": commit(), "entry": list(astuple(removal)[1:5])}
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
