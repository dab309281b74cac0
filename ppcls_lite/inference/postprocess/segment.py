"""A class for each pixel to answers: a map in the photograph's own pixels, and what it covers.

The exported program gives the classes themselves, (N, H, W) int32, or on request their
probabilities, or logits that are enlarged here. Read before: base.py.
Read next: run_lengths.py, ../../ops/placing.py, ../../ops/enlarging.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import cv2
import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Level, Probability
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.transforms.geometry import MASK_FILL, Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import Agreement, relative_difference
from ppcls_lite.inference.postprocess.base import Column, Postprocess, Result
from ppcls_lite.inference.postprocess.run_lengths import decode_map, encode_map, palette_png
from ppcls_lite.inference.spec import OutputKind, Outputs
from ppcls_lite.ops.enlarging import enlarged_classes
from ppcls_lite.ops.palettes import colours_of
from ppcls_lite.ops.placing import Way, classes_in_photograph, scores_in_photograph
from ppcls_lite.system.fonts import put_edged_text, text_size

_ROUNDING = 1e-4  # share of an image's pixels that may get another class by rounding, at a tie
_MOST = 255  # classes: a mask's pixels have 8 bits, and MASK_FILL is none
_LINE, _MARGIN = 18, 6  # pixels of the legend
_COVERED = 0.2  # the share of a picture that its legend may cover; a larger one stands beside it
_GROUND = 32  # gray behind a legend beside the picture


@register("postprocess")
@dataclass
class Segmentation(Postprocess):
    """The class of each pixel of the photograph.

    Args:
        output: what the exported program gives: `classes` (N, H, W) int32; `probabilities`
            (N, C, H, W), which are resized to the photograph before the best class is taken; or
            `coarse`, logits (N, C, h, w) as the network has them before its last enlargement, of
            which the same classes are found in a fraction of the time where there are many
            (ops/enlarging.py).
        palette: colours of pictures: auto (Cityscapes's for its classes, else plain), cityscapes,
            voc, plain, or a list of [red, green, blue].
        opacity: of the colours over the photograph.
        class_id_map_file, delimiter, label_list: the classes' names, as of Topk.

    A result has `class_ids`, `label_names`, `pixels` and `shares` of what is there, the largest
    first, and `mask`, the map itself (run_lengths.py); 255 in it is what the network has not seen.
    """

    output: Literal["classes", "probabilities", "coarse"] = "classes"
    palette: Literal["auto", "cityscapes", "voc", "plain"] | list[list[Level]] = "auto"
    opacity: Probability = 0.5
    _: KW_ONLY
    class_id_map_file: str | None = None
    delimiter: str | None = None
    label_list: list[str] | None = None
    makes_png = True
    columns = (
        Column("class_id", "class", width=6),
        Column("pixels", "pixels", width=10),
        Column("share", "share", width=7, digits=4),
        Column("label_name", "label"),
    )

    def __post_init__(self) -> None:
        if self.label_list is None and self.class_id_map_file is not None:
            self.label_list = read_label_file(self.class_id_map_file, self.delimiter)
        self.coarse = self.output == "coarse"
        if self.output == "classes":
            self.activation, self.activated_names = "argmax", ("classes",)
        elif self.output == "probabilities":
            self.activation, self.activated_names = "softmax", ("probabilities",)
        if not isinstance(self.palette, str):
            wrong = [colour for colour in self.palette if len(colour) != 3]
            if wrong:
                raise UserError(f"palette: expected [red, green, blue] each, found {wrong[0]}")
        self.colours = colours_of(self.palette, self.label_list)  # (256, 3)

    def __call__(self, outputs: Outputs, metas: Sequence[Meta] = ()) -> list[Result]:
        found = _one(outputs)
        metas = metas or [Meta(*found.shape[-2:], seen=found.shape[-2:])] * len(found)
        if self.coarse and found.ndim == 4:
            found = [enlarged_classes(scores, meta.seen) for scores, meta in zip(found, metas)]
        return [self._result(*self._placed(*pair)) for pair in zip(found, metas)]

    def classes(self, found: np.ndarray, way: Way) -> np.ndarray:
        """The answer for one image, for a score: its class map (height, width) uint8.

        found: classes (h, w), or logits (C, h, w) before the activation.
        """
        if found.ndim == 3 and self.coarse:
            found = found.argmax(axis=0)
        elif found.ndim == 3:
            (activated,) = self.activated({"logits": found[None]}).values()
            found = activated[0]
        return self._placed(found, way)[0]

    def enlarged(self, outputs: Outputs, size: Sequence[int]) -> Outputs:
        """Outputs of a program that ends with `coarse` as classes (N, *size)."""
        return {"classes": np.stack([enlarged_classes(s, size) for s in _one(outputs)])}

    def _placed(self, found: np.ndarray, way: Way) -> tuple[np.ndarray, np.ndarray | None]:
        """Classes (height, width) of the photograph and, where there are any, their scores."""
        if found.ndim == 2:
            return classes_in_photograph(found, way), None
        return scores_in_photograph(found, way)

    def _result(self, classes: np.ndarray, scores: np.ndarray | None = None) -> Result:
        counts = _counts(classes)[:_MOST]
        order = np.argsort(-counts, kind="stable")
        ids = order[counts[order] > 0]
        names = self.label_list
        if names is not None and len(ids) and ids.max() >= len(names):
            raise UserError(
                f"the network gives class {ids.max()}, but there are names of {len(names)} "
                "classes: set Infer.PostProcess.class_id_map_file to the list it was trained with"
            )
        result = {
            "class_ids": ids.tolist(),
            "label_names": [names[i] for i in ids] if names is not None else [],
            "pixels": counts[ids].tolist(),
            "shares": (counts[ids] / max(counts.sum(), 1)).round(6).tolist(),
        }
        if scores is not None:  # the mean probability of each class's pixels
            sums = _counts(classes, scores)
            result["scores"] = (sums[ids] / counts[ids]).round(5).tolist()
        return {**result, "mask": encode_map(classes)}

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        ids = result["class_ids"]
        names = result["label_names"] or [""] * len(ids)
        return list(zip(ids, result["pixels"], result["shares"], names, strict=True))

    def agreement(
        self, reference: Outputs, found: Outputs, kind: OutputKind = "probabilities"
    ) -> Agreement:
        """The answer is the class of every pixel; what counts is the share that differs.

        A share up to `_ROUNDING` is no other answer: two classes are equal there but for rounding.
        """
        before, after = _one(reference), _one(found)
        scores = before.ndim == 4
        share = _differ(before, after, scores)  # (N,)
        difference = relative_difference(reference, found) if scores else share
        lost = np.where(share > _ROUNDING, share, 0.0)
        lead = np.zeros(len(share))
        return Agreement(difference, share, lost, lead, "class of the pixels", same_parts=1 - share)

    def describe(self, outputs: Outputs, kind: OutputKind) -> str:
        found = _one(outputs)
        size = " x ".join(map(str, found.shape[-2:]))
        return f"{kind} of {size} pixels" + (f" x {found.shape[1]}" if found.ndim == 4 else "")

    def draw(self, image: np.ndarray, result: Result) -> np.ndarray:
        """The photograph with the classes' colours over it, and their names.

        Where the names would cover too much of it, the picture has a column for them at its right.
        """
        layer = self._coloured(result)
        colours, strength = layer[..., :3], layer[..., 3:] * np.float32(self.opacity / 255)
        picture = (image * (1 - strength) + colours * strength).round().astype(np.uint8)
        return self._with_legend(picture, self.rows(result))

    def _with_legend(self, picture: np.ndarray, rows: Sequence[tuple[Any, ...]]) -> np.ndarray:
        texts = [f"{name or number}  {share:.1%}" for number, _, share, name in rows]
        font = cv2.FONT_HERSHEY_PLAIN, 1
        wide = max((text_size(text, *font, 1)[0][0] for text in texts), default=0)
        wide, high = wide + _LINE + 2 * _MARGIN, len(texts) * _LINE + _MARGIN
        height, width = picture.shape[:2]
        left = 0
        if wide * high > _COVERED * height * width:
            left, below = width, max(0, high - height)
            ground = {"borderType": cv2.BORDER_CONSTANT, "value": (_GROUND,) * 3}
            picture = cv2.copyMakeBorder(picture, 0, below, 0, wide, **ground)
        for number, (row, text) in enumerate(zip(rows, texts), start=1):
            corner = left + _MARGIN, number * _LINE - _LINE + 6
            end = corner[0] + _LINE - 6, number * _LINE
            cv2.rectangle(picture, corner, end, self.colours[row[0]].tolist(), -1)
            place = left + _MARGIN + _LINE, number * _LINE
            put_edged_text(picture, text, place, *font)
        return picture

    def layer(self, result: Result, size: tuple[int, int]) -> np.ndarray:
        return self._coloured(result)

    def colours_in_layer(self, result: Result) -> list[str]:
        return [
            "#{:02x}{:02x}{:02x}".format(*self.colours[i].tolist()) for i in result["class_ids"]
        ]

    def _coloured(self, result: Result) -> np.ndarray:
        """The classes in their colours, (H, W, 4); what was not seen is transparent."""
        classes = decode_map(result["mask"])  # (H, W)
        opaque = np.full((_MOST + 1, 1), 255, np.uint8)
        opaque[MASK_FILL] = 0
        return np.concatenate([self.colours, opaque], axis=1)[classes]  # (H, W, 4)

    def png(self, result: Result) -> bytes:
        """The map as a palette PNG: a pixel's number is its class."""
        return palette_png(decode_map(result["mask"]), self.colours)


def _one(outputs: Outputs) -> np.ndarray:
    """The one output: classes (N, H, W) or scores (N, C, H, W)."""
    if len(outputs) != 1:
        raise UserError(
            f"the network gives {', '.join(outputs)}; Segmentation expects one output, a class or "
            "scores for each pixel"
        )
    (found,) = outputs.values()
    if found.ndim not in (3, 4) or (found.ndim == 4 and found.shape[1] > _MOST):
        raise UserError(
            f"the network gives the shape {found.shape}; Segmentation expects (N, H, W), or "
            f"(N, C, H, W) of at most {_MOST} classes: is this network a segmenter?"
        )
    return found


def _counts(classes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(256,): how many pixels each class has, or the sum of their weights; row by row, since
    `bincount` makes 64 bits of each pixel.
    """
    total = np.zeros(_MOST + 1, np.int64 if weights is None else np.float64)
    for number, row in enumerate(classes):
        weight = None if weights is None else weights[number].clip(0)
        total += np.bincount(row, weight, _MOST + 1).astype(total.dtype)
    return total


def _differ(before: np.ndarray, after: np.ndarray, scores: bool) -> np.ndarray:
    """(N,): the share of the pixels that have another class."""
    if scores:
        before, after = before.argmax(axis=1), after.argmax(axis=1)
    return (before != after).mean(axis=(1, 2))
