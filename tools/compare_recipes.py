"""Does a modern recipe lift the same network? python tools/compare_recipes.py (see --help)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.recipes.compare import run
from ppcls_lite.cli import guarded

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
