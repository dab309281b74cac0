"""Does distillation help? python tools/prove_ssld.py --data dataset/cifar10 (see --help)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.ssld.prove import run
from ppcls_lite.cli import guarded

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
