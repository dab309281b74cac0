"""A recipe that is right, and complete: what it leaves out because another key says it already.

`Infer.transforms` are those of `DataLoader.Eval` unless a recipe states others. Each command
makes one `Recipe` of its tree and hands it on: the tree is checked once.
Read before: check.py. Read next: image_size.py, recipe/start.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ppcls_lite.config.check import check
from ppcls_lite.config.dataset_dir import fill_in
from ppcls_lite.config.image_size import changed, component_at, nodes_of, resize
from ppcls_lite.config.node import Node
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.config.timm import options_for
from ppcls_lite.config.walk import is_ignored
from ppcls_lite.errors import ConfigError, shown

Tree = dict[str, Any]
LAST = "ToCHWImage"  # what every chain ends with, whether it is written or not
_SIDES = ("Infer.transforms", "DataLoader.Eval")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        tree: plain maps and lists with everything that was left out; for export and config.yaml.
        settings: the same as settings.py describes it.
        notes: what a log should say of keys without effect.
        warnings: what a log should warn of.
    """

    tree: Tree
    settings: RecipeSettings
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, tree: Tree | Recipe) -> Recipe:
        """The recipe of a plain tree, as `load_config` gives it, which stays as it is.

        Raises ConfigError with every mistake in it.
        """
        if isinstance(tree, cls):
            return tree
        if not isinstance(tree, dict):
            raise ConfigError(
                f"expected a recipe as load_config(FILE) gives it, found {shown(tree)}"
            )
        notes: list[str] = []
        tree = fill_in(plain_copy(tree))
        tree, settings = resize(tree, check(tree, notes))
        tree, settings = _with_options(tree, settings)
        tree, settings, warnings = _follow_evaluation(tree, settings)
        return cls(tree, settings, tuple(notes), warnings)


def _with_options(tree: Tree, settings: RecipeSettings) -> tuple[Tree, RecipeSettings]:
    """With the options that networks need for the weights of other toolkits, stated in the tree."""
    changes = {}
    for node in nodes_of(settings):
        given = getattr(node.extras, "pretrained", None)
        try:
            options = options_for(node.entry.name, given)
        except ConfigError as error:
            raise ConfigError(f"{node.path}.pretrained: {error}") from None
        missing = {key: value for key, value in options.items() if key not in node.arguments}
        if missing:
            changes[node.path] = missing
    for path, arguments in changes.items():
        component_at(tree, path).update(arguments)
    return tree, changed(settings, changes)


def plain_copy(value: Any) -> Any:
    """A copy of maps and lists that shares nothing, not even what one YAML anchor stands for.

    A text such as `~/data` is a path, whose `~` is the home folder, wherever it stands.
    """
    if isinstance(value, dict):
        return {key: plain_copy(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("~"):
        return os.path.expanduser(value)  # noqa: PTH111 (Path drops a last slash)
    return [plain_copy(item) for item in value] if isinstance(value, list) else value


def _follow_evaluation(
    tree: Tree, settings: RecipeSettings
) -> tuple[Tree, RecipeSettings, tuple[str, ...]]:
    """With `Infer.transforms`; a warning where they are stated and are not the evaluation's."""
    infer, data = settings.Infer, settings.DataLoader
    if infer is None:
        return tree, settings, ()
    dataset = data.Eval.dataset if data and data.Eval else None
    ops: list[Node] | None = dataset.arguments.get("transform_ops") if dataset else None
    if infer.transforms is not None:
        difference = _difference(ops, infer.transforms) if ops else None
        return tree, settings, (difference,) if difference else ()
    if ops is None:
        raise ConfigError(
            "Infer.transforms: is missing, and so are the transforms of DataLoader.Eval, which it "
            "would follow; give one of the two"
        )
    followed = plain_copy(component_at(tree, dataset.path)["transform_ops"])
    if all(op.entry.name != LAST for op in ops):
        followed.append({LAST: None})
    section = dict(tree["Infer"])
    section.pop("transforms", None)
    after = {key: section.pop(key) for key in list(section)[list(section).index("PostProcess") :]}
    tree = tree | {"Infer": {**section, "transforms": followed, **after}}
    infer = dataclasses.replace(infer, transforms=ops)
    return tree, dataclasses.replace(settings, Infer=infer), ()


def _difference(evaluation: Sequence[Node], infer: Sequence[Node]) -> str | None:
    """The first place where prediction prepares images in another way than evaluation does."""
    chains = [[op for op in ops if op.entry.name != LAST] for ops in (infer, evaluation)]
    for own, other in itertools.zip_longest(*chains):
        if own is None or other is None:
            there, missing = _SIDES if other is None else reversed(_SIDES)
            where, what = (own or other).path, f"is in {there} only: {missing} ends before it"
        elif own.entry != other.entry:
            where, what = own.path, f"is {own.entry.name}, but {other.path} is {other.entry.name}"
        else:
            names = [a.name for a in own.entry.arguments if not is_ignored(a.type)]
            name = next((n for n in names if own.get(n) != other.get(n)), None)
            if name is None:
                continue
            where, what = (f"{op.path}.{name}" for op in (own, other))
            what = f"is {own.get(name)!r}, but {what} is {other.get(name)!r}"
        return f"{where}: {what}; leave Infer.transforms out to have DataLoader.Eval's"
    return None
