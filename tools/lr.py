"""`ppcls-lite lr` from a checkout: python tools/lr.py -c configs/PPLCNet_x0_5.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["lr", *sys.argv[1:]]))
