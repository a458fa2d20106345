"""The notebook's cells run from top to bottom, without Jupyter, and say what the files say."""

import json
import os
import re
import shutil
import subprocess
import sys

from conftest import ROOT

TOUR = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in TOUR["cells"] if cell["cell_type"] == "code"]


def test_the_tour_runs_in_a_fresh_folder(tmp_path):
    """In a copy of what it reads, with one epoch, from docs/ as Jupyter starts it."""
    for name in ("common", "search", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in ROOT.glob("*.py"):
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "docs").mkdir()
    code = "\n".join(CELLS).replace("--epochs 4", "--epochs 1 --limit_batches 2")
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "docs", env=environment,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: epochs 1") == 2
    tables = re.findall(r"^ *(\d+)  [\d.]+  [\d.]+$", done.stdout, re.MULTILINE)
    assert tables == ["100", "80", "60", "40", "20", "0"] * 2
    runs = sorted(path.name for path in (tmp_path / "runs" / "tour").iterdir())
    assert runs == ["00000-train-seed0", "00001-train-seed0"]


def test_the_tour_was_run_and_its_pictures_are_there():
    outputs = [out for cell in TOUR["cells"] for out in cell.get("outputs", ())]
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 3 and not any(out["output_type"] == "error" for out in outputs)
    counts = [c["execution_count"] for c in TOUR["cells"] if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert (ROOT / "docs" / "tour.ipynb").stat().st_size < 600_000
