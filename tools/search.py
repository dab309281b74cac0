"""`ppcls-lite search` from a checkout: python tools/search.py -c RECIPE --latency 1.5ms."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
