"""The maps of class_map.py for all classes by forward runs alone, as an exported program has them.

Grad-CAM weighs a feature's channels by the logit's mean gradient, so that the map at a place is how
fast the logit grows when that place's vector is added everywhere: a directional derivative, here a
central difference. It is exact where the head is pooling and one linear layer, and where it is
quadratic in between (hard-swish); every engine can run it. Read before: class_map.py.
"""

from __future__ import annotations

from collections.abc import Callable

from paddle import Tensor

_STEP = 1 / 64  # of a place's own vector: smaller ones drown in the rounding of the logits


def maps_of(feature: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """A last feature (N, C, h, w) and what makes logits of it -> maps (N, classes, h, w)."""
    _, channels, height, width = feature.shape
    vectors = feature.flatten(2).transpose([0, 2, 1])  # (N, h * w, C)
    added = vectors.reshape([-1, height * width, channels, 1, 1]) * _STEP
    whole = feature.unsqueeze(1)  # (N, 1, C, h, w)
    same = [-1, channels, height, width]
    more, less = (head(moved.reshape(same)) for moved in (whole + added, whole - added))
    rise = (more - less) / (2 * _STEP)  # (N * h * w, classes)
    classes = rise.shape[1]
    rise = rise.reshape([-1, height * width, classes]).transpose([0, 2, 1])
    return rise.reshape([-1, classes, height, width])
