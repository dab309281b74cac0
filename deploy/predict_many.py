"""`ppcls-lite predict-many` from a checkout: deploy/predict_many.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict-many", *sys.argv[1:]]))
