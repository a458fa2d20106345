"""The faults campaign; its runs are those of the tests, with a network of two layers."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
