"""The folder of one run: tried before anything expensive, owned by one process, never overwritten.

Holds config.yaml, versions.json, train.log, metrics.jsonl, checkpoints, pictures and, if wanted,
VisualDL's records. Read next: checkpoint.py, record.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.run_list import OWN, lock_of
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import free_name, move, try_lock, write_text
from ppcls_lite.system.machine import cpu_model, installed_versions, usable_cores
from ppcls_lite.system.processes import ROOT

logger = logging.getLogger("ppcls_lite")

PATIENCE = 5.0  # seconds
PACKAGES = (
    "ppcls-lite",
    "paddlepaddle",
    "paddlepaddle-gpu",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
)


OPTION = "-o Global.output_dir=PATH"  # what chooses another folder


def prepare(run_dir: str | Path, option: str = OPTION) -> Path:
    """Make the folder and write a file into it as a trial; `UserError` if that cannot be done."""
    run_dir = Path(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir, prefix=".trial"):
            pass
    except OSError as error:
        raise UserError(
            f"the folder {run_dir} cannot be written: {error.strerror or error}. "
            f"Choose another with {option}, or free space and check its rights."
        ) from None
    return run_dir


@contextlib.contextmanager
def owned(run_dir: Path, what: str = "a training", option: str = OPTION) -> Iterator[None]:
    """While the block runs, no other process can own this folder, which `what` writes in.

    The lock is a file beside the folder, which stays when the folder is moved; it ends with the
    process. One that has just been killed gets `PATIENCE` seconds to be gone.

    Raises:
        UserError: another process owns it (which one is in the message), or it cannot be locked.
    """
    path = lock_of(run_dir)
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}") from None
    with os.fdopen(number, "r+", encoding="utf-8", errors="replace") as file:
        end = time.monotonic() + PATIENCE
        while not try_lock(file):
            if time.monotonic() > end:
                raise UserError(
                    f"the folder {run_dir} belongs to {what} that is running: "
                    f"{file.read().strip() or 'a process that gave no name'}. Wait until it ends, "
                    f"end it, or choose another folder with {option}"
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, {shlex.join(sys.argv)}\n")
        file.flush()
        OWN.add(path.resolve())
        try:
            yield
        finally:
            OWN.discard(path.resolve())


def claimed(
    folder: Path, what: str, option: str = OPTION
) -> contextlib.AbstractContextManager[None]:
    """Make the folder, as `prepare` does, and let nobody else own it within the block."""
    return owned(prepare(folder, option), what, option)


def holds_run(run_dir: Path) -> bool:
    """Whether there are checkpoints of an earlier run."""
    return any(run_dir.glob("*.pdstate")) or any(run_dir.glob("*.pdparams"))


def require_free(run_dir: Path, if_exists: str) -> None:
    """Raise `UserError` if there is an earlier run and `if_exists` says that this is an error."""
    if if_exists == "error" and holds_run(run_dir):
        raise UserError(
            f"{run_dir} holds an earlier run, and Global.if_exists is error. Resume it with "
            "-o Global.checkpoints=auto, choose another Global.output_dir, or keep it beside the "
            "new one with -o Global.if_exists=keep"
        )


def make_room(run_dir: Path, if_exists: str) -> None:
    """Let a new run begin in `run_dir`: an earlier one there goes where `if_exists` says.

    keep: to `NAME.run-N`, the later the higher N. replace: its checkpoints and records are deleted.
    error: a `UserError`.
    """
    require_free(run_dir, if_exists)
    if not holds_run(run_dir):
        return
    if if_exists == "replace":
        logger.warning(f"The earlier run in {run_dir} is replaced (Global.if_exists)")
        for path in [*run_dir.glob("*.pdstate"), *run_dir.glob("*.pdparams")]:
            checkpoint.remove(path.with_suffix(""))
        return
    place = run_dir.resolve()  # a link goes on naming the newest run
    kept = free_name(place, "run")
    try:
        move(place, kept)
        place.mkdir()
    except OSError as error:
        raise UserError(
            f"the earlier run in {run_dir} cannot be moved to {kept.name}: "
            f"{error.strerror or error}. Move it yourself, choose another Global.output_dir, or "
            "give it up with -o Global.if_exists=replace"
        ) from None
    logger.warning(f"The earlier run in {run_dir} is now in {kept} (Global.if_exists)")


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
    found |= installed_versions(PACKAGES)
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
