"""Programs beside the one that the predictor runs, for whoever has an engine and nothing else.

`raw` is what leaves the network's last layers, where the network says so (`raw_outputs`): for
devices that decode by themselves. A post-processing may have endings of its own (`Ending`), which
give answers. Each is a folder in the exported one, with the same formats, and is held against the
network on the same images. Read before: shipped.py. Read next: export.py, postprocess/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import TOLERANCE, mismatch, relative_difference
from ppcls_lite.inference.postprocess.base import Ending, Postprocess
from ppcls_lite.inference.shipped import Shipped
from ppcls_lite.inference.spec import Outputs

RAW = "raw"


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


class _Ended(nn.Layer):
    def __init__(self, shipped: Shipped, ending: Ending) -> None:
        super().__init__()
        self.shipped = shipped
        self._end = ending.run

    def forward(self, image: Tensor) -> list[Tensor]:
        return self._end(self.shipped(image))


def chosen_programs(
    names: Sequence[str], shipped: Shipped, answers: Postprocess, whole: bool
) -> dict[str, Program]:
    """The programs of these names.

    whole: whether the network gives what the post-processing reads, which windows and views do not.
    Raises UserError for a name that this network and post-processing do not have.
    """
    raw = tuple(getattr(shipped.model, "raw_outputs", ()))
    endings = answers.endings() if whole else {}
    chosen = {}
    for name in dict.fromkeys(names):
        if name == RAW and raw:
            chosen[name] = Program(_Raw(shipped), raw)
        elif name in endings:
            ending = endings[name]()
            chosen[name] = Program(_Ended(shipped, ending), ending.outputs, ending)
        else:
            kind = f"{type(shipped.model).__name__} with {type(answers).__name__}"
            has = ", ".join([*([RAW] if raw else []), *endings]) or "none"
            raise UserError(f"export --with: {kind} has no program {name!r}; it has: {has}")
    return chosen
