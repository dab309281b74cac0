"""`ppcls-lite predict` from a checkout: python deploy/predict.py --model DIR --input PATH."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
