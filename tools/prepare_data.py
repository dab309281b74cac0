"""`ppcls-lite prepare` from a checkout: python tools/prepare_data.py digits | folder DIR | ...."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
