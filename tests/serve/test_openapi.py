"""The OpenAPI description: its schemas are right, and no reference in it leads nowhere."""

from __future__ import annotations

import json

import pytest

from ppcls_lite.serve.openapi import description, schema
from ppcls_lite.serve.options import ServeOptions


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, {"type": "boolean"}),
        (1, {"type": "integer"}),
        (0.5, {"type": "number"}),
        ([1, 2], {"type": "array", "items": {"type": "integer"}}),
        ([], {"type": "array", "items": {}}),
        ([1, "a"], {"type": "array", "items": {}}),
        ({"a": None}, {"type": "object", "properties": {"a": {"type": "null"}}}),
    ],
)
def test_a_schema_is_read_off_a_value(value: object, expected: object) -> None:
    assert schema(value) == expected


def test_the_limits_of_this_service_are_in_it() -> None:
    options = ServeOptions(max_bytes=1_234_567, max_pixels=1_000_000)
    text = json.dumps(description("N", "1", options, {"class_ids": [1]}))
    assert "1,234,567 bytes" in text and "1,000,000 pixels" in text


def test_it_is_valid_openapi() -> None:
    validate = pytest.importorskip("openapi_spec_validator").validate
    for example in (None, {"class_ids": [1], "scores": [0.5], "mask": {"size": [1, 2]}}):
        validate(description("N", "1", ServeOptions(), example))
