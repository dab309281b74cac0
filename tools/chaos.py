"""Kill a training N times, resume, compare: python tools/chaos.py [--kills N] [--keep FOLDER]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import chaos
from ppcls_lite.cli import guarded

if __name__ == "__main__":
    sys.exit(guarded(chaos.run, sys.argv[1:]))
