"""`ppcls-lite config` from a checkout: python tools/show_config.py -c FILE [-o ...] | --list."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["config", *sys.argv[1:]]))
