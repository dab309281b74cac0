"""The contract of post-processing: it alone knows what a network's answer is.

Which function the program ends with (`activation`), results from outputs (the call), rows of a
table (`columns`, `rows`), whether two runs agree (`agreement`), a picture (`draw`). So the export,
the engines, the commands and the service work for every problem. Read next: classify.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.inference.agreement import Agreement, distance, relative_difference
from ppcls_lite.inference.spec import OutputKind, Outputs
from ppcls_lite.system.fonts import put_edged_text

Result = dict[str, Any]
Write = Callable[[Result], None]
# Names of the classes (None: they have none), all images to come, and what the user said, as paths,
# to what writes the results one after the other.
Form = Callable[
    [Sequence[str] | None, Sequence[Path], Sequence[str]], AbstractContextManager[Write]
]
_EXACT, _ROUNDED = 1e-5, 0.05  # by how much a row of probabilities may miss 1, fp32 and less
_LINE, _MARGIN = 18, 6  # pixels of `draw`


class Part(NamedTuple):
    """The answer for a part of a photograph, in the part's own pixels."""

    result: Result
    window: tuple[int, int, int, int]  # left, top, right, bottom in the photograph
    least: int = 0  # pixels: what is smaller is seen better in other parts


class Ending(NamedTuple):
    """The end of a program that gives answers itself, for who has an engine and nothing else.

    outputs: their names. run: tensors of the network, in its order, to theirs. difference: why what
    an engine gave is not what the post-processing makes of the network's outputs, or None.
    """

    outputs: tuple[str, ...]
    run: Callable[[list[Any]], list[Any]]
    difference: Callable[[Outputs, Outputs], str | None]


class Column(NamedTuple):
    """A column of the tables: its name in a file, its title and form on the terminal.

    `width` aligns to the right (0: the last column, as long as it is); `digits` after the point.
    """

    name: str
    title: str
    width: int = 0
    digits: int | None = None

    def text(self, value: Any) -> str:
        """A value as the terminal shows it."""
        is_number = self.digits is not None and value != ""
        text = f"{value:.{self.digits}f}" if is_number else str(value)
        return f"{text:>{self.width}}" if self.width else text


class Postprocess(ABC):
    """Turns the named outputs of a batch into one result an image.

    activation: what class scores (N, classes, ...) go through, within the exported program.
    Networks with other outputs finish them in their `deployed`, and say "none".
    activated_names: what the outputs are called after it; None: as the network calls them.
    columns: of the rows of an image, without its name.
    draw_threshold: the score from which `draw` shows a part of an answer; None: all.
    makes_png: whether an answer is a picture, which `png` gives.
    coarse: whether it enlarges class scores itself, (N, classes, h, w) of a fraction of the image's
        size, which the program then ends with (`Network.coarse`).
    merges: whether answers for parts of a photograph make one for the whole, which `merged` gives.
    forms: of files that other tools read, by the name that `predict --save` has for them.
    """

    activation: Literal["softmax", "sigmoid", "argmax", "none"] = "none"
    activated_names: tuple[str, ...] | None = None
    columns: tuple[Column, ...]
    makes_png: bool = False
    coarse: bool = False
    draw_threshold: float | None = None
    merges: bool = False
    forms: ClassVar[Mapping[str, Form]] = {}

    @abstractmethod
    def __call__(self, outputs: Outputs, metas: Sequence[Meta] = ()) -> list[Result]:
        """One result an image, in order: a dict that JSON can hold, without `file` and `error`.

        outputs: name -> (N, ...), after the activation. metas: what the pre-processing did to each
        of the N images. Raises UserError for outputs of other names or shapes than it can read.
        """

    @abstractmethod
    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        """What the tables say about an image: tuples like `columns`, the best first."""

    def is_right(self, result: Result, label: str) -> bool | None:
        """Whether a result is what a list's `label` says; None where it cannot tell."""
        return None

    def agreement(
        self, reference: Outputs, found: Outputs, kind: OutputKind = "probabilities"
    ) -> Agreement:
        """How far outputs are from a reference's of the same shapes.

        Here, by their numbers alone; override it to compare answers. `kind`: whether the activation
        has been applied.
        """
        count = len(next(iter(reference.values())))
        return Agreement(
            difference=relative_difference(reference, found),
            distance=distance(reference, found),
            lost=np.zeros(count),
            lead=np.zeros(count),
        )

    def doubt(self, outputs: Outputs, kind: OutputKind) -> str | None:
        """Why outputs of several images cannot be of that `kind`, or `None`.

        Of class scores (N, classes): rows of probabilities sum to one, those of logits do not.
        """
        (scores, *_) = outputs.values()
        if self.activation == "none" or scores.ndim != 2 or scores.shape[1] < 2:
            return None
        bounded = bool((scores >= 0).all() and (scores <= 1).all())
        sums = np.abs(scores.sum(axis=1, dtype=np.float64) - 1)  # (N,)
        if kind == "logits" and bounded and (sums < _EXACT).all():
            return "its program gives probabilities already: Global.output must say so"
        finite = np.isfinite(scores).all()
        summed = self.activation != "softmax" or (sums < _ROUNDED).all()
        if kind == "probabilities" and finite and not (bounded and summed):
            return "its program gives no probabilities: Global.output must say logits"
        return None

    def endings(self) -> Mapping[str, Callable[[], Ending]]:
        """Makers of programs that `export --with` writes beside the predictor's, by name.

        They raise UserError for settings that a program cannot have.
        """
        return {}

    def describe(self, outputs: Outputs, kind: OutputKind) -> str:
        """What the outputs are, in words."""
        return " and ".join(f"{name} {list(array.shape[1:])}" for name, array in outputs.items())

    def draw(self, image: np.ndarray, result: Result) -> np.ndarray:
        """A copy of the image, (H, W, 3) uint8 RGB, that shows the result; here its rows."""
        picture = np.ascontiguousarray(image).copy()
        for number, row in enumerate(self.rows(result), start=1):
            cells = (column.text(value) for column, value in zip(self.columns, row))
            text, place = "  ".join(cells).strip(), (_MARGIN, number * _LINE)
            put_edged_text(picture, text, place, cv2.FONT_HERSHEY_PLAIN, 1)
        return picture

    def layer(self, result: Result, size: tuple[int, int]) -> np.ndarray | None:
        """What lies over a photograph of `size` (H, W), as (H, W, 4) uint8 RGBA; None: nothing."""
        return None

    def colours_in_layer(self, result: Result) -> list[str]:
        """What `layer` shows each of the `class_ids` in, as `#rrggbb`; none: no such thing."""
        return []

    def png(self, result: Result) -> bytes:
        """The answer as a PNG file of its own, where `makes_png` says that there is one."""
        raise NotImplementedError(f"{type(self).__name__} makes no picture of its own")

    def merged(self, parts: Sequence[Part], size: tuple[int, int]) -> Result:
        """One answer for a photograph of `size` (H, W), where `merges` says that there is one."""
        raise NotImplementedError(f"{type(self).__name__} merges no parts")

    def enlarged(self, outputs: Outputs, size: Sequence[int]) -> Outputs:
        """`coarse` outputs as they are for images of `size` (H, W), where `coarse` says so."""
        raise NotImplementedError(f"{type(self).__name__} enlarges nothing")

    @property
    def activated_kind(self) -> OutputKind:
        """What the outputs are after `activation`."""
        return "classes" if self.activation == "argmax" else "probabilities"

    def activated(self, outputs: Outputs) -> Outputs:
        """The outputs of a program that ends in logits, after `activation`."""
        function = _ACTIVATIONS[self.activation]
        names = self.activated_names or tuple(outputs)
        return {name: function(array) for name, array in zip(names, outputs.values(), strict=True)}


def finite(outputs: Outputs, count: int) -> np.ndarray:
    """(count,) bool: for which images all outputs, (count, ...) each, are finite numbers."""
    good = np.ones(count, bool)
    for array in outputs.values():
        # The sum tells at once where all is well, and the small arrays of the long way are rare.
        if array.dtype.kind == "f" and not np.isfinite(array.sum(dtype=np.float64)):
            good &= np.isfinite(array).reshape(count, -1).all(axis=1)
    return good


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (N, classes, ...) to probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # never overflows


_ACTIVATIONS = {
    **{"softmax": softmax, "sigmoid": _sigmoid, "none": lambda logits: logits},
    "argmax": lambda logits: logits.argmax(axis=1).astype(np.int32),
}
