"""The attributes of PaddleClas's PULC tasks in words: pedestrians, vehicles, tables.

Read before: classify.py.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Probability
from ppcls_lite.inference.postprocess.base import Result
from ppcls_lite.inference.postprocess.classify import ClassScores


@register("postprocess")
@dataclass
class PersonAttribute(ClassScores):
    """The 26 pedestrian attributes of PA-100K in words, as PULC's person_attribute has them."""

    threshold: Probability = 0.5
    glasses_threshold: Probability = 0.3
    hold_threshold: Probability = 0.6
    activation = "sigmoid"
    class_num = 26

    def __post_init__(self) -> None:
        self.thresholds = np.full(26, self.threshold)
        self.thresholds[[1, 18]] = self.glasses_threshold, self.hold_threshold

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
@dataclass
class VehicleAttribute(ClassScores):
    """Colour (10) and type (9) of a vehicle, as PULC's vehicle_attribute has them (VeRi)."""

    color_threshold: Probability = 0.5
    type_threshold: Probability = 0.5
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

    def one(self, row: np.ndarray) -> Result:
        color = _best("Color", self.colors, row[:10], self.color_threshold)
        kind = _best("Type", self.types, row[10:], self.type_threshold)
        present = row > np.repeat([self.color_threshold, self.type_threshold], [10, 9])
        return {"attributes": f"{color}, {kind}", "output": present.astype(int).tolist()}


@register("postprocess")
@dataclass
class TableAttribute(ClassScores):
    """Six properties of a photographed table, as PULC's table_attribute has them."""

    source_threshold: Probability = 0.5
    number_threshold: Probability = 0.5
    color_threshold: Probability = 0.5
    clarity_threshold: Probability = 0.5
    obstruction_threshold: Probability = 0.5
    angle_threshold: Probability = 0.5
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

    def one(self, row: np.ndarray) -> Result:
        present = (row > np.array(astuple(self))).astype(int).tolist()
        words = [pair[chosen] for pair, chosen in zip(self.names, present)]
        return {"attributes": words, "output": present}


def _chosen(names: tuple[str, ...], present: np.ndarray) -> list[str]:
    return [name for name, is_present in zip(names, present) if is_present]


def _best(title: str, names: tuple[str, ...], row: np.ndarray, threshold: float) -> str:
    best = int(row.argmax())
    if row[best] < threshold:
        return f"{title} unknown"
    return f"{title}: ({names[best]}, prob: {row[best]})"
