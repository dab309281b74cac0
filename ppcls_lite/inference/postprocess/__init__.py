"""From a network's outputs to answers: base.py (the contract), classify.py, attributes.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.config.check import build
from ppcls_lite.config.registry import entries
from ppcls_lite.errors import UserError
from ppcls_lite.inference.postprocess.base import Postprocess


def build_postprocess(
    node: dict[str, Any], topk: int | None = None, plugins: Sequence[str | Path] = ()
) -> Postprocess:
    """Build `{name: {arguments}}`; `topk` replaces the argument of that name.

    It may come from one of the files `plugins`.

    Raises:
        UserError: a mistake in `node`, or `topk` for a post-processing without that argument.
    """
    ((name, arguments),) = node.items()
    entry = entries(plugins).get(("postprocess", name))
    if topk is not None and entry is not None:
        if "topk" not in {argument.name for argument in entry.arguments}:
            raise UserError(f"topk: the post-processing is {name}, which has no such number")
        arguments = {**arguments, "topk": topk}
    return build({name: arguments}, "postprocess", plugins)
