"""`ppcls-lite fit` from a checkout: python tools/fit.py PHOTOS."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
