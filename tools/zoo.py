"""`ppcls-lite zoo` from a checkout: python tools/zoo.py ['PPLCNet*'] [--check]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["zoo", *sys.argv[1:]]))
