"""What the service answers, for programs: an OpenAPI 3.1 description of its four addresses.

What an answer looks like depends on the network's post-processing, and this room does not know it:
the schema is read off an answer that the network gave. Read before: app.py.
"""

from __future__ import annotations

from typing import Any

from ppcls_lite.serve.options import ServeOptions

Description = dict[str, Any]
_REFUSALS = {  # status: when
    400: "no valid HTTP/1.1 request",
    408: "the head or the body took longer than --read-timeout",
    413: "more bytes or pixels than the service accepts",
    415: "not an image of a known format",
    422: "empty, damaged, or not to be prepared for this network",
    429: "the queue is full; Retry-After says when to come back",
    431: "more than 65,536 bytes of headers",
    500: "the network's answer is no number, or a bug",
    503: "the service is ending, or its engine does not answer",
    504: "no answer within --timeout",
}
NO_MAPS = "this folder has none; `ppcls-lite export --with-maps` writes them for classifiers"
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def description(
    model: str,
    version: str,
    options: ServeOptions,
    example: Description | None,
    has_maps: bool = False,
) -> Description:
    """The OpenAPI description of a service.

    model: the network's name. example: an answer of it; None: it could not be asked. has_maps:
    whether it can say where in an image it finds a class.
    """
    answer = {"type": "object"} if example is None else schema(example)
    content = {"schema": answer} if example is None else {"schema": answer, "example": example}
    image = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"file": image["schema"]}}
    refusals = {str(status): _json(when, {"schema": _ERROR}) for status, when in _REFUSALS.items()}
    layer = {
        "name": "layer",
        "in": "query",
        "description": "any value: the answer also has a layer, a PNG as base64 to lay over the "
        "photograph, if the network says where things are",
        "schema": {"type": "string"},
    }
    about = "the number of a class: the layer shows where the image speaks for it (Grad-CAM)"
    of_class = {
        "name": "map",
        "in": "query",
        "description": about if has_maps else f"maps of classes: {NO_MAPS}",
        "schema": {"type": "integer"},
    }
    predict = {
        "operationId": "predict",
        "summary": "The network's answer to one image",
        "description": f"JPEG, PNG, WebP, BMP, GIF or TIFF, at most {options.max_bytes:,} bytes "
        f"and {options.max_pixels:,} pixels.",
        "parameters": [layer, of_class],
        "requestBody": {
            "required": True,
            "description": "the image file, or a form with it as the only file",
            "content": {"image/*": image, "multipart/form-data": {"schema": form}},
        },
        "responses": {"200": _json("the answer", content), **refusals},
    }
    facts = {"status": {"type": "string"}, "model": {"type": "string"}}
    health = _json("it answers", {"schema": {"type": "object", "properties": facts}})
    text = {"description": "Prometheus' text format", "content": {"text/plain": {}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "paths": {
            "/predict": {"post": predict},
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether requests are answered",
                    "responses": {
                        "200": health,
                        "503": {**health, "description": "it is ending, or its engine is broken"},
                    },
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Counts and times since the start",
                    "responses": {"200": text},
                }
            },
        },
    }


def schema(value: Any) -> Description:
    """The JSON schema that `value`, as JSON has it, is an example of."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {key: schema(part) for key, part in value.items()}}
    if isinstance(value, list):
        kinds = [schema(part) for part in value]
        return {"type": "array", "items": kinds[0] if kinds and kinds[1:] == kinds[:-1] else {}}
    return {"type": _KINDS[type(value)]}


def _json(about: str, content: Description) -> Description:
    return {"description": about, "content": {"application/json": content}}
