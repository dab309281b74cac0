"""The two ways in which a recipe writes a component: `{name: X, key: value}` and `X: {key: value}`.

Read next: check.py, registry.py.
"""

from __future__ import annotations

from typing import Any

from ppcls_lite.errors import ConfigError, cut, shown


def take_apart(node: Any, kind: str = "component") -> tuple[Any, Any]:
    """Name and arguments as they are written, unchecked; `X` alone and `X: null` have none.

    Raises:
        ConfigError: neither of the ways; says what was found, the caller puts the place before it.
    """
    if isinstance(node, str):
        return node, {}
    if isinstance(node, dict) and "name" in node:
        return node["name"], {key: value for key, value in node.items() if key != "name"}
    if isinstance(node, dict) and len(node) == 1:
        ((name, arguments),) = node.items()
        return name, {} if arguments is None else arguments
    found = f"the keys {', '.join(map(shown, node))}" if isinstance(node, dict) else shown(node)
    raise ConfigError(
        f"expected one {kind}, `{{name: X, ...}}` or `X: {{...}}`, found {cut(found, 300)}"
    )
