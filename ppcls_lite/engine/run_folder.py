"""The folder of one run: prepared before anything expensive, with what is needed to repeat it.

Holds config.yaml, versions.json, train.log, metrics.jsonl, checkpoints, pictures and, if wanted,
VisualDL's records. Read next: checkpoint.py, record.py.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_text
from ppcls_lite.system.machine import cpu_model, installed_versions, usable_cores
from ppcls_lite.system.processes import ROOT

PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "opencv-python-headless", "opencv-python")


def prepare(run_dir: str | Path) -> Path:
    """Make the folder and write a file into it as a trial; `UserError` if that cannot be done."""
    run_dir = Path(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir, prefix=".trial"):
            pass
    except OSError as error:
        raise UserError(
            f"the run folder {run_dir} cannot be written: {error.strerror or error}. "
            "Choose another with -o Global.output_dir=PATH, or free space and check its rights."
        ) from None
    return run_dir


def write_config(run_dir: Path, text: str) -> Path:
    """Keep the resolved configuration (YAML text) as config.yaml."""
    path = run_dir / "config.yaml"
    write_text(path, text)
    return path


def write_versions(run_dir: Path) -> Path:
    """Keep what the result may depend on as versions.json (see `versions`)."""
    path = run_dir / "versions.json"
    write_text(path, json.dumps(versions(), indent=2) + "\n")
    return path


def versions() -> dict[str, str]:
    """Versions of this package, Python, Paddle, numpy and OpenCV; processor; commit of the code."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    found |= installed_versions(("ppcls-lite", *PACKAGES))
    found["processor"] = cpu_model()
    found["cores"] = str(usable_cores())
    commit = _commit()
    if commit:
        found["commit"] = commit
    found["command"] = " ".join(sys.argv)
    return found


def _commit() -> str | None:
    """The checkout's commit, with `+changes` if it was edited; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        git = [*("git", "-C", str(ROOT)), "-c", "core.fsmonitor=false"]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        edits = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:  # no git on this machine
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if edits.stdout.strip() else "")
