"""Programs beside the one that the predictor runs, for whoever has an engine and nothing else.

`raw` is what leaves the network's last layers, where the network says so (`raw_outputs`): for
devices that decode by themselves. `maps` is where in an image a classifier finds each class
(`Network.maps`), for maps.py. A post-processing may have endings of its own (`Ending`), which give
answers. Each is a folder in the exported one, with the same formats, and is held against the
network on the same images. Read before: shipped.py. Read next: export.py, postprocess/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import TOLERANCE, mismatch, relative_difference
from ppcls_lite.inference.postprocess.base import Ending, Postprocess
from ppcls_lite.inference.shipped import Shipped
from ppcls_lite.inference.spec import Outputs

RAW, MAPS = "raw", "maps"
_MOST_PLACES = 400  # of a map: the last layers run twice for each
_USUAL_EDGE = 64  # pixels, where a network takes any size


@dataclass(frozen=True)
class Program:
    """A further program: its layer, and the names of its outputs; `ending` None: raw."""

    layer: nn.Layer
    outputs: tuple[str, ...]
    ending: Ending | None = None

    def difference(
        self, inputs: np.ndarray, expected: Outputs, found: Sequence[np.ndarray]
    ) -> str | None:
        """Why what an engine gave on `inputs` is not the network's, or None.

        expected: what the network itself gives. Raw values are compared by their numbers, answers
        as the post-processing compares them.
        """
        if len(found) != len(self.outputs):
            return f"{len(found)} outputs instead of {len(self.outputs)}"
        theirs = dict(zip(self.outputs, found))
        if self.ending is not None:
            return self.ending.difference(expected, theirs)
        own = dict(zip(self.outputs, Shipped.run(self.layer, inputs)))
        problem = mismatch(own, theirs)
        if problem is None and (far := float(relative_difference(own, theirs).max())) > TOLERANCE:
            problem = f"outputs that differ by {far:.1e} (allowed {TOLERANCE:.0e})"
        return problem


class _Raw(nn.Layer):
    def __init__(self, shipped: Shipped) -> None:
        super().__init__()
        self.model = shipped.model

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model.raw(image)


class _Maps(nn.Layer):
    def __init__(self, shipped: Shipped) -> None:
        super().__init__()
        self.model = shipped.model

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.model.maps(image)]


class _Ended(nn.Layer):
    def __init__(self, shipped: Shipped, ending: Ending) -> None:
        super().__init__()
        self.shipped = shipped
        self._end = ending.run

    def forward(self, image: Tensor) -> list[Tensor]:
        return self._end(self.shipped(image))


def chosen_programs(
    names: Sequence[str],
    shipped: Shipped,
    answers: Postprocess,
    whole: bool,
    shape: Sequence[int],
) -> dict[str, Program]:
    """The programs of these names.

    whole: whether the network gives what the post-processing reads, which windows and views do not.
    shape: (C, H, W) of its images, -1 for an edge that may vary.
    Raises UserError for a name that this network and post-processing do not have.
    """
    raw = tuple(getattr(shipped.model, "raw_outputs", ()))
    endings = answers.endings() if whole else {}
    chosen = {}
    for name in dict.fromkeys(names):
        if name == RAW and raw:
            chosen[name] = Program(_Raw(shipped), raw)
        elif name == MAPS and whole and _has_maps(shipped, shape):
            chosen[name] = Program(_Maps(shipped), (MAPS,))
        elif name in endings:
            ending = endings[name]()
            chosen[name] = Program(_Ended(shipped, ending), ending.outputs, ending)
        else:
            kind = f"{type(shipped.model).__name__} with {type(answers).__name__}"
            maps = whole and name != MAPS and _has_maps(shipped, shape)
            has = [*([RAW] if raw else []), *([MAPS] if maps else []), *endings]
            raise UserError(
                f"export --with: {kind} has no program {name!r}; it has: "
                + (", ".join(has) or "none")
            )
    return chosen


@paddle.no_grad()
def _has_maps(shipped: Shipped, shape: Sequence[int]) -> bool:
    """Whether the network has maps for images of this shape.

    Raises UserError for sizes that a program of maps cannot have.
    """
    evidence = getattr(shipped.model, "evidence", None)
    sides = [_USUAL_EDGE if edge == -1 else edge for edge in shape]
    found = evidence(paddle.zeros([1, *sides])) if evidence else None
    if found is None or found[0].ndim != 4:
        return False
    height, width = found[0].shape[2:]
    if -1 in shape or height * width > _MOST_PLACES:
        raise UserError(
            f"export --with {MAPS}: is for images of one size whose last feature has at most "
            f"{_MOST_PLACES} places; found {list(shape)}, and {height} x {width} places: export "
            "with a smaller Global.image_size"
        )
    return True
