"""YAML from anybody: read within bounds, and with numbers as YAML 1.2 writes them.

A few bytes of YAML can stand for gigabytes (aliases of aliases), for an endless structure (an
anchor inside itself) or for a nesting that no recursion survives; all of it is an error here, as is
a scalar that its tag does not fit (`!!int abc`). `1:30` and `2020-01-31` are texts, as in YAML 1.2:
version 1.1 makes 90 and a date of them. Read next: file.py (recipes), inference/spec.py
(inference.yml).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ppcls_lite.errors import cut

MAX_BYTES = 4_000_000  # of a file; inference.yml with the names of 100,000 classes has half of it
MAX_DEPTH = 50  # of lists and maps in one another
_TOO_DEEP = f"more than {MAX_DEPTH} lists and maps in one another"
_MAX_BITS = 1024  # of an integer, 308 digits; Python prints none of more than 4,300
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # in no file name, and not to be printed
_MERGE = "tag:yaml.org,2002:merge"
_OTHER_IN_1_2 = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
# PyYAML's own, without the numbers to the base 60.
_INT = re.compile(r"^[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class BoundedLoader(yaml.SafeLoader):
    """A safe loader that also refuses what is too large, and a key that stands twice in a map."""

    max_nodes: ClassVar[int] = 200_000  # scalars, lists and maps with every alias written out
    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        first: [pair for pair in pairs if pair[0] not in _OTHER_IN_1_2]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.count = 0
        self.sizes: dict[int, tuple[int, int] | None] = {}  # id of a node -> (nodes, depth) below

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH:
            raise _refused(_TOO_DEEP, self.peek_event().start_mark)
        if self.count > self.max_nodes:
            raise self.too_many(self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self.measure(node)
        return node

    def measure(self, node: yaml.Node) -> tuple[int, int]:
        """How many nodes stand below, aliases written out, and in how many levels; both bounded."""
        key = id(node)
        if key in self.sizes:
            known = self.sizes[key]
            if known is None:
                raise _refused("an anchor stands inside itself", node.start_mark)
            return known
        self.sizes[key] = None
        if isinstance(node, yaml.ScalarNode):
            if _UNUSABLE.search(node.value):
                raise _refused("a text with a character that no file may hold", node.start_mark)
            parts = []
        elif isinstance(node, yaml.MappingNode):
            self.compare_keys(node)
            parts = [self.measure(part) for pair in node.value for part in pair]
        else:
            parts = [self.measure(part) for part in node.value]
        count = 1 + sum(count for count, _ in parts)
        depth = 1 + max((depth for _, depth in parts), default=0)
        if count > self.max_nodes:
            raise self.too_many(node.start_mark)
        if depth > MAX_DEPTH:
            raise _refused(_TOO_DEEP, node.start_mark)
        self.sizes[key] = count, depth
        return count, depth

    def too_many(self, mark: yaml.Mark) -> yaml.YAMLError:
        return _refused(f"more than {self.max_nodes:,} values, aliases written out", mark)

    def compare_keys(self, node: yaml.MappingNode) -> None:
        """Before the merge keys (`<<`) are resolved: a map may repeat what it merges."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused("a map or list cannot be a key", key_node.start_mark)
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise _refused(f"the key {key!r:.60} is given twice", key_node.start_mark)
            seen.add(key)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            text = f"expected a value of the kind {kind}, found {node.value!r:.60}"
            raise _refused(text, node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise _refused("an integer of more than 300 digits", node.start_mark)
        return value


BoundedLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
BoundedLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))


def read_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """The value that a YAML text stands for; yaml.YAMLError where it has none within the bounds."""
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"{len(text):,} characters, of which at most {MAX_BYTES:,} are read")
    return yaml.load(text, loader)


def reason(error: yaml.YAMLError) -> str:
    """What is wrong, in one line, without the place."""
    marked = isinstance(error, yaml.MarkedYAMLError)
    text = (error.problem or error.context or "") if marked else str(error)
    return cut(" ".join(text.split()), 300)


def in_file(path: str | Path, error: yaml.YAMLError) -> str:
    """The message about a file that is not YAML, with line and column where they are known."""
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    return f"{place}: not valid YAML: {reason(error)}"


def _refused(problem: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
