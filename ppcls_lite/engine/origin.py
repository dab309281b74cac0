"""What a run is made of: kept in its checkpoints, and compared when it is resumed.

A resume with another recipe is a user's right, so each difference is said and nothing refused. With
other images or labels the scores before and after mean different things, and images of the
evaluation may have been trained on: that needs a word of consent.
Read before: training_state.py. Read next: ppcls_lite/recipe/train.py, which makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ppcls_lite.errors import UserError

ABSENT = "not stated"
SHOWN = 60  # characters of a value
# of Global: where a run lies and how it starts
PLACES = ("checkpoints", "output_dir", "if_exists", "resume_changed_data")


@dataclass(frozen=True)
class Origin:
    """The recipe, the data and the teachers of a run.

    recipe: the resolved one, path -> value (`flat`). data, teachers: what -> checksum.
    batch: images of an update, all ranks and accumulated batches together.
    changed_data: accept other data.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)
    batch: int = 0
    changed_data: bool = False

    def state(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        return {
            "recipe": dict(self.recipe),
            "data": dict(self.data),
            "teachers": dict(self.teachers),
            "batch": self.batch,
        }

    def differences(self, saved: Mapping[str, Any], source: str, within_epoch: bool) -> list[str]:
        """A line for each difference to `saved`, a `state()` from the checkpoint `source`.

        Raises `UserError` for other data unless they are accepted, and for another batch within an
        epoch: some of its images would never be seen, or seen twice.
        """
        data = _changes(saved["data"], self.data, values=False)
        if data and not self.changed_data:
            raise UserError(
                f"{source} was trained with other data than this recipe names: {'; '.join(data)}. "
                "The best score so far could not be compared, and images of the evaluation may "
                "have been trained on. Restore the data, or start a new run from the weights with "
                f"-o Global.pretrained_model={source}, or go on nevertheless with "
                "-o Global.resume_changed_data=true"
            )
        if within_epoch and saved["batch"] != self.batch:
            raise UserError(
                f"{source} is in the middle of an epoch of {saved['batch']} images an update; with "
                f"{self.batch} this epoch would leave some images out. Restore the batch size (all "
                "processes and Global.update_freq included), or resume from an epoch's end"
            )
        teachers = _changes(saved["teachers"], self.teachers, values=False)
        return [*_changes(saved["recipe"], self.recipe), *data, *teachers]


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Maps and lists as path -> value; paths are `Optimizer.lr.name`, `transform_ops[1].size`."""
    if isinstance(tree, dict) and tree:
        parts = {f"{path}.{key}" if path else str(key): value for key, value in tree.items()}
    elif isinstance(tree, list) and tree:
        parts = {f"{path}[{place}]": value for place, value in enumerate(tree)}
    else:
        plain = isinstance(tree, (str, int, float)) or tree is None
        return {path: tree if plain else str(tree)}
    return {name: value for part, item in parts.items() for name, value in flat(item, part).items()}


def flat_recipe(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`flat` of a resolved recipe, without what only says where a run lies and how it starts."""
    without = {f"Global.{name}" for name in PLACES}
    return {path: value for path, value in flat(dict(tree)).items() if path not in without}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], values: bool = True) -> list[str]:
    """`name: before -> now` of each name whose value differs; without `values` the name alone."""
    names = [name for name in {**old, **new} if _of(old, name) != _of(new, name)]
    if not values:
        return names
    return [f"{name}: {_of(old, name)} -> {_of(new, name)}" for name in names]


def _of(values: Mapping[str, Any], name: str) -> str:
    text = repr(values[name]) if name in values else ABSENT
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
