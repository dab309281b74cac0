"""`ppcls-lite benchmark` from a checkout: python deploy/benchmark.py --model DIR | --arch NAME."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
