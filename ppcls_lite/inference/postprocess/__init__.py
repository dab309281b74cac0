"""From a network's outputs to answers: base.py (the contract), classify.py, attributes.py."""

from __future__ import annotations

from ppcls_lite.config.check import build
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.registry import entries
from ppcls_lite.errors import UserError
from ppcls_lite.inference.postprocess.base import Postprocess
from ppcls_lite.inference.spec import InferenceSpec


def build_postprocess(spec: InferenceSpec, topk: int | None = None) -> Postprocess:
    """The post-processing of an exported folder; `topk` replaces its argument of that name.

    Raises UserError for a mistake in the file, or a post-processing without that argument.
    """
    name, arguments = take_apart(spec.postprocess)
    entry = entries(spec.plugins).get(("postprocess", name))
    if topk is not None and entry is not None:
        if "topk" not in {argument.name for argument in entry.arguments}:
            raise UserError(f"topk: the post-processing is {name}, which has no such number")
        arguments = {**arguments, "topk": topk}
    return build({name: arguments}, "postprocess", spec.plugins)
