"""How many predictions are right, where lists say what is there. Read before: ../inputs.py."""

from __future__ import annotations

from collections.abc import Mapping

from ppcls_lite.inference.postprocess.base import Postprocess, Result
from ppcls_lite.ops.intervals import wilson


class Tally:
    """Counts the results whose files have a label, as `postprocess` reads it."""

    def __init__(self, postprocess: Postprocess, labels: Mapping[str, str]) -> None:
        self._postprocess, self._labels = postprocess, labels
        self._right = self._wrong = self._unknown = 0

    def add(self, result: Result) -> None:
        """Count one result; one without an answer of the network is nothing to count."""
        label = self._labels.get(result["file"])
        if label is None or "error" in result:
            return
        right = self._postprocess.is_right(result, label)
        if right is not None and result.get("unknown"):
            self._unknown += 1
        elif right is not None:
            self._right += right
            self._wrong += not right

    def summary(self) -> list[str]:
        """A line or two; none where there was no label."""
        answered = self._right + self._wrong
        if not answered + self._unknown:
            return []
        share = ""
        if answered:
            low, high, _ = wilson(self._right, answered)
            share = f": {self._right / answered:.2%} (95 % interval {low:.2%} to {high:.2%})"
        lines = [f"right by the list's labels: {self._right} of {answered}{share}"]
        if self._unknown:
            total = answered + self._unknown
            lines.append(
                f"not answered: {self._unknown} of {total}, coverage {answered / total:.2%}"
            )
        return lines
