"""safetensors files: named arrays that need no unpickler. Read next: load.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_bytes
from ppcls_lite.system.installed import require

SUFFIX = ".safetensors"


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Key -> array of a safetensors file. `UserError` when it is missing or not of that format."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    require("safetensors")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path} could not be read as safetensors: {error}") from None


def write_safetensors(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a safetensors file, whole or not at all."""
    require("safetensors")
    from safetensors.numpy import save

    write_bytes(path, save({k: np.ascontiguousarray(v) for k, v in state.items()}))
