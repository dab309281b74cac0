"""AutoAugment, RandAugment, and TimmAutoAugment with its configuration strings.

Papers: arXiv:1805.09501 (AutoAugment), arXiv:1909.13719 (RandAugment), arXiv:1912.02781 (AugMix).
The operations are in augment_ops.py, the policies in policies.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    NonNegativeFloat,
    NonNegativeInt,
    Probability,
    Repeats,
    ScaledSize,
)
from ppcls_lite.data.transforms import augment_ops, policies
from ppcls_lite.data.transforms.augment_ops import Scale, apply
from ppcls_lite.data.transforms.geometry import Sample
from ppcls_lite.data.transforms.orientation import colour
from ppcls_lite.data.transforms.resize import CV2, DRAWN
from ppcls_lite.errors import UserError

_MAX = 10.0  # the largest magnitude of every scale but AutoAugment's own, which counts 0 to 9
_POLICIES = {
    "original": (policies.IMAGENET, augment_ops.TIMM_ORIGINAL),
    "originalr": (policies.IMAGENET, augment_ops.TIMM_RESEARCH),
    "v0": (policies.EFFICIENTNET_V0, augment_ops.TIMM),
    "v0r": (policies.EFFICIENTNET_V0, augment_ops.TIMM_RESEARCH),
}
_OPTIONS = {"rand": ("m", "n", "w", "mstd", "inc"), "augmix": ("m", "w", "d", "a", "b", "mstd")}


@register("transform")
@dataclass
class AutoAugment:
    """One of the 25 pairs of operations that AutoAugment found for ImageNet, at random.

    `fillcolor` fills what a shear, translation or rotation uncovers. Rotations go either way.
    """

    fillcolor: list[NonNegativeInt] = (128, 128, 128)

    def __post_init__(self) -> None:
        self.fill = colour(self.fillcolor, "AutoAugment: fillcolor")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for name, prob, level in policies.IMAGENET[rng.integers(len(policies.IMAGENET))]:
            if rng.random() < prob:
                value = augment_ops.AUTOAUGMENT.value(name, level / 9, rng)
                sample = apply(sample, name, value, None, self.fill)
        return sample


@register("transform")
@dataclass
class RandAugment:
    """`num_layers` operations drawn from fourteen, all at the same `magnitude` (0 to 10)."""

    num_layers: Repeats = 2
    magnitude: NonNegativeFloat = 5.0
    fillcolor: list[NonNegativeInt] = (128, 128, 128)

    def __post_init__(self) -> None:
        if self.magnitude > _MAX:
            raise UserError(f"RandAugment: magnitude is {self.magnitude:g}; expected 0 to {_MAX:g}")
        self.fill = colour(self.fillcolor, "RandAugment: fillcolor")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for choice in rng.integers(len(policies.RANDAUGMENT), size=self.num_layers):
            name = policies.RANDAUGMENT[choice]
            value = augment_ops.RANDAUGMENT.value(name, self.magnitude / _MAX, rng)
            sample = apply(sample, name, value, None, self.fill)
        return sample


@register("transform")
@dataclass
class TimmAutoAugment:
    """The timm library's augmentations, applied with probability `prob`.

    `config_str` is a kind followed by options, joined by dashes:

    - `rand`: RandAugment; `m` magnitude 0 to 10 (default 10), `n` operations per image (2), each
      applied with probability 0.5, `w0` draws them by timm's weights and without repetition,
      `inc1` uses the scales that grow with the magnitude
    - `augmix`: AugMix; `m` (3), `w` chains (3), `d` their length (default: 1 to 3 at random), `a`
      the Dirichlet and Beta parameter (1); `b` only chooses timm's order of summation
    - `original`, `originalr`, `v0`, `v0r`: an AutoAugment policy
    - all: `mstd` is the standard deviation of the magnitude from image to image (0)

    `interpolation` is for shear, translation and rotation ("random" draws bilinear or bicubic);
    what they uncover gets the colour `mean` (0 to 1). `img_size` changes nothing.
    """

    prob: Probability = 1.0
    config_str: str = "rand-m9-mstd0.5-inc1"
    interpolation: Literal["nearest", "bilinear", "bicubic", "random"] = "bicubic"
    img_size: ScaledSize = 224
    mean: list[Probability] = (0.485, 0.456, 0.406)

    def __post_init__(self) -> None:
        self.kind, self.options = _parse(self.config_str)
        self.fill = tuple(round(255 * c) for c in colour(self.mean, "TimmAutoAugment: mean"))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        match self.kind:
            case "rand":
                return self._rand(sample, rng)
            case "augmix":
                return self._augmix(sample, rng)
        policy, scale = _POLICIES[self.kind]
        for name, prob, level in policy[rng.integers(len(policy))]:
            if rng.random() < prob:
                sample = self._apply(sample, name, level, scale, rng)
        return sample

    def _rand(self, sample: Sample, rng: np.random.Generator) -> Sample:
        get = self.options.get
        scale = augment_ops.TIMM_INCREASING if get("inc") else augment_ops.TIMM
        count = int(get("n", 2))
        if "w" in self.options:
            weights = np.array(list(policies.RAND_WEIGHTS.values()))
            chosen = rng.choice(len(weights), count, replace=False, p=weights / weights.sum())
        else:
            chosen = rng.integers(len(policies.RAND), size=count)
        for choice in chosen:
            if rng.random() < 0.5:
                name = policies.RAND[choice]
                sample = self._apply(sample, name, get("m", _MAX), scale, rng)
        return sample

    def _augmix(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if "boxes" in sample or "mask" in sample:
            raise UserError("TimmAutoAugment: augmix mixes moved images; it cannot move boxes")
        get = self.options.get
        width, alpha = int(get("w", 3)), get("a", 1.0)
        share = rng.beta(alpha, alpha)
        image = sample["image"]
        mixed = (1 - share) * image.astype(np.float32)
        for weight in rng.dirichlet([alpha] * width):
            chain: Sample = {"image": image}
            for _ in range(int(get("d", 0)) or int(rng.integers(1, 4))):
                name = policies.AUGMIX[rng.integers(len(policies.AUGMIX))]
                chain = self._apply(chain, name, get("m", 3.0), augment_ops.AUGMIX, rng)
            mixed += share * weight * chain["image"]
        sample["image"] = (mixed + 0.5).clip(0, 255).astype(np.uint8)
        return sample

    def _apply(
        self, sample: Sample, name: str, level: float, scale: Scale, rng: np.random.Generator
    ) -> Sample:
        deviation = self.options.get("mstd", 0.0)
        if deviation:
            level = rng.normal(level, deviation)
        value = scale.value(name, min(max(level, 0.0), _MAX) / _MAX, rng)
        method = self.interpolation
        if method == "random":
            method = DRAWN["random"][rng.integers(len(DRAWN["random"]))]
        return apply(sample, name, value, CV2[method], self.fill)


def _parse(text: str) -> tuple[str, dict[str, float]]:
    """The kind and the options; UserError for one that is unknown, or a value out of range."""
    kind, *sections = text.split("-")
    known = _OPTIONS.get(kind, ("mstd",))
    if kind not in _OPTIONS and kind not in _POLICIES:
        kinds = ", ".join([*_OPTIONS, *_POLICIES])
        raise UserError(
            f"TimmAutoAugment: config_str {text!r} begins with {kind!r}; expected one of {kinds}"
        )
    options: dict[str, float] = {}
    for section in sections:
        found = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
        if not found or found[1] not in known:
            raise UserError(
                f"TimmAutoAugment: config_str {text!r} has the option {section!r}; {kind} takes "
                f"{', '.join(known)}, each followed by a number"
            )
        options[found[1]] = float(found[2])
    weights = sum(weight > 0 for weight in policies.RAND_WEIGHTS.values())
    limits: dict[str, Sequence[float]] = {"m": (0, _MAX), "n": (1, weights), "d": (1, 100)}
    limits |= {"a": (1e-3, 1e3), "w": (0, 0) if kind == "rand" else (1, 100)}
    for name, value in options.items():
        low, high = limits.get(name, (0, np.inf))
        if not low <= value <= high or (name in "nwd" and value % 1):
            raise UserError(
                f"TimmAutoAugment: config_str {text!r}: {name} is {value:g}; "
                f"expected {low:g} to {high:g}"
            )
    return kind, options
