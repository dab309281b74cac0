"""PaddleSeg's data sets and transforms as ours. Read before: paddleseg.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppcls_lite.config.convert.keys import Keys
from ppcls_lite.errors import ConfigError, shown

Tree = dict[str, Any]
CLASSES = {"Cityscapes": 19, "PascalVOC": 21, "ADE20K": 150, "OpticDiscSeg": 2}
_INTERPOLATION = {
    **{"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic", "AREA": "area"},
    **{"LANCZOS4": "lanczos"},
}


def dataset(keys: Keys, place: str, split: str) -> Tree:
    """The data set of a split with its transforms; `place` is where it stands here."""
    kind = keys.take("type", f"{place}.name", "Dataset")
    make = {
        "Dataset": _listed,
        "OpticDiscSeg": _optic_disc,
        "Cityscapes": _cityscapes,
        "PascalVOC": _voc,
        "ADE20K": _ade20k,
    }.get(str(kind))
    if make is None:
        raise ConfigError(
            f"{keys.at('type')}: there is no data set {shown(kind)} here; write its lists of "
            "`image mask` lines and use the type Dataset"
        )
    root = str(keys.take("dataset_root", f"{place}.image_root", "data")).rstrip("/")
    found = make(keys, place, split, root)
    keys.drop("num_classes", "is Arch.class_num")
    for key in ("shuffle", "mode"):
        keys.drop(key, "is decided by Train and Eval")
    if keys.peek("img_channels", 3) == 3:
        keys.drop("img_channels", "is always so here")
    if not keys.peek("edge"):
        keys.drop("edge", "is off")
    ops = [op for part in keys.parts("transforms") for op in _transform(part, found)]
    found["transform_ops"] = [{"DecodeImage": {}}, *ops]
    keys.close()
    return found


def _listed(keys: Keys, place: str, split: str, root: str) -> Tree:
    path = keys.take(f"{split}_path", f"{place}.list_path")
    found: Tree = {"name": "SegDataset", "image_root": root, "list_path": path}
    separator = keys.take("separator", f"{place}.separator")
    if separator not in (None, " "):
        found["separator"] = separator
    ignored = keys.take("ignore_index", f"{place}.ignore_index")
    if ignored not in (None, 255):
        found["ignore_index"] = ignored
    if path is None:
        raise ConfigError(f"{keys.at(f'{split}_path')}: is missing; a Dataset needs its list")
    return found


def _optic_disc(keys: Keys, place: str, split: str, root: str) -> Tree:
    return {"name": "SegDataset", "image_root": root, "list_path": f"{root}/{split}_list.txt"}


def _split(keys: Keys, place: str, split: str) -> Any:
    return keys.take("mode", f"{place}.split", split)


def _cityscapes(keys: Keys, place: str, split: str, root: str) -> Tree:
    return {"name": "CityscapesDataset", "image_root": root, "split": _split(keys, place, split)}


def _voc(keys: Keys, place: str, split: str, root: str) -> Tree:
    part = _split(keys, place, split)
    return {"name": "VOCSegDataset", "image_root": f"{root}/VOC2012", "split": part}


def _ade20k(keys: Keys, place: str, split: str, root: str) -> Tree:
    return {"name": "ADE20KDataset", "image_root": root, "split": _split(keys, place, split)}


def _transform(keys: Keys, data: Tree) -> list[Tree]:
    kind = str(keys.take("type", "transform_ops"))
    make = _TRANSFORMS.get(kind)
    if make is None:
        keys.ledger.carried.pop(keys.at("type"), None)
        keys.ledger.lost[keys.at("type")] = f"there is no transform {shown(kind)} here"
        keys.close()
        return []
    found = make(keys)
    if keys.peek("ignore_index") in (255, data.get("ignore_index", 255)):
        keys.drop("ignore_index", "the data set maps it to 255")
    if keys.peek("loop_times") == 10:
        keys.drop("loop_times", "is always so here")
    keys.close()
    name = next(iter(found))
    carried = keys.ledger.carried
    for path in [p for p in carried if p.startswith(f"{keys.path}.")]:
        carried[path] = f"transform_ops: {name}"
    return [found]


def _renamed(name: str, **names: str) -> Callable[[Keys], Tree]:
    """A transform of that name, with the arguments `names`: theirs = ours."""

    def make(keys: Keys) -> Tree:
        return {name: {ours: keys.take(key, ours) for key, ours in names.items() if key in keys}}

    return make


def _with_defaults(name: str, defaults: Tree, **names: str) -> Callable[[Keys], Tree]:
    """The same, with what PaddleSeg takes for arguments that are left out."""
    plain = _renamed(name, **names)
    return lambda keys: {name: {**defaults, **plain(keys)[name]}}


def _normalize(keys: Keys) -> Tree:
    mean, std = (_three(keys.take(key, "NormalizeImage", 0.5)) for key in ("mean", "std"))
    return {"NormalizeImage": {"scale": "1.0/255.0", "mean": mean, "std": std, "order": ""}}


def _three(value: Any) -> list[float]:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    return numbers * 3 if len(numbers) == 1 else numbers


def _resize(keys: Keys) -> Tree:
    found: Tree = {"size": list(keys.take("target_size", "size", [512, 512]))}
    for key in ("keep_ratio", "size_divisor"):
        if keys.peek(key):
            found[key] = keys.take(key, key)
        keys.drop(key, "is off")
    interpolation = str(keys.peek("interp", "LINEAR"))
    if interpolation in _INTERPOLATION:
        keys.take("interp", "interpolation")
        if interpolation != "LINEAR":
            found["interpolation"] = _INTERPOLATION[interpolation]
    return {"ResizeImage": found}


def _flip(code: int, prob: float) -> Callable[[Keys], Tree]:
    def make(keys: Keys) -> Tree:
        return {"RandFlipImage": {"flip_code": code, "prob": keys.take("prob", "prob", prob)}}

    return make


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_DISTORT = [
    f"{part}_{what}"
    for part in ("brightness", "contrast", "saturation", "hue", "sharpness")
    for what in ("range", "prob")
]
_TRANSFORMS: dict[str, Callable[[Keys], Tree]] = {
    "ResizeStepScaling": _renamed(
        "RandomScaleImage",
        min_scale_factor="min_scale",
        max_scale_factor="max_scale",
        scale_step_size="step",
    ),
    "RandomPaddingCrop": _with_defaults(
        "RandomPadCrop",
        {"size": [512, 512]},
        crop_size="size",
        im_padding_value="fill",
        label_padding_value="mask_fill",
        category_max_ratio="category_max_ratio",
    ),
    "RandomHorizontalFlip": _flip(1, 0.5),
    "RandomVerticalFlip": _flip(0, 0.1),
    "RandomDistort": _renamed("RandomDistort", **_same(*_DISTORT)),
    "Normalize": _normalize,
    "Resize": _resize,
    "ResizeByLong": _renamed("ResizeByLong", long_size="long_size"),
    "ResizeByShort": _renamed("ResizeByShort", **_same("short_size", "max_size")),
    "LimitLong": _renamed("LimitLong", **_same("max_long", "min_long")),
    "ResizeRangeScaling": _renamed("ResizeRangeScaling", **_same("min_value", "max_value")),
    "Padding": _renamed("Padv2", target_size="size", im_padding_value="fill_value"),
}
