"""`ppcls-lite convert` from a checkout: python tools/convert_weights.py SOURCE TARGET."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
