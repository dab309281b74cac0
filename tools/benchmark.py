"""Measurements that anyone can repeat: python tools/benchmark.py SUBJECT [options]."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import guarded

SUBJECTS = (
    *("data", "predict", "train", "segmentation", "detection", "distill", "teacher", "duplicates"),
    *("table", "networks", "roofline", "dtypes", "start"),
)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SUBJECTS:
        print(f"usage: python tools/benchmark.py {'|'.join(SUBJECTS)} [--help]", file=sys.stderr)
        sys.exit(2)
    bench = importlib.import_module(f"experiments.speed.{sys.argv[1]}")
    sys.exit(guarded(bench.run, sys.argv[2:]))
