"""`ppcls-lite explain` from a checkout: python tools/explain.py -c RUN IMAGE."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["explain", *sys.argv[1:]]))
