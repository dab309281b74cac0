"""Choose images of a pool without labels: select_unlabeled.py TEACHER POOL --output DIR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import guarded
from ppcls_lite.distill.selection import run

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
