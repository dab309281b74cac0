"""The notebook runs: its cells one after the other, as plain code, with one epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "digits.ipynb"


def test_the_cells_run_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells)  # they would be somebody's
    code = "\n\n".join("".join(cell["source"]) for cell in cells)
    assert code.count("EPOCHS = 8") == 1
    (tmp_path / "cells.py").write_text(code.replace("EPOCHS = 8", "EPOCHS = 1"))
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "macro F1" in done.stdout
