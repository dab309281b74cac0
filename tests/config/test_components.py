"""A component is taken apart in one way, whichever way it is written."""

from __future__ import annotations

from typing import Any

import pytest

from ppcls_lite.config.components import take_apart
from ppcls_lite.errors import ConfigError


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Topk", ("Topk", {})),
        ({"Topk": None}, ("Topk", {})),
        ({"Topk": {"topk": 5}}, ("Topk", {"topk": 5})),
        ({"name": "Topk"}, ("Topk", {})),
        ({"topk": 5, "name": "Topk"}, ("Topk", {"topk": 5})),
        ({"Topk": 5}, ("Topk", 5)),
    ],
)
def test_the_ways_to_write_a_component(node: Any, expected: tuple[str, Any]) -> None:
    assert take_apart(node) == expected


@pytest.mark.parametrize(
    ("node", "found"), [({}, "the keys "), ({"a": 1, "b": 2}, "the keys 'a', 'b'"), (7, "7")]
)
def test_anything_else_says_what_was_found(node: Any, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        take_apart(node, "loss")
    assert str(caught.value) == (
        f"expected one loss, `{{name: X, ...}}` or `X: {{...}}`, found {found}"
    )


def test_the_node_stays_as_it_was() -> None:
    node = {"name": "Topk", "topk": 5}
    take_apart(node)[1]["topk"] = 1
    assert node == {"name": "Topk", "topk": 5}
