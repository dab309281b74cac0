"""`ppcls-lite suspects` from a checkout: python tools/suspects.py DATA."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["suspects", *sys.argv[1:]]))
