"""The user's folder: downloaded weights, choices of engines, compiled kernels.

Read next: models/weights/pretrained.py, kernels/build.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ppcls_lite.errors import UserError

VARIABLE = "PPCLS_LITE_HOME"
DEFAULT = "~/.ppcls_lite"


def home_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`$PPCLS_LITE_HOME`, where an empty value is none, or `~/.ppcls_lite`; `~` is expanded.

    Raises:
        UserError: the path begins with `~`, and nothing says where that home folder is.
    """
    wanted = environment.get(VARIABLE) or DEFAULT
    try:
        return Path(wanted).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{wanted}: {str(error).rstrip('.')}; set {VARIABLE} to a folder that can be written"
        ) from None
