"""Computed beside published costs of the networks: python tools/zoo.py ['PPLCNet*'] [--check]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import guarded
from ppcls_lite.models.zoo_table import run

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
