"""How often each class occurs in each split, and what is strange about it.

Read before: datasets.py. Read next: image_doctor.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.image_list import some

UNEVEN = 10  # times the images of the smallest class that the largest may have without a word
_ROWS = 40  # of a table that is printed


@dataclass
class ClassTable:
    """names: of the classes. counts: by split, (classes,) of what `counted` says."""

    names: list[str]
    counts: dict[str, np.ndarray]
    counted: str

    @classmethod
    def of(
        cls, datasets: Mapping[str, ImageDataset], known: Sequence[str] | None = None
    ) -> ClassTable | None:
        """None where the data sets do not count their classes. known: names from elsewhere."""
        found = {split: data.counts() for split, data in datasets.items()}
        counts = {split: own for split, own in found.items() if own is not None}
        if not counts:
            return None
        length = max(map(len, counts.values()))
        counts = {split: np.pad(own, (0, length - len(own))) for split, own in counts.items()}
        first = next(datasets[split] for split in counts)
        keys = list(known or (first.class_keys if first.class_keys is not None else ()))
        names = [str(keys[i]) if i < len(keys) else str(i) for i in range(length)]
        return cls(names, counts, first.counted)

    @property
    def total(self) -> np.ndarray:
        return sum(self.counts.values())

    def always_largest(self) -> tuple[str, float] | None:
        """The class that is right most often where it is always answered, and how often; None
        where there is none, or where what is counted is no answer."""
        judged = self.counts.get("Eval", self.total)
        if self.counted != "images" or not judged.sum():
            return None
        return self.names[int(judged.argmax())], float(judged.max() / judged.sum())

    def warnings(self) -> list[str]:
        """Classes that are too small to learn or to score."""
        total, found = self.total, []
        few = [name for name, count in zip(self.names, total) if count == 1]
        if few:
            found.append(
                f"classes with 1 of the {self.counted}: {some(few)}; it can be learnt or scored, "
                "not both: collect more, or leave the class out"
            )
        there = total[total > 0]
        if len(there) > 1 and there.max() > UNEVEN * there.min():
            large, small = self.names[int(total.argmax())], self.names[_smallest(total)]
            even = "look at the scores of each class, too"
            if self.counted == "images":
                even = "ClassBalancedSampler, or class_weight: auto of the loss, evens that out"
            times = f"{there.max() / there.min():,.0f} times"
            found.append(f"the class {large} has {times} the {self.counted} of {small}; {even}")
        return found

    def lines(self) -> list[str]:
        """The table as text, the largest classes first where there are many."""
        total = self.total
        order: Sequence[int] = range(len(self.names))
        if len(self.names) > _ROWS:
            order = np.argsort(-total, kind="stable").tolist()
        shown = order if len(order) <= _ROWS else [*order[: _ROWS // 2], *order[-_ROWS // 2 :]]
        width = max(5, *(len(self.names[i]) for i in shown))
        heads = [*self.counts, "share"]
        lines = [f"{'class':<{width}}" + "".join(f"  {head:>9}" for head in heads)]
        for place, i in enumerate(shown):
            if len(shown) < len(order) and place == _ROWS // 2:
                lines.append(f"... {len(order) - len(shown):,} classes between")
            cells = [f"{own[i]:,}" for own in self.counts.values()]
            cells.append(f"{total[i] / max(total.sum(), 1):.1%}")
            lines.append(f"{self.names[i]:<{width}}" + "".join(f"  {cell:>9}" for cell in cells))
        found = self.always_largest()
        if found:
            lines.append(f"always answering {found[0]} is right for {found[1]:.1%}")
        return lines

    def as_dict(self) -> dict[str, dict[str, int]]:
        """For JSON: name -> split -> count."""
        return {
            name: {split: int(own[i]) for split, own in self.counts.items()}
            for i, name in enumerate(self.names)
        }


def _smallest(total: np.ndarray) -> int:
    """The place of the smallest class that occurs."""
    return int(np.where(total > 0, total, total.max() + 1).argmin())
