"""Networks that OpenVINO has compiled, kept in the user's folder: the next start takes them.

A name is made of all that a compiled network depends on: the ONNX file's bytes, the input's shape,
the settings, OpenVINO's version and the processor's features, so that nothing has to be declared
out of date. Files carry a check sum and are written whole, also by several processes at once. The
oldest go when they take more than `LIMIT` bytes together. A folder that cannot be written, or that
others may write, costs only time, and deleting it is safe.
Read before: openvino_engine.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import make_own, write_bytes
from ppcls_lite.system.home import home_folder
from ppcls_lite.system.machine import cpu_identity

LIMIT = 512 * 2**20  # bytes of all files together
_SUFFIX = ".blob"
_DIGEST = hashlib.sha256().digest_size

logger = logging.getLogger("ppcls_lite")


class CompiledCache:
    """Reads and writes compiled networks of one OpenVINO version in `folder`."""

    def __init__(self, version: str, folder: Path | None = None) -> None:
        self._version = version
        self._given = folder

    def path(self, model: Path, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Path | None:
        """Where that network belongs; `None` if there is no folder to trust."""
        try:
            folder = self._given or home_folder() / "openvino"
            make_own(folder)
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
        except (OSError, UserError) as error:
            logger.info("OpenVINO: the compiled network is not kept: %s", error)
            return None
        parts = [digest, list(shape), dict(settings), self._version, cpu_identity()]
        name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        return folder / f"{name}{_SUFFIX}"

    def read(self, path: Path) -> bytes | None:
        """The compiled network there; `None` if there is none, or it is damaged."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, blob = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(blob).digest() != digest:
            logger.info("OpenVINO: %s is damaged and made anew", path)
            return None
        with contextlib.suppress(OSError):
            path.touch()  # the latest use, by which the oldest are found
        return blob

    def write(self, path: Path, blob: bytes) -> None:
        """Keep a compiled network, as a whole or not at all."""
        try:
            write_bytes(path, hashlib.sha256(blob).digest() + blob)
            self._make_room(path)
        except (OSError, UserError) as error:
            logger.info("OpenVINO: the compiled network is not kept: %s", error)

    def _make_room(self, newest: Path) -> None:
        left = LIMIT
        files = [(file.stat(), file) for file in newest.parent.glob(f"*{_SUFFIX}")]
        for state, file in sorted(files, key=lambda item: item[0].st_mtime, reverse=True):
            left -= state.st_size
            if left < 0 and file != newest:
                file.unlink(missing_ok=True)
