"""From a network's probabilities to answers: class ids, scores and names, or attributes.

The result dicts have PaddleClas's keys. Each class says in `activation` which function its input
has gone through: softmax for one class per image, sigmoid for several attributes, none for raw
outputs. Plain NumPy, so that prediction needs no training code. Read before: labels.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Ignored, NonNegativeInt, PositiveInt, Probability
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.errors import UserError

Result = dict[str, Any]


class Postprocess(ABC):
    """Turns probabilities (N, C) into one result a row."""

    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    class_num: int | None = None  # where the answers only make sense for so many outputs

    def __call__(self, probabilities: np.ndarray) -> list[Result]:
        """Results in the order of the rows; raises UserError for a wrong number of classes."""
        found = probabilities.shape[1]
        if self.class_num is not None and found != self.class_num:
            raise UserError(
                f"{type(self).__name__} is for {self.class_num} outputs, the network has {found}: "
                "choose another Infer.PostProcess, for example Topk"
            )
        return [self.one(row) for row in probabilities.astype(np.float64)]

    @abstractmethod
    def one(self, row: np.ndarray) -> Result:
        """The result of one image's probabilities (C,)."""


class _Labelled(Postprocess):
    """With names from a file, or given as a list (as an exported model carries them)."""

    def __init__(
        self, class_id_map_file: str | None, delimiter: str | None, label_list: list[str] | None
    ) -> None:
        self.label_list = label_list
        self._source = "label_list"
        if label_list is None and class_id_map_file is not None:
            self.label_list = read_label_file(class_id_map_file, delimiter)
            self._source = class_id_map_file

    def __call__(self, probabilities: np.ndarray) -> list[Result]:
        found = probabilities.shape[1]
        if self.label_list is not None and len(self.label_list) != found:
            raise UserError(
                f"{self._source} names {len(self.label_list)} classes, the network has {found}: "
                "set Infer.PostProcess.class_id_map_file to the label file it was trained with, "
                "or to null for answers without names"
            )
        return super().__call__(probabilities)

    def _result(self, ids: np.ndarray, row: np.ndarray) -> Result:
        names = [self.label_list[i] for i in ids] if self.label_list is not None else []
        scores = row[ids].round(5)
        return {"class_ids": ids.tolist(), "scores": scores.tolist(), "label_names": names}


@register("postprocess")
class Topk(_Labelled):
    """The k most probable classes, the best first (all of them if there are fewer)."""

    def __init__(
        self,
        topk: PositiveInt = 1,
        class_id_map_file: str | None = None,
        delimiter: str | None = None,
        label_list: list[str] | None = None,
    ) -> None:
        super().__init__(class_id_map_file, delimiter, label_list)
        self.topk = topk

    def one(self, row: np.ndarray) -> Result:
        return self._result(np.argsort(-row, kind="stable")[: self.topk], row)


@register("postprocess")
class DistillationPostProcess(Topk):
    """PaddleClas's post-processing of a distillation's network: `Topk` of what ships.

    Only the network of `Arch.infer_model_name` is predicted with or exported, so there is none to
    choose; for other answers than the k best, name that post-processing itself.
    """

    def __init__(
        self,
        model_name: Ignored = "Student",
        key: Ignored = None,
        func: Literal["Topk"] = "Topk",
        topk: PositiveInt = 1,
        class_id_map_file: str | None = None,
        delimiter: str | None = None,
        label_list: list[str] | None = None,
    ) -> None:
        super().__init__(topk, class_id_map_file, delimiter, label_list)


@register("postprocess")
class MultiLabelThreshOutput(_Labelled):
    """All classes whose probability reaches the threshold, in the order of their ids."""

    activation = "sigmoid"

    def __init__(
        self,
        threshold: Probability = 0.5,
        class_id_map_file: str | None = None,
        delimiter: str | None = None,
        label_list: list[str] | None = None,
    ) -> None:
        super().__init__(class_id_map_file, delimiter, label_list)
        self.threshold = threshold

    def one(self, row: np.ndarray) -> Result:
        return self._result(np.flatnonzero(row >= self.threshold), row)


@register("postprocess")
class ThreshOutput(Postprocess):
    """Of two classes: class 1 where its probability reaches the threshold, else class 0."""

    class_num = 2

    def __init__(
        self, threshold: Probability = 0.5, label_0: str = "0", label_1: str = "1"
    ) -> None:
        self.threshold = threshold
        self.labels = (label_0, label_1)

    def one(self, row: np.ndarray) -> Result:
        score = float(row[1])
        chosen = int(score >= self.threshold)
        return {
            "class_ids": [chosen],
            "scores": [score if chosen else 1 - score],
            "label_names": [self.labels[chosen]],
        }


@register("postprocess")
class ScoreOutput(Postprocess):
    """The network's raw outputs, rounded."""

    activation = "none"

    def __init__(self, decimal_places: NonNegativeInt = 5) -> None:
        self.decimal_places = decimal_places

    def one(self, row: np.ndarray) -> Result:
        return {"scores": row.round(self.decimal_places).tolist()}


@register("postprocess")
class PersonAttribute(Postprocess):
    """The 26 pedestrian attributes of PA-100K in words, as PULC's person_attribute has them."""

    activation = "sigmoid"
    class_num = 26

    def __init__(
        self,
        threshold: Probability = 0.5,
        glasses_threshold: Probability = 0.3,
        hold_threshold: Probability = 0.6,
    ) -> None:
        self.threshold = threshold
        self.thresholds = np.full(26, threshold)
        self.thresholds[1] = glasses_threshold
        self.thresholds[18] = hold_threshold

    def one(self, row: np.ndarray) -> Result:
        present = row > self.thresholds
        bag = int(row[15:18].argmax())
        upper = ["LongSleeve" if row[3] > row[2] else "ShortSleeve"]
        upper += _chosen(("UpperStride", "UpperLogo", "UpperPlaid", "UpperSplice"), present[4:8])
        lower_names = (
            *("LowerStripe", "LowerPattern", "LongCoat"),
            *("Trousers", "Shorts", "Skirt&Dress"),
        )
        lower = _chosen(lower_names, present[8:14]) or [lower_names[row[8:14].argmax()]]
        words = [
            "Female" if present[22] else "Male",
            ("AgeLess18", "Age18-60", "AgeOver60")[row[19:22].argmax()],
            ("Front", "Side", "Back")[row[23:26].argmax()],
            f"Glasses: {bool(present[1])}",
            f"Hat: {bool(present[0])}",
            f"HoldObjectsInFront: {bool(present[18])}",
            ("HandBag", "ShoulderBag", "Backpack")[bag] if present[15 + bag] else "No bag",
            f"Upper: {' '.join(upper)}",
            f"Lower:  {' '.join(lower)}",  # two spaces, as in PaddleClas's results
            "Boots" if present[14] else "No boots",
        ]
        return {"attributes": words, "output": present.astype(int).tolist()}


@register("postprocess")
class VehicleAttribute(Postprocess):
    """Colour (10) and type (9) of a vehicle, as PULC's vehicle_attribute has them (VeRi)."""

    activation = "sigmoid"
    class_num = 19
    colors = (
        *("yellow", "orange", "green", "gray", "red"),
        *("blue", "white", "golden", "brown", "black"),
    )
    types = (
        *("sedan", "suv", "van", "hatchback", "mpv"),
        *("pickup", "bus", "truck", "estate"),
    )

    def __init__(
        self, color_threshold: Probability = 0.5, type_threshold: Probability = 0.5
    ) -> None:
        self.color_threshold = color_threshold
        self.type_threshold = type_threshold

    def one(self, row: np.ndarray) -> Result:
        color = _best("Color", self.colors, row[:10], self.color_threshold)
        kind = _best("Type", self.types, row[10:], self.type_threshold)
        present = row > np.repeat([self.color_threshold, self.type_threshold], [10, 9])
        return {"attributes": f"{color}, {kind}", "output": present.astype(int).tolist()}


@register("postprocess")
class TableAttribute(Postprocess):
    """Six properties of a photographed table, as PULC's table_attribute has them."""

    activation = "sigmoid"
    class_num = 6
    names = (
        ("Photo", "Scanned"),
        ("Numerous", "Little"),
        ("Multicolor", "Black-and-White"),
        ("Blurry", "Clear"),
        ("With-Obstacles", "Without-Obstacles"),
        ("Tilted", "Horizontal"),
    )

    def __init__(
        self,
        source_threshold: Probability = 0.5,
        number_threshold: Probability = 0.5,
        color_threshold: Probability = 0.5,
        clarity_threshold: Probability = 0.5,
        obstruction_threshold: Probability = 0.5,
        angle_threshold: Probability = 0.5,
    ) -> None:
        self.thresholds = np.array(
            [
                *(source_threshold, number_threshold, color_threshold),
                *(clarity_threshold, obstruction_threshold, angle_threshold),
            ]
        )

    def one(self, row: np.ndarray) -> Result:
        present = (row > self.thresholds).astype(int).tolist()
        words = [pair[chosen] for pair, chosen in zip(self.names, present)]
        return {"attributes": words, "output": present}


def _chosen(names: tuple[str, ...], present: np.ndarray) -> list[str]:
    return [name for name, is_present in zip(names, present) if is_present]


def _best(title: str, names: tuple[str, ...], row: np.ndarray, threshold: float) -> str:
    best = int(row.argmax())
    if row[best] < threshold:
        return f"{title} unknown"
    return f"{title}: ({names[best]}, prob: {row[best]})"
