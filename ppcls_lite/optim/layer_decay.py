"""Rates that fall from the classifier to the stem (`Optimizer.layer_decay`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ppcls_lite.errors import UserError

if TYPE_CHECKING:
    from paddle import nn


def decay_rates(decay: float, layers: Iterable[nn.Layer]) -> None:
    """Multiply a parameter's rate by `decay` once for each stage from its own to the last.

    So what follows the stages (a head, a decoder) learns at the whole rate, the last stage at
    `decay` times it, and the stem, which belongs to the first stage, most slowly: the layer-wise
    decay of fine-tuning (Clark et al. 2020, arXiv 2003.10555; Bao et al. 2021, arXiv 2106.08254)
    with a network's stages as its layers. Raises UserError where no network has stages.
    """
    found = False
    for layer in layers:
        below = levels(layer)
        found |= any(below.values())
        for name, parameter in layer.named_parameters():
            parameter.optimize_attr["learning_rate"] *= decay ** below[name]
    if not found:
        raise UserError(
            "layer_decay: the network has no stages, along which rates could fall; use lr_mult"
        )


def levels(layer: nn.Layer) -> dict[str, int]:
    """How many stages end at or after each parameter, by its name."""
    below = dict.fromkeys([name for name, _ in layer.named_parameters()], 0)
    for prefix, trunk in layer.named_sublayers(include_self=True):
        stages = getattr(trunk, "stage_names", ())
        if not stages:
            continue
        names = [name for name, _ in trunk.named_parameters()]  # in the order of the layers
        paths = [stage.replace("[", ".").replace("]", "") + "." for stage in stages]
        ends = [max(i for i, name in enumerate(names) if name.startswith(p)) for p in paths]
        for i, name in enumerate(names):
            below[f"{prefix}.{name}" if prefix else name] = sum(end >= i for end in ends)
    return below
