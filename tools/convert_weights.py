"""Convert weights: python tools/convert_weights.py best_model.pdparams best_model.safetensors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite.cli import guarded
from ppcls_lite.models.weights.convert import run

if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
