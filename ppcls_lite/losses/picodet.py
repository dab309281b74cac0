"""PicoDet's loss: an assigner says what each place should see, three terms how far it is off.

Read before: detection.py, assigners.py, ../models/picodet.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import paddle
from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import AssignerSpec, NonNegativeFloat, NonNegativeInt, PositiveInt
from ppcls_lite.losses.base import Batch, Loss, Ratio
from ppcls_lite.losses.detection import (
    distribution_focal,
    giou_loss,
    varifocal,
    varifocal_background,
)
from ppcls_lite.ops.assigners import Assignment, background
from ppcls_lite.ops.boxes import distances

logger = logging.getLogger("ppcls_lite")


@register("loss")
class PicoDetLoss(Loss):
    """Varifocal loss of the scores, GIoU loss of the boxes, distribution focal loss of their sides.

    The boxes of the images are `batch["boxes"]` (N, G, 4) and `batch["classes"]` (N, G), -1 in rows
    without one; an image may have none. Each sum is divided by that of what the assigner says the
    places count (never by less than 1), over the images of all ranks; with `update_freq`, over
    those of each part.

    Args:
        assigner: which places learn which boxes.
        static_assigner: another one for the first `static_assigner_epoch` epochs, which does not
            depend on what the network has learnt.
        static_assigner_epoch: at most half of the run: else a short run would never come to the
            other one.
        vfl_weight, giou_weight, dfl_weight: of the terms `loss_vfl`, `loss_bbox` and `loss_dfl`.
        epochs: of the run.
    """

    divides_by = "outputs"

    def __init__(
        self,
        assigner: AssignerSpec,
        static_assigner: AssignerSpec | None = None,
        static_assigner_epoch: NonNegativeInt = 100,
        vfl_weight: NonNegativeFloat = 1.0,
        giou_weight: NonNegativeFloat = 2.0,
        dfl_weight: NonNegativeFloat = 0.25,
        epochs: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.assigner, self.static_assigner = assigner, static_assigner
        self.weights = (vfl_weight, giou_weight, dfl_weight)
        self.first_epochs = 0
        if static_assigner is not None:
            self.first_epochs = static_assigner_epoch
            if epochs is not None and static_assigner_epoch > epochs // 2:
                self.first_epochs = epochs // 2
                logger.info(
                    f"static_assigner_epoch {static_assigner_epoch} is cut to {epochs // 2}, half "
                    f"of this run: {type(assigner).__name__} assigns after it"
                )
        self.epoch: int | None = None

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Ratio]:
        """The terms, of what a PicoDet says (models/picodet.py) of the batch's images."""
        truth, classes = self._truth(batch)
        with paddle.no_grad():
            assigned = self._assigned(outputs, truth, classes)
        places = (assigned.row >= 0).nonzero()  # (P, 2): image, place
        scores = self._scores(outputs, assigned, classes, places)
        boxes, sides = self._boxes(outputs, assigned, truth, places)
        vfl, giou, dfl = self.weights
        by_box = assigned.weight.sum()
        return {
            "loss_vfl": Ratio(vfl * scores, assigned.count.sum()),
            "loss_bbox": Ratio(giou * boxes, by_box),
            "loss_dfl": Ratio(dfl * sides, by_box),
        }

    def _truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Boxes (N, G, 4) and classes (N, G), without the rows that no image fills."""
        classes = batch["classes"].astype("int64")
        filled = (classes >= 0).any(axis=0).numpy().nonzero()[0]
        rows = int(filled.max(initial=-1)) + 1
        return batch["boxes"][:, :rows].astype("float32"), classes[:, :rows]

    def _assigned(
        self, outputs: Mapping[str, Tensor], truth: Tensor, classes: Tensor
    ) -> Assignment:
        scores, boxes = (outputs[name].detach().astype("float32") for name in ("scores", "boxes"))
        if truth.shape[1] == 0:
            return background(scores)
        first = self.epoch is not None and self.epoch <= self.first_epochs
        assign = self.static_assigner if first else self.assigner
        return assign(scores, boxes, outputs["places"][0], truth, classes)

    def _scores(
        self,
        outputs: Mapping[str, Tensor],
        assigned: Assignment,
        classes: Tensor,
        places: Tensor,
    ) -> Tensor:
        """The sum of the varifocal loss: as if all were background, and at P places the truth."""
        names = ("scores", "logits") if "logits" in outputs else ("scores",)
        all_of = [outputs[name].astype("float32") for name in names]
        total = varifocal_background(*all_of).sum()
        if len(places) == 0:
            return total
        image, place = places[:, 0], places[:, 1]
        row = assigned.row.gather_nd(places)
        kind = classes.gather_nd(paddle.stack([image, row], axis=1))
        own = paddle.stack([image, kind, place], axis=1)
        found, *logit = (values.gather_nd(own) for values in all_of)  # (P,)
        quality = assigned.quality.gather_nd(places)
        right = varifocal(found, quality, *logit) - varifocal_background(found, *logit)
        return total + right.sum()

    def _boxes(
        self, outputs: Mapping[str, Tensor], assigned: Assignment, truth: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sums of GIoU and distribution focal loss over P places."""
        sides = outputs["sides"].astype("float32")  # (N, 4, bins, L)
        if len(places) == 0:
            nothing = sides.sum() * 0.0  # all ranks have the same gradients, these are 0
            return nothing, nothing
        row = assigned.row.gather_nd(places)
        weight = assigned.weight.gather_nd(places)
        wanted = truth.gather_nd(paddle.stack([places[:, 0], row], axis=1))  # (P, 4)
        where = outputs["places"].gather_nd(places)  # (P, 3)
        points, stride = where[:, :2], where[:, 2:]
        found = outputs["boxes"].astype("float32").gather_nd(places)
        apart = (weight * giou_loss(found / stride, wanted / stride)).sum()
        farthest = sides.shape[2] - 1 - 0.1
        target = (distances(points, wanted) / stride).clip(0, farthest)  # (P, 4)
        chances = sides.transpose([0, 3, 1, 2]).gather_nd(places)  # (P, 4, bins)
        spread = distribution_focal(chances, target).mean(axis=1)
        return apart, (weight * spread).sum()
