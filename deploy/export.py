"""`ppcls-lite export` from a checkout: python deploy/export.py -c configs/PPLCNet_x0_5.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
