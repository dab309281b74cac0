"""The named operations of the AutoAugment family, and what a magnitude means for each.

Changes of colour touch the image only, moves also boxes and mask. The papers and their
implementations do not agree on the scale from magnitude to strength; each `Scale` states one.
Read next: policies.py, autoaugment.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from ppcls_lite.data.transforms import geometry, pixels
from ppcls_lite.data.transforms.geometry import Sample

_PLAIN: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "AutoContrast": pixels.auto_contrast,
    "Equalize": pixels.equalize,
    "Invert": pixels.invert,
}
_ENHANCEMENTS: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "Brightness": pixels.brightness,
    "Color": pixels.color,
    "Contrast": pixels.contrast,
    "Sharpness": pixels.sharpness,
}


def _posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """At least the highest bit that is set anywhere stays, so that no image becomes black."""
    return pixels.posterize(image, max(bits, 9 - int(image.max()).bit_length()))


_VALUED: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    **_ENHANCEMENTS,
    "Posterize": _posterize,
    "Solarize": pixels.solarize,
    "SolarizeAdd": pixels.solarize_add,
}


@dataclass(frozen=True)
class Scale:
    """From a strength t (magnitude over its maximum, 0 to 1) to an operation's value.

    `symmetric`: enhancements are 1 +- 0.9 t (stronger with t), else 0.1 + 1.8 t (weaker up to the
    middle, then stronger). `posterize` gives the bits kept, `solarize` the threshold, `translate`
    the largest shift as a share of the image's edge.
    """

    symmetric: bool
    posterize: Callable[[float], int]
    solarize: Callable[[float], float]
    translate: float

    def value(self, name: str, t: float, rng: np.random.Generator) -> float:
        """The value of operation `name` at strength `t`; signs are drawn at random."""
        if name in _PLAIN:
            return 0.0
        if name == "Posterize":
            return self.posterize(t)
        if name == "Solarize":
            return self.solarize(t)
        if name == "SolarizeAdd":
            return int(110 * t)
        if name in _ENHANCEMENTS and not self.symmetric:
            return 0.1 + 1.8 * t
        sign = 1 if rng.random() < 0.5 else -1
        if name in _ENHANCEMENTS:
            return 1 + sign * 0.9 * t
        largest = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}.get(name, self.translate)
        return sign * largest * t


AUTOAUGMENT = Scale(True, lambda t: round(8 - 4 * t), lambda t: 256 * (1 - t), 150 / 331)
RANDAUGMENT = Scale(True, lambda t: int(4 * t), lambda t: 256 * t, 150 / 331)
TIMM = Scale(False, lambda t: int(4 * t), lambda t: int(256 * t), 0.45)
TIMM_INCREASING = Scale(True, lambda t: 4 - int(4 * t), lambda t: 256 - int(256 * t), 0.45)
TIMM_ORIGINAL = Scale(False, lambda t: 4 + int(4 * t), lambda t: int(256 * t), 0.45)
TIMM_RESEARCH = Scale(False, lambda t: 4 - int(4 * t), lambda t: int(256 * t), 0.45)
AUGMIX = Scale(True, lambda t: 4 - int(4 * t), lambda t: 256 - int(256 * t), 0.3)


def apply(
    sample: Sample, name: str, value: float, interpolation: int | None, fill: tuple[float, ...]
) -> Sample:
    """Apply operation `name` with `value`.

    `interpolation` (an OpenCV constant) and `fill` concern shear, translation and rotation; `None`
    is bicubic for shear and nearest for the others, as in the papers' code.
    """
    if name in _PLAIN or name in _VALUED:
        image = sample["image"]
        sample["image"] = _PLAIN[name](image) if name in _PLAIN else _VALUED[name](image, value)
        return sample
    height, width = geometry.size_of(sample)
    if interpolation is None:
        interpolation = cv2.INTER_CUBIC if name.startswith("Shear") else cv2.INTER_NEAREST
    source = backward_map(name, value, width, height)
    return geometry.warp(sample, source, (width, height), interpolation, fill)


def backward_map(name: str, value: float, width: int, height: int) -> np.ndarray:
    """The (2, 3) map from a point of the result to the point it is taken from."""
    if name == "Rotate":
        return geometry.rotation(value, (width / 2, height / 2))
    place, step = {
        "ShearX": ((0, 1), value),
        "ShearY": ((1, 0), value),
        "TranslateX": ((0, 2), value * width),
        "TranslateY": ((1, 2), value * height),
    }[name]
    source = np.eye(2, 3)
    source[place] = step
    return source
