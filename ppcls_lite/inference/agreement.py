"""Do two runs of one network agree? The numbers, and every limit that they are held to.

What an image's answer is, and how much a wrong one matters, only the post-processing knows: its
`agreement` fills an `Agreement`. The rest is here, once for the export (against the network),
engine "auto" (against the first engine), int8 (against float) and the graph of an evaluation.
Read next: postprocess/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.spec import Outputs

TOLERANCE = 1e-3  # largest difference of an output, relative to the largest output of its image
# What an answer may be worth less than the reference's own, by the reference's numbers: a tie.
EXPORT_TIE = 1e-5  # of the exported network
ENGINE_TIE = 1e-4  # of another engine, fp32
_DECIDED = 0.2  # bf16 and int8: images whose answer leads by less may get another one
_DISTANCE = {"bf16": 0.03, "int8": 0.10}  # mean over the images
_SAME = {"bf16": 1.0, "int8": 0.95}  # share of the decided images


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from a reference's; each array is (N,), one number an image."""

    difference: np.ndarray  # the largest of an output, relative to the image's largest output
    distance: np.ndarray  # the largest difference of what the outputs mean, as of probabilities
    lost: np.ndarray  # what the answer is worth less than the reference's, relative; 0: the same
    lead: np.ndarray  # how far the reference's answer is ahead of its second best, relative
    answer: str = "answer"  # what an answer is called
    # The share of each answer that is the same, where answers have parts, as pixels; (N,).
    same_parts: np.ndarray | None = None

    @property
    def largest(self) -> float:
        """The largest relative difference of all."""
        return float(self.difference.max())

    @property
    def same(self) -> float:
        """The share of the images, or of the parts of their answers, that get the same one."""
        return float((self.lost <= 0).mean() if self.same_parts is None else self.same_parts.mean())

    def changed(self, tie: float = 0.0) -> int:
        """How many images get an answer that is worse by more than `tie`."""
        return int((self.lost > tie).sum())

    def exported(self) -> str | None:
        """Why this is too far for an exported network, or `None`."""
        changed = self.changed(EXPORT_TIE)
        if self.largest <= TOLERANCE and not changed:
            return None
        return (
            f"largest relative difference {self.largest:.1e} (allowed {TOLERANCE:.0e}), "
            f"{self.answer} changed on {changed} of {len(self.lost)} images"
        )

    def computed(self, precision: str) -> str | None:
        """Why this is too far for an engine of `precision`, or `None`.

        fp32 has to give the same outputs and answers. bf16 and int8 round, so they have to give
        the same answer where the reference is decided, and to stay close.
        """
        if precision == "fp32":
            changed, far = self.changed(ENGINE_TIE), f"{self.largest:.1e}, {self.answer}"
            right = self.largest <= TOLERANCE and not changed
            return None if right else f"differs from the reference by {far} on {changed} images"
        distance = float(self.distance.mean())
        decided = self.lead > _DECIDED
        same = float((self.lost[decided] <= 0).mean()) if decided.any() else 1.0
        if distance <= _DISTANCE[precision] and same >= _SAME[precision]:
            return None
        return (
            f"too far from fp32: outputs differ by {distance:.3f} (allowed "
            f"{_DISTANCE[precision]}), {self.answer} equal on {same:.0%} of the decided images"
        )


def mismatch(reference: Outputs, found: Outputs) -> str | None:
    """What forbids a comparison: another shape, or values that are not finite; else `None`."""
    for name, expected in reference.items():
        if found[name].shape != expected.shape:
            of = f" for {name}" if len(reference) > 1 else ""
            return f"the shape {found[name].shape}{of} instead of {expected.shape}"
        if not np.isfinite(found[name]).all():
            return "values that are not finite"
    return None


def relative_difference(reference: Outputs, found: Outputs) -> np.ndarray:
    """(N,): the largest difference of an output, relative to the image's largest of that name."""
    return np.max([_relative(reference[name], found[name]) for name in reference], axis=0)


def require_close(reference: Outputs, found: Outputs, limit: float = TOLERANCE) -> float:
    """The largest relative difference; UserError if these are not comparable or it is too large."""
    problem = mismatch(reference, found)
    if problem is not None:
        raise UserError(f"it gives {problem}")
    difference = float(relative_difference(reference, found).max())
    if not difference <= limit:
        raise UserError(
            f"its outputs differ from the network's by {difference:.1e} of the largest "
            f"(allowed {limit:g})"
        )
    return difference


def distance(reference: Outputs, found: Outputs) -> np.ndarray:
    """(N,): the largest difference of an output."""
    return np.max([_flat(reference[n], found[n]).max(axis=1) for n in reference], axis=0)


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches as those of one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _relative(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    largest = np.abs(reference.reshape(len(reference), -1)).max(axis=1)  # (N,)
    return _flat(reference, found).max(axis=1) / (largest + np.finfo(np.float32).tiny)


def _flat(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    kind = np.result_type(reference, np.float32)  # integers, as of a mask, must not wrap around
    return np.abs(found.astype(kind) - reference).reshape(len(reference), -1)  # (N, numbers)
