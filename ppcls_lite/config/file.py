"""From a YAML file and `-o` overrides to one plain tree of dicts and lists.

Three additions to plain YAML: `_base_` (one file or a list, relative to the file that names them,
merged key by key, later ones winning), `_replace_: true` in a map (take this map instead of
merging it into the base's), and numbers such as `1e-4` read as numbers. What the tree may hold is
the business of check.py. Read before: yaml_reader.py. Read next: check.py.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ppcls_lite.config.yaml_reader import MAX_DEPTH, BoundedLoader, in_file, read_yaml, reason
from ppcls_lite.errors import ConfigError, cut, joined, shown

BASE, REPLACE = "_base_", "_replace_"
_ALONE = (REPLACE, True)  # how a map says that it replaces the base's
RUN_CONFIG = "config.yaml"  # the resolved recipe in the folder of a run
MAX_BASES = 20
MAX_NAME = 100  # letters of a name for which a similar one is looked for
_HERE = Path(__file__).resolve().parent.parent
HOMES = (_HERE / "configs", _HERE.parent / "configs")  # as installed by pip, and in a checkout


class RecipeLoader(BoundedLoader):
    """With `1e-4`, which YAML 1.2 reads as a number, too."""

    max_nodes = 50_000


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe: the file, its bases, then the overrides `path.to.key=value` in order.

    The folder of a run stands for the recipe in it, with this folder as the run's place.
    Raises ConfigError for a missing or broken file and for an override that leads nowhere.
    """
    tree = _read_with_bases(find_config(path), ())
    if is_run(path):
        overrides = [*_place(tree, Path(path).absolute()), *overrides]
    problems = [p for p in (_override(tree, text) for text in overrides) if p]
    if problems:
        raise ConfigError(joined(problems))
    return tree


def _place(tree: dict[str, Any], folder: Path) -> list[str]:
    """Overrides that make `folder` the place of the run whose recipe `tree` is."""
    arch = tree.get("Arch")
    named = isinstance(arch, dict) and arch.get("name") == folder.name
    name = None if named else folder.name
    place = {"output_dir": str(folder.parent), "run_name": name}
    return [f"Global.{key}={json.dumps(value)}" for key, value in place.items()]


def find_config(path: str | Path) -> Path:
    """The file itself, or the one of that name among the recipes that come with the package."""
    path = Path(path)
    if is_file(path):
        return path
    if is_run(path):
        return path / RUN_CONFIG
    installed = packaged(path)
    if installed:
        return installed
    near = path.parent.glob("*.yaml") if is_folder(path.parent) else ()
    known = {f.name for f in (*near, *(f for home in HOMES for f in home.rglob("*.yaml")))}
    close = difflib.get_close_matches(path.name[:MAX_NAME], known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    kind = "is a folder, not a YAML file" if is_folder(path) else "no such file"
    where = cut(str(path.parent.absolute()), 500)
    raise ConfigError(f"-c {cut(str(path), 500)}: {kind} (looked in {where}){hint}")


def is_run(path: str | Path) -> bool:
    """Whether it is the folder of a run, which holds the run's recipe."""
    return is_folder(path) and is_file(Path(path) / RUN_CONFIG)


def is_file(path: str | Path) -> bool:
    """Whether it is a file; False, not an error as with Path, for a name that no file can have."""
    return os.path.isfile(Path(path))  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """The same for a folder; an empty path is the working directory."""
    return os.path.isdir(Path(path))  # noqa: PTH112


def base_name(path: str) -> str:
    """What `_base_` calls a recipe from any folder: a recipe of the package keeps its name."""
    return path if packaged(Path(path)) else str(find_config(path).resolve())


def packaged(path: Path) -> Path | None:
    """The recipe of that name, `configs/NAME` or `NAME`, among those of the package."""
    parts = path.parts[path.parts.index("configs") + 1 :] if "configs" in path.parts else path.parts
    places = [home.joinpath(*parts) for home in HOMES if not path.is_absolute()]
    return next((place for place in places if is_file(place)), None)


def parse_value(text: str) -> Any:
    """One YAML value from a command line: `192`, `1e-4`, `[1, 5]`, `true`, `null`, `a/path`."""
    return read_yaml(text, RecipeLoader)


def dump(tree: dict[str, Any]) -> str:
    """The tree as YAML text, in its own order."""

    class _Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _read_with_bases(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in below:
        chain = " -> ".join(str(p) for p in (*below, resolved))
        raise ConfigError(f"{path}: {BASE} leads in a circle: {chain}")
    own = _with_plugins_beside(_read(path), path.parent)
    tree: dict[str, Any] = {}
    for base in _bases(own.pop(BASE, []), path):
        base_path = path.parent / base
        if not is_file(base_path):
            base_path = packaged(Path(base))  # a recipe that came with pip
        if base_path is None:
            missing = cut(str(path.parent / base), 300)
            name = cut(base, 100)
            raise ConfigError(f"{path}: {BASE} names {name}, but there is no file {missing}")
        tree = merged_over(tree, _read_with_bases(base_path, (*below, resolved)), _ALONE)
    return _without_marks(merged_over(tree, own, _ALONE))


def _bases(value: Any, path: Path) -> list[str]:
    """What `_base_` names: a text, or a list of texts."""
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names) or len(names) > MAX_BASES:
        raise ConfigError(
            f"{path}: {BASE}: expected a file or a list of at most {MAX_BASES}, found "
            f"{shown(value)}; leave the key out where there is no base"
        )
    return names


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8-sig"), RecipeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(in_file(path, error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 text file: {error.reason}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"{path}: expected sections such as Global and Arch, found {found}")
    return tree


def _with_plugins_beside(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`tree`; a file of its `Global.plugins` that lies in `folder`, beside the recipe, is named so.

    Any other stays relative to the working directory, like all paths of a recipe.
    """
    run = tree.get("Global")
    files = run.get("plugins") if isinstance(run, dict) else None
    if isinstance(files, list):
        beside = [isinstance(file, str) and is_file(folder / file) for file in files]
        run["plugins"] = [str(folder / f) if there else f for f, there in zip(files, beside)]
    return tree


def merged_over(
    base: dict[str, Any], own: dict[str, Any], alone: tuple[str, bool]
) -> dict[str, Any]:
    """`own` over `base`: maps merge key by key, everything else (lists too) is replaced.

    alone: key and value by which a map says that it replaces the base's instead.
    """
    mark, says = alone
    if own.get(mark) is says:
        return own
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key)
        both_maps = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merged_over(old, value, alone) if both_maps else copy.deepcopy(value)
    return merged


def difference(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What a file whose `_base_` is `base` has to say to be `own`: the way back of the merge."""
    if not base.keys() <= own.keys():
        return {REPLACE: True, **own}
    said = {}
    for key, value in own.items():
        both_maps = isinstance(value, dict) and isinstance(base.get(key), dict)
        if key not in base or type(value) is not type(base[key]) or value != base[key]:
            said[key] = difference(base[key], value) if both_maps else value
    return said


def _without_marks(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_marks(v) for k, v in tree.items() if (k, v) != _ALONE}
    return [_without_marks(v) for v in tree] if isinstance(tree, list) else tree


def _override(tree: dict[str, Any], text: str) -> str | None:
    """Apply `a.b.0.c=value` in place; the problem as a text if it leads nowhere."""
    path, equals, value_text = text.partition("=")
    keys = path.strip().split(".")
    text = cut(text, 200)
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        return f"-o {text}: expected path.to.key=value, e.g. -o Global.epochs=10"
    try:
        value = parse_value(value_text)
    except yaml.YAMLError as error:
        return f"-o {text}: the value is not valid YAML: {reason(error)}"
    place: Any = tree
    for depth, key in enumerate(keys):
        here = cut(".".join(keys[:depth]), 200)
        is_index = key.isascii() and key.isdecimal() and len(key) < 10
        slot: Any = key
        if isinstance(place, list):
            if not is_index or int(key) >= len(place):
                last = f"0 to {len(place) - 1}" if place else "none: the list is empty"
                return (
                    f"-o {text}: {here} is a list; expected an index ({last}), found {shown(key)}"
                )
            slot = int(key)
        elif not isinstance(place, dict):
            return f"-o {text}: {here} is {shown(place)}, which has nothing below it"
        elif is_index:
            return f"-o {text}: {here} is no list in this recipe, so it has no item {key}"
        if depth == len(keys) - 1:
            place[slot] = value
            return None
        below = place[slot] if isinstance(place, list) else place.get(slot)
        if below is None:
            below = place[slot] = {}
        elif isinstance(below, str) and keys[depth + 1] == below and isinstance(place, list):
            below = place[slot] = {below: {}}  # `- ToCHWImage` written without arguments
        place = below
    return None
