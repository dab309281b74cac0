"""Write the lists that training reads: prepare_data.py digits|folder|imagenet|cifar10|relabel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import guarded
from ppcls_lite.data.prepare.cli import run

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
