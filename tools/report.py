"""`ppcls-lite report` from a checkout: python tools/report.py output/digits/PPLCNet_x0_25."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
