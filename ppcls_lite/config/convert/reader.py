"""A foreign YAML file and its bases as one tree, within the bounds of yaml_reader.py.

PaddleSeg names a file's bases `_base_` (a text or a list) and leaves a map of them out where the
own one says `_inherited_: false`; PaddleDetection names them `_BASE_`, and writes `!CosineDecay`
before a map, which becomes its `name` here. Maps merge key by key, lists replace.
Read next: keys.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ppcls_lite.config.file import RecipeLoader, is_file, merged_over
from ppcls_lite.config.yaml_reader import in_file, read_yaml
from ppcls_lite.errors import ConfigError, cut, shown

BASES = ("_base_", "_BASE_")
INHERITED = "_inherited_"
_ALONE = (INHERITED, False)  # how a map says that it replaces the base's
MAX_FILES = 40  # that a recipe is made of


class _Loader(RecipeLoader):
    """With tags as the names of maps."""


def _named(loader: _Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {"name": tag, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return {"name": tag}
    raise yaml.constructor.ConstructorError(
        None, None, f"expected a map behind !{cut(tag, 60)}", node.start_mark
    )


_Loader.add_multi_constructor("!", _named)


def read_foreign(path: str | Path) -> dict[str, Any]:
    """The tree of a file over its bases.

    Raises ConfigError for a file that is missing or no YAML, and for bases that lead in a circle.
    """
    files: list[Path] = []
    return _without_marks(_read(Path(path), (), files))


def _read(path: Path, below: tuple[Path, ...], files: list[Path]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in below:
        raise ConfigError(f"{path}: its bases lead in a circle")
    files.append(resolved)
    if len(files) > MAX_FILES:
        raise ConfigError(f"{path}: the recipe has more than {MAX_FILES} bases")
    own = _parse(path)
    tree: dict[str, Any] = {}
    for key in BASES:
        value = own.pop(key, [])
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{path}: {key}: expected a file or a list, found {shown(value)}")
            if not is_file(path.parent / name):
                raise ConfigError(
                    f"{path}: {key} names {cut(name, 200)}, but there is no file "
                    f"{cut(str(path.parent / name), 300)}; convert it where its bases are"
                )
            tree = merged_over(tree, _read(path.parent / name, (*below, resolved), files), _ALONE)
    return merged_over(tree, own, _ALONE)


def _parse(path: Path) -> dict[str, Any]:
    if not is_file(path):
        raise ConfigError(f"{cut(str(path), 500)}: there is no such file")
    try:
        tree = read_yaml(path.read_text(encoding="utf-8-sig"), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(in_file(path, error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 text file: {error.reason}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values, found {shown(tree)}")
    return tree


def _without_marks(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_marks(v) for k, v in tree.items() if k != INHERITED}
    return [_without_marks(v) for v in tree] if isinstance(tree, list) else tree
