"""`ppcls-lite tune` from a checkout: python tools/tune.py -c FILE --try KEY=A,B."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
