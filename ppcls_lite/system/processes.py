"""What the benchmarks' child processes need to run this very package, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])


def environment(base: Mapping[str, str] = os.environ, **changes: str) -> dict[str, str]:
    """`base` with `changes`, and with this package first on the module path."""
    paths = [ROOT, base.get("PYTHONPATH", "")]
    return {**base, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}
