"""`Global.image_size: N`: one key for every size in a recipe's transforms; `eval_image_size: M`
for those of evaluation and prediction, which may be larger than the crops of training.

What the images of a list of transforms end up as becomes N x N, and what the components mark as
pixels (`Pixels` in schema.py) grows or shrinks with it: the short edge of 256 before a crop of 224
becomes 219 before one of 192. Read before: complete.py.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ppcls_lite.config.node import Node
from ppcls_lite.config.schema import Pixels
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.errors import ConfigError

KEEPS_RATIO = "keep_ratio"  # an argument of transforms whose size is a limit
Tree = dict[str, Any]
Changes = dict[str, dict[str, Any]]  # a component's place in the recipe -> new arguments


def resize(tree: Tree, settings: RecipeSettings) -> tuple[Tree, RecipeSettings]:
    """Both with the sizes that `Global.image_size` asks for, if it does; `tree` is changed.

    Raises ConfigError that names the keys whose sizes it cannot set.
    """
    train, shape = settings.Global.image_size, settings.Global.image_shape
    test = settings.Global.eval_image_size or train
    if test is None:
        return tree, settings
    changes: Changes = {}
    problems: list[str] = []
    for place, ops, others in _lists(settings):
        size = train if place.startswith("DataLoader.Train") else test
        edge = _edge(ops, place, problems) if size else None
        for node in (*ops, *others) if edge else ():
            found = {
                name: _scaled(value, size / edge, _step(node, marks))
                for name, value, marks in _lengths(node)
            }
            changes |= {node.path: found} if found else {}
    if problems:
        key = f"image_size: {train}" if train else f"eval_image_size: {test}"
        head = f"Global.{key} cannot be set everywhere; use -o for each size instead:"
        raise ConfigError("\n  ".join([head, *problems]))
    for path, arguments in changes.items():
        component_at(tree, path).update(arguments)
    settings = changed(settings, changes)
    if shape is not None:
        tree["Global"]["image_shape"] = shape = [shape[0], test, test]
        run = dataclasses.replace(settings.Global, image_shape=shape)
        settings = dataclasses.replace(settings, Global=run)
    return tree, settings


def component_at(tree: Tree, path: str) -> Tree:
    """The arguments that stand at a checked component's `path`; written as a map if need be."""
    *way, last = path.split(".")
    place: Any = tree
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    slot = int(last) if isinstance(place, list) else last
    if isinstance(place[slot], str):
        place[slot] = {"name": place[slot]}
    elif place[slot] is None:
        place[slot] = {}
    return place[slot]


def _lists(settings: RecipeSettings) -> Iterator[tuple[str, Sequence[Node], Sequence[Node]]]:
    """Each list of transforms with its place, and what else draws sizes for it."""
    for split in ("Train", "Eval"):
        section = getattr(settings.DataLoader, split, None)
        ops = section.dataset.arguments.get("transform_ops") if section else None
        if ops is not None:
            others = [section.sampler]
            if split == "Eval" and isinstance(settings.Arch, Node):
                others.append(settings.Arch)  # a network may be made for one size
            yield f"{section.dataset.path}.transform_ops", ops, others
    if settings.Infer and settings.Infer.transforms is not None:
        yield "Infer.transforms", settings.Infer.transforms, []


def _edge(ops: Sequence[Node], place: str, problems: list[str]) -> int | None:
    """The edge of the images that the transforms give; a problem where it is not to be had."""
    sizes = [
        (op, name, value)
        for op in ops
        for name, value, marks in _lengths(op)
        if any(mark.exact for mark in marks)
    ]
    if not sizes:
        names = ", ".join(op.entry.name for op in ops)
        problems.append(f"{place}: none of its transforms sets the size of an image: {names}")
        return None
    op, name, value = sizes[-1]
    if op.get(KEEPS_RATIO):
        problems.append(
            f"{op.path}.{name}: with {KEEPS_RATIO} images are no squares but keep their ratio"
        )
        return None
    edges = {value} if isinstance(value, int) else set(value)
    if len(edges) > 1:
        problems.append(f"{op.path}.{name}: is {value}, which is not square")
        return None
    return edges.pop()


def _lengths(node: Node) -> Iterator[tuple[str, Any, list[Pixels]]]:
    """Name and value of a component's arguments in pixels, and what marks them as such."""
    for argument in node.entry.arguments:
        marks = _marks(argument.type)
        if marks and node.get(argument.name) is not None:
            yield argument.name, node.get(argument.name), marks


def _step(node: Node, marks: Sequence[Pixels]) -> int:
    """What an argument's lengths have to be multiples of."""
    names = [mark.multiple_of for mark in marks if mark.multiple_of is not None]
    return int(node.get(names[0])) if names else 1


def _marks(kind: Any) -> list[Pixels]:
    own = [mark for mark in typing.get_args(kind) if isinstance(mark, Pixels)]
    return own + [mark for part in typing.get_args(kind) for mark in _marks(part)]


def _scaled(value: Any, factor: float, step: int) -> Any:
    """The nearest multiples of `step`, of which there is one at least."""
    if isinstance(value, (list, tuple)):
        return [_scaled(item, factor, step) for item in value]
    return step * max(1, round(value * factor / step))


def nodes_of(value: Any) -> Iterator[Node]:
    """All checked components inside settings."""
    if isinstance(value, Node):
        yield value
        value = value.arguments
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    inside = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    )
    for item in inside:
        yield from nodes_of(item)


def changed(value: Any, changes: Mapping[str, Mapping[str, Any]]) -> Any:
    """A copy of settings with the new arguments."""
    if isinstance(value, Node):
        inside = {key: changed(item, changes) for key, item in value.arguments.items()}
        return value.given(**inside | changes.get(value.path, {}))
    if isinstance(value, list):
        return [changed(item, changes) for item in value]
    if dataclasses.is_dataclass(value):
        inside = {
            f.name: changed(getattr(value, f.name), changes) for f in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **inside)
    return value
