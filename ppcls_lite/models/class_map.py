"""Where in an image a classifier found its class: Grad-CAM.

Selvaraju et al., arXiv 1610.02391: the last feature's channels, weighted by how much the class's
logit grows with each of them on average. Where a network ends with pooling and one linear layer,
these weights are that layer's (divided by the number of places), and the map is the exact one of
Zhou et al., arXiv 1512.04150: its mean is the logit, but for the bias.
Read before: network.py (`evidence`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from ppcls_lite.errors import UserError
from ppcls_lite.models.network import Network


class ClassMaps(NamedTuple):
    """Of each image: logits (N, classes), the class (N,), and its map (N, h, w) float32.

    A map is large where the image speaks for the class, and negative where against it.
    """

    logits: np.ndarray
    classes: np.ndarray
    maps: np.ndarray


def class_maps(network: Network, images: Tensor, classes: Sequence[int] | None = None) -> ClassMaps:
    """The maps of `images` (N, 3, H, W) for `classes`, by default the best of each.

    The network is left as it is, in the mode that it is in; its own mode should be evaluation.
    Raises UserError for a network without a last feature of places, or a class that it lacks.
    """
    with paddle.no_grad():
        found = network.evidence(images)
    if found is None or found[0].ndim != 4:
        raise UserError(
            f"{type(network).__name__}: has no map to show: only networks that make the logits of "
            "classes from a last feature (N, C, h, w) have one"
        )
    feature, head = found
    feature = feature.detach()
    feature.stop_gradient = False
    logits = head(feature)  # (N, classes)
    count = logits.shape[1]
    chosen = logits.argmax(axis=1).numpy() if classes is None else np.asarray(classes)
    if len(chosen) != len(logits) or (chosen < 0).any() or (chosen >= count).any():
        raise UserError(f"class {chosen.tolist()}: the network has the classes 0 to {count - 1}")
    rows = paddle.nn.functional.one_hot(paddle.to_tensor(chosen.astype(np.int64)), count)
    (gradient,) = paddle.grad((logits * rows).sum(), feature)
    weights = gradient.sum(axis=[2, 3], keepdim=True)  # (N, C, 1, 1)
    maps = (weights * feature).sum(axis=1)  # (N, h, w)
    return ClassMaps(logits.numpy(), chosen, maps.numpy().astype(np.float32))
