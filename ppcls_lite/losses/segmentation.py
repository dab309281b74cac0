"""Cross entropy of pixels, plain, of the hardest pixels, and focal.

As in PaddleSeg, whose words the arguments have. A pixel of the class `MASK_FILL` does not count. A
mean over the labelled pixels says so in `denominator`, so that several processes and `update_freq`
give the value of the large batch. Those that choose the hardest pixels choose among the images that
one process sees at a time: their value depends on how a batch is divided.
Read before: base.py. Read next: segmentation_overlap.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import Batch, Loss
from ppcls_lite.ops.entropy import PixelEntropy
from ppcls_lite.ops.masks import MASK_FILL

Outputs = Tensor | Mapping[str, Any]


class Pixels(NamedTuple):
    """Logits (N, C, H, W) float32, classes (N, H, W) int64, and which of these count (1 or 0).

    The class is 0 where it does not count.
    """

    logits: Tensor
    classes: Tensor
    valid: Tensor


class PixelLoss(Loss):
    """A loss of logits (N, C, H, W) against the classes of the pixels, `batch["mask"]` (N, H, W).

    weight: a factor of this term in the sum of all terms. key: which output of the network, as
    `aux_0` of an auxiliary head. class_weight: how much the pixels of each class count.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        key: str = "logits",
        class_weight: list[NonNegativeFloat] | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.key = weight, key
        self._entropy = PixelEntropy()
        given = None if class_weight is None else paddle.to_tensor(class_weight, dtype="float32")
        if given is not None and not any(class_weight):
            raise UserError("class_weight: all are 0, so nothing would be learnt")
        self.register_buffer("class_weight", given, persistable=False)

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {type(self).__name__: self.weight * self.value(self.pixels(outputs, batch))}

    def value(self, pixels: Pixels) -> Tensor:
        """The loss, a scalar."""
        raise NotImplementedError

    def entropy(self, pixels: Pixels) -> Tensor:
        """-log p of each pixel's class (N, H, W), 0 where none counts."""
        return self._entropy(pixels.logits, pixels.classes) * pixels.valid

    def pixels(self, outputs: Outputs, batch: Batch) -> Pixels:
        """The pixels of a batch; UserError where network, masks and weights do not fit."""
        logits, mask = self._logits(outputs), batch["mask"]
        if list(mask.shape) != [logits.shape[0], *logits.shape[2:]]:
            raise UserError(
                f"the network gives logits {list(logits.shape)} and the masks are "
                f"{list(mask.shape)}: expected (N, classes, H, W) and (N, H, W)"
            )
        valid = mask != MASK_FILL
        classes = mask.astype("int64") * valid.astype("int64")
        largest = int(classes.max())
        if largest >= logits.shape[1]:
            raise UserError(
                f"a mask has the class {largest}, but the network gives {logits.shape[1]} classes, "
                f"from 0 on: raise Arch.class_num, or mend the masks ({MASK_FILL} does not count)"
            )
        if self.class_weight is not None and len(self.class_weight) != logits.shape[1]:
            raise UserError(
                f"class_weight: expected one number for each of the {logits.shape[1]} classes, "
                f"found {len(self.class_weight)}"
            )
        return Pixels(logits, classes, valid.astype("float32"))

    def shares(self, pixels: Pixels) -> Tensor:
        """How much each pixel counts (N, H, W): 0, or the weight of its class."""
        if self.class_weight is None:
            return pixels.valid
        return self.class_weight[pixels.classes] * pixels.valid

    def _logits(self, outputs: Outputs) -> Tensor:
        named = outputs if isinstance(outputs, Mapping) else {"logits": outputs}
        if self.key not in named:
            raise UserError(
                f"key: the network gives {', '.join(named)}, not {self.key!r}; heads that are "
                "named aux_0, aux_1, ... answer in training only, and need Arch.auxiliary"
            )
        return named[self.key].astype("float32")


class _Labelled(PixelLoss):
    """A mean over the pixels that count, each by the weight of its class."""

    divides_by = "weights"

    def denominator(self, batch: Batch) -> Tensor:
        mask = batch["mask"]
        valid = (mask != MASK_FILL).astype("float32")
        if self.class_weight is None:
            return valid.sum()
        classes = (mask.astype("float32") * valid).astype("int64")
        return (self.class_weight[classes.clip(max=len(self.class_weight) - 1)] * valid).sum()

    def mean(self, cost: Tensor, pixels: Pixels) -> Tensor:
        """The mean of the cost (N, H, W) of pixels; 0 where none counts."""
        shares = self.shares(pixels)
        return (cost * shares).sum() / shares.sum().clip(min=1e-8)


@register("loss")
class SegCELoss(_Labelled):
    """Cross entropy of pixels.

    weight, key, class_weight: see `PixelLoss`. avg_non_ignore: a mean over the pixels that count,
    each by the weight of its class; false: over all pixels. top_k_percent_pixels: less than 1 for
    the mean of that share of all pixels with the largest entropy.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        key: str = "logits",
        class_weight: list[NonNegativeFloat] | None = None,
        avg_non_ignore: bool = True,
        top_k_percent_pixels: Probability = 1.0,
    ) -> None:
        super().__init__(weight, key, class_weight)
        if top_k_percent_pixels == 0:
            raise UserError("top_k_percent_pixels: is 0, so nothing would be learnt")
        self.avg_non_ignore, self.share = avg_non_ignore, top_k_percent_pixels
        if self.share < 1 or not avg_non_ignore:
            self.divides_by = "images"

    def value(self, pixels: Pixels) -> Tensor:
        entropy = self.entropy(pixels)
        if self.share == 1 and self.avg_non_ignore:
            return self.mean(entropy, pixels)
        shares = self.shares(pixels)
        cost = entropy * shares
        if self.share == 1:
            return cost.mean()
        count = max(1, int(self.share * cost.size))
        hardest, places = paddle.topk(cost.flatten(), count)
        return hardest.sum() / shares.flatten()[places].sum().clip(min=1e-8)


@register("loss")
class OhemCrossEntropyLoss(PixelLoss):
    """Cross entropy of hard pixels: those whose class has a probability below `thresh`.

    Shrivastava et al. 2016 (arXiv 1604.03540), of pixels. At least about `min_kept` of the pixels
    that one process sees at a time are kept, all where fewer count: a recipe sets it to a share of
    batch * H * W, as a sixteenth. weight, key, class_weight: see `PixelLoss`.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        key: str = "logits",
        class_weight: list[NonNegativeFloat] | None = None,
        thresh: Probability = 0.7,
        min_kept: PositiveInt = 10000,
    ) -> None:
        super().__init__(weight, key, class_weight)
        self.thresh, self.min_kept = thresh, min_kept

    def value(self, pixels: Pixels) -> Tensor:
        entropy = self.entropy(pixels)
        with paddle.no_grad():
            sure = (-entropy).exp()  # of the class that is right
            kept = pixels.valid
            known = sure.numpy()[pixels.valid.numpy() > 0]
            if self.min_kept < len(known):
                rank = float(np.partition(known, self.min_kept - 1)[self.min_kept - 1])
                kept = kept * (sure < max(self.thresh, rank)).astype("float32")
        cost = entropy if self.class_weight is None else entropy * self.shares(pixels)
        return (cost * kept).mean() / (kept.mean() + 1e-5)


@register("loss")
class MultiClassFocalLoss(_Labelled):
    """Cross entropy in which pixels that are right already count little (arXiv 1708.02002).

    alpha (1 - p)^gamma of the entropy of each pixel. weight, key: see `PixelLoss`.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        key: str = "logits",
        alpha: PositiveFloat = 1.0,
        gamma: NonNegativeFloat = 2.0,
    ) -> None:
        super().__init__(weight, key)
        self.alpha, self.gamma = alpha, gamma

    def value(self, pixels: Pixels) -> Tensor:
        entropy = self.entropy(pixels)
        wrong = (1 - (-entropy).exp()).clip(min=0.0)
        return self.mean(self.alpha * wrong**self.gamma * entropy, pixels)
