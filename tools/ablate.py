"""The paper's ablations on your data: python tools/ablate.py --table 6 --data DIR --epochs 20."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.ablation.ablate import run
from ppcls_lite.cli import guarded

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
