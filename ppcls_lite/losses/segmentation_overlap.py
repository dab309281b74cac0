"""Losses of the overlap of regions, what the scores of a segmentation measure.

Dice is a mean over the images. The Lovász losses rank the pixels of all images that one process
sees at a time: their value depends on how a batch is divided. Read before: segmentation.py.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import NonNegativeFloat, NonNegativeInt, PositiveFloat
from ppcls_lite.errors import UserError
from ppcls_lite.losses.segmentation import PixelLoss, Pixels


@register("loss")
class DiceLoss(PixelLoss):
    """1 - Dice coefficient of each class, the mean over images and classes (arXiv 1606.04797).

    Of probabilities p and truth y, over the pixels of an image that count:
    1 - (2 sum p y + smooth) / (sum p + sum y + smooth). class_weight: factors of the classes in
    the mean. weight, key: see `PixelLoss`.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        key: str = "logits",
        class_weight: list[NonNegativeFloat] | None = None,
        smooth: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(weight, key, class_weight)
        self.smooth = smooth

    def value(self, pixels: Pixels) -> Tensor:
        found, truth = _areas(pixels)  # (N, C, H * W)
        shared = (found * truth).sum(axis=2)  # (N, C)
        both = found.sum(axis=2) + truth.sum(axis=2)
        loss = 1 - (2 * shared + self.smooth) / (both + self.smooth + 1e-8)
        loss = loss.mean(axis=0)  # (C,)
        return (loss if self.class_weight is None else loss * self.class_weight).mean()


@register("loss")
class LovaszSoftmaxLoss(PixelLoss):
    """A convex surrogate of 1 - IoU, the mean over classes (Berman et al. 2018, arXiv 1705.08790).

    classes: `present` ones, `all`, or a list. weight, key: see `PixelLoss`.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        key: str = "logits",
        classes: Literal["present", "all"] | list[NonNegativeInt] = "present",
    ) -> None:
        super().__init__(weight, key)
        if not classes:
            raise UserError("classes: the list is empty, so nothing would be learnt")
        self.classes = classes

    def value(self, pixels: Pixels) -> Tensor:
        class_num = pixels.logits.shape[1]
        listed = isinstance(self.classes, (list, tuple))
        if listed and max(self.classes) >= class_num:
            raise UserError(
                f"classes: the network gives {class_num}, from 0 on; found {max(self.classes)}"
            )
        places = paddle.nonzero(pixels.valid.flatten()).flatten()  # (P,)
        truth = pixels.classes.flatten()[places]
        chances = F.softmax(pixels.logits, axis=1).transpose([1, 0, 2, 3]).flatten(1)  # (C, NHW)
        losses = []
        for number in self.classes if listed else range(class_num):
            own = (truth == number).astype("float32")  # (P,)
            if self.classes == "present" and not bool(own.any()):
                continue
            losses.append(_ranked((own - chances[number][places]).abs(), own))
        return paddle.stack(losses).mean() if losses else pixels.logits.sum() * 0


@register("loss")
class LovaszHingeLoss(PixelLoss):
    """The Lovász hinge of a foreground against its background, two classes (arXiv 1705.08790).

    weight, key: see `PixelLoss`.
    """

    def __init__(self, weight: NonNegativeFloat = 1.0, key: str = "logits") -> None:
        super().__init__(weight, key)

    def value(self, pixels: Pixels) -> Tensor:
        if pixels.logits.shape[1] != 2:
            raise UserError(f"expected 2 classes, found {pixels.logits.shape[1]}")
        places = paddle.nonzero(pixels.valid.flatten()).flatten()  # (P,)
        own = pixels.classes.flatten()[places].astype("float32")
        score = (pixels.logits[:, 1] - pixels.logits[:, 0]).flatten()[places]
        if not len(places):
            return pixels.logits.sum() * 0
        return _ranked(F.relu(1 - score * (2 * own - 1)), own)


def _areas(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Probabilities and truth, one-hot, (N, C, H * W) each; 0 where a pixel does not count."""
    valid = pixels.valid.unsqueeze(1)  # (N, 1, H, W)
    found = F.softmax(pixels.logits, axis=1) * valid
    truth = F.one_hot(pixels.classes, pixels.logits.shape[1]).transpose([0, 3, 1, 2]) * valid
    return found.flatten(2), truth.flatten(2)


def _ranked(errors: Tensor, own: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss: errors (P,) of pixels, `own` 1 in the class."""
    with paddle.no_grad():
        order = errors.argsort(descending=True)
        inside = own[order]
        total = inside.sum()
        shared = total - inside.cumsum()
        joint = total + (1 - inside).cumsum()
        lost = 1 - shared / joint  # of the Jaccard index, if the first pixels were wrong
        steps = paddle.concat([lost[:1], lost[1:] - lost[:-1]])
    return (errors[order] * steps).sum()
