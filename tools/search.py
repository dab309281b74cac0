"""`python tools/search.py -c RECIPE --latency MS`: `ppcls-lite search` from a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
