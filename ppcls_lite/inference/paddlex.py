"""`inference.yml` in the words of PaddleX, where it can say the same.

PaddleX 3 (inference/models/image_classification) knows classifiers by names of its own, decodes by
itself, and then resizes, crops, normalises and transposes in this order, whatever the order of the
list. So a chain and post-processing that mean the same there are written as it reads them, without
DecodeImage; all others keep DecodeImage, which it refuses: better than another answer.
Read before: spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_lite.config.check import checked
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.node import Node
from ppcls_lite.data.transforms.normalize import IMAGENET_MEAN, IMAGENET_STD, SCALE
from ppcls_lite.errors import ConfigError

_NAMES = {"MobileNetV1": "MobileNetV1_x1_0", "MobileNetV2": "MobileNetV2_x1_0"}
_SPELLED = {  # beginnings of ours -> theirs
    "PPLCNet": "PP-LCNet",
    "PPHGNetV2_": "PP-HGNetV2-",
    "StarNet_": "StarNet-",
    "FasterNet_": "FasterNet-",
}
_STEPS = ("ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage")  # in its order
_ALWAYS = {"ResizeImage", "NormalizeImage"}
_MUST_BE = {  # what it does whatever the list says, or refuses to do otherwise
    "DecodeImage": {
        "to_rgb": True,
        "channel_first": False,
        "backend": "cv2",
        "reduced": False,
        "channels": 3,
    },
    "ResizeImage": {"keep_ratio": False, "size_divisor": None, "long_edge": "round"},
    "CropImage": {"offset": "cut"},
    "NormalizeImage": {"order": "", "channel_num": 3, "output_fp16": False},
}
_INTERPOLATIONS = {
    "cv2": {"bilinear": "linear", "box": "area", "lanczos": "lanczos4"},
    "pil": {"area": "box", "lanczos": "lanczos4"},
}
_THEIRS = {"linear": "bilinear", "lanczos4": "lanczos"}
_POSTPROCESS = {  # ours -> theirs, and the number that it asks for
    "Topk": ("Topk", "topk"),
    "DistillationPostProcess": ("Topk", "topk"),
    "MultiLabelThreshOutput": ("MultiLabelThreshOutput", "threshold"),
}


def model_name(name: str) -> str:
    """What PaddleX calls a network of the zoo; other names stay."""
    for ours, theirs in _SPELLED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return _NAMES.get(name, name)


def written(
    ops: Sequence[Any], postprocess: Mapping[str, Any], plugins: Sequence[str] = ()
) -> dict[str, Any] | None:
    """`PreProcess` and `PostProcess` as PaddleX reads them; None where it cannot say the same.

    What is left of DecodeImage, which has no effect on the pixels, stands beside `transform_ops`.
    """
    try:
        nodes = [checked(op, "transform", plugins) for op in ops]
        answer = checked(dict(postprocess), "postprocess", plugins)
    except ConfigError:
        return None
    if nodes and nodes[0].entry.name == "DecodeImage":
        decode, *nodes = nodes
    else:
        decode = checked("DecodeImage", "transform")
    steps = {node.entry.name: node for node in nodes}
    in_order = [name for name in _STEPS if name in steps]
    if [node.entry.name for node in nodes] != in_order or not steps.keys() >= _ALWAYS:
        return None
    if not all(_is_theirs(node) for node in (decode, *nodes)):
        return None
    answers = _answers(answer, "CropImage" in steps)
    resize = _resize(steps["ResizeImage"])
    if answers is None or resize is None:
        return None
    crop = {"CropImage": {"size": steps["CropImage"].get("size")}} if "CropImage" in steps else None
    rest = {key: decode.get(key) for key in ("max_megapixels",) if key in decode.arguments}
    chain = [resize, crop, _normalize(steps["NormalizeImage"]), {"ToCHWImage": None}]
    return {
        "PreProcess": {
            **({"DecodeImage": rest} if rest else {}),
            "transform_ops": [step for step in chain if step],
        },
        "PostProcess": answers,
    }


def read(section: Mapping[str, Any], ops: Sequence[Any]) -> list[Any]:
    """The `transform_ops` of a file's section `PreProcess` in our words."""
    decode = section.get("DecodeImage")
    ours = [_read_step(op) for op in ops]
    return ours if decode is None else [{"DecodeImage": decode}, *ours]


def _read_step(op: Any) -> Any:
    try:
        name, arguments = take_apart(op)
    except ConfigError:
        return op  # whoever builds it says what is wrong
    found = arguments.get("interpolation") if isinstance(arguments, dict) else None
    if name != "ResizeImage" or not isinstance(found, str):
        return op
    interpolation = _THEIRS.get(found.lower(), found.lower())
    return {name: {**arguments, "interpolation": interpolation}}


def _is_theirs(node: Node) -> bool:
    fixed = _MUST_BE.get(node.entry.name, {})
    return all(node.get(key) == value for key, value in fixed.items())


def _resize(node: Node) -> dict[str, Any] | None:
    """ResizeImage; None for an interpolation that it does not have."""
    backend, interpolation = node.get("backend"), node.get("interpolation") or "bilinear"
    if interpolation in ("random", "hamming"):
        return None
    edge = "size" if node.get("resize_short") is None else "resize_short"
    arguments = {edge: node.get(edge)}
    if (backend, interpolation) != ("cv2", "bilinear"):
        arguments["backend"] = backend
        arguments["interpolation"] = _INTERPOLATIONS[backend].get(interpolation, interpolation)
    return {"ResizeImage": arguments}


def _normalize(node: Node) -> dict[str, Any]:
    """NormalizeImage with all its numbers."""
    numbers = {"scale": SCALE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    said = {name: node.get(name) or default for name, default in numbers.items()}
    plain = {name: list(n) if isinstance(n, Sequence) else n for name, n in said.items()}
    return {"NormalizeImage": {**plain, "order": "", "channel_num": 3}}


def _answers(node: Node, crops: bool) -> dict[str, Any] | None:
    """The post-processing; of several labels it has no crop, and needs names.

    It answers always, and by the scores as they are.
    """
    certain = any(node.arguments.get(key) is not None for key in ("temperature", "reject_below"))
    if node.entry.name not in _POSTPROCESS or certain:
        return None
    name, number = _POSTPROCESS[node.entry.name]
    labels = node.get("label_list")
    if name != "Topk" and (crops or labels is None):
        return None
    return {name: {number: node.get(number), **({"label_list": labels} if labels else {})}}
