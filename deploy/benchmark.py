"""`ppcls-lite benchmark`, and `--paper`: python deploy/benchmark.py --model DIR | --arch NAME."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.latency.paper import run
from ppcls_lite.cli import guarded

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
