"""`ppcls-lite runs` from a checkout: python tools/runs.py [FOLDER] [--json | --csv]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["runs", *sys.argv[1:]]))
