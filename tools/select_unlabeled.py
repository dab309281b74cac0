"""`ppcls-lite select` from a checkout: tools/select_unlabeled.py TEACHER POOL --output DIR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["select", *sys.argv[1:]]))
