"""PaddleDetection's data sets, readers and transforms as ours. Read before: paddledetection.py."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ppcls_lite.config.convert.keys import Keys
from ppcls_lite.errors import ConfigError, shown

Tree = dict[str, Any]
CARDS = 4  # for which the rates of PaddleDetection's recipes are published
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "lanczos")  # by OpenCV's numbers
_FACTORS = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 18.0}  # half ranges


def data(keys: Keys) -> tuple[Tree, list[int] | None, int | None]:
    """`DataLoader`, the input's shape (C, H, W), and the images of a training batch on a card."""
    workers = keys.number("worker_num", "DataLoader.Train.loader.num_workers", 4)
    shape = _input_shape(keys.part("TestReader"))
    evaluation, _ = _split(keys, "Eval", workers, shape)
    own = _target(evaluation["dataset"]["transform_ops"]) if evaluation else None
    size = own or ([shape[2], shape[1]] if shape else None)
    train, batch = _split(keys, "Train", workers, shape, size)
    if train is None:
        raise ConfigError("TrainDataset: is missing; convert the file beside its _BASE_ files")
    loaders: Tree = {"Train": train}
    if evaluation is not None:
        loaders["Eval"] = evaluation
    return loaders, shape, batch


def names_file(keys: Keys) -> str | None:
    """The file of the classes' names, from the data set of predictions."""
    test = keys.part("TestDataset")
    test.drop("name", "is only read for the names of the classes")
    root = str(test.take("dataset_dir", "Infer.PostProcess.class_id_map_file", "") or "")
    file = test.peek("anno_path")
    if file and str(file).endswith(".txt"):
        test.take("anno_path", "Infer.PostProcess.class_id_map_file")
        test.close()
        return _joined(root, file)
    test.lose("anno_path", "`ppcls-lite prepare coco` writes the names as labels.txt")
    test.close()
    return None


def _split(
    keys: Keys, split: str, workers: Any, shape: list[int] | None, size: list[int] | None = None
) -> tuple[Tree | None, int | None]:
    """`DataLoader.<split>` and its batch; None where the file has no such data set."""
    place = f"DataLoader.{split}"
    source = keys.part(f"{split}Dataset")
    reader = keys.part(f"{split}Reader")
    if not source.left():
        reader.close("there is no data set for it")
        return None, None
    dataset = _dataset(source, f"{place}.dataset")
    per_sample = [op for part in reader.parts("sample_transforms") for op in _each(part)]
    per_batch = [op for part in reader.parts("batch_transforms") for op in _each(part)]
    ops, sampler = _chain([*per_sample, *per_batch], place, size)
    dataset["transform_ops"] = [{"DecodeImage": {}}, *ops]
    batch = reader.number("batch_size", f"{place}.sampler.batch_size", 1)
    sampler["batch_size"] = batch
    for key in ("shuffle", "drop_last"):
        if key in reader:
            sampler[key] = reader.take(key, f"{place}.sampler.{key}")
    if split == "Eval":
        sampler.pop("drop_last", None)  # every image is scored
    for key in ("collate_batch", "use_shared_memory", "inputs_def"):
        reader.drop(key, "has no effect here")
    reader.close()
    return {"dataset": dataset, "sampler": sampler, "loader": {"num_workers": workers}}, batch


def _input_shape(reader: Keys) -> list[int] | None:
    inputs = reader.part("inputs_def")
    shape = inputs.take("image_shape", "Global.image_shape")
    inputs.close()
    for key in ("sample_transforms", "batch_transforms", "batch_size"):
        reader.drop(key, "a prediction prepares images as the evaluation does")
    reader.drop("fuse_normalize", "is an option of the export")
    reader.close()
    if not isinstance(shape, list):
        return None
    shape = shape[-3:]
    known = len(shape) == 3 and all(isinstance(v, int) and v > 0 for v in shape)
    return shape if known else None


def _joined(*parts: Any) -> str:
    return str(PurePosixPath(*(str(part) for part in parts if part)))


def _dataset(keys: Keys, place: str) -> Tree:
    kind = str(keys.take("name", f"{place}.name", "COCODataSet"))
    root = keys.take("dataset_dir", f"{place}.image_root", "") or ""
    image_dir = keys.take("image_dir", f"{place}.image_root", "") or ""
    found: Tree = {"image_root": _joined(root, image_dir) if root or image_dir else "."}
    found["annotation"] = _joined(root, keys.take("anno_path", f"{place}.annotation", ""))
    if kind == "COCODataSet":
        found = {"name": "COCODataset", **found}
    elif kind == "VOCDataSet":
        found = {"name": "VOCDataset", **found}
        labels = keys.take("label_list", f"{place}.label_file")
        if labels:
            found["label_file"] = _joined(root, labels)
    else:
        raise ConfigError(
            f"{keys.at('name')}: {shown(kind)}: expected COCODataSet or VOCDataSet; convert the "
            "annotations to one of them"
        )
    # Stated, because ours keeps the images without boxes where nothing is said.
    found["allow_empty"] = keys.take("allow_empty", f"{place}.allow_empty", False)
    ratio = keys.number("empty_ratio", f"{place}.empty_ratio", 1.0)
    if found["allow_empty"] and 0 <= ratio < 1:
        found["empty_ratio"] = ratio
    number = keys.number("sample_num", f"{place}.sample_num", -1)
    if number > 0:
        found["sample_num"] = number
    if not keys.peek("load_crowd"):
        keys.drop("load_crowd", "is off")
    keys.lose("load_crowd", "crowds are never trained here")
    keys.lose("repeat", "name more epochs instead")
    keys.drop("data_fields", "what a batch has follows from the data set")
    keys.close()
    return found


def _each(part: Keys) -> list[tuple[str, Keys]]:
    """The transforms of a list item, `Name: {...}`, with their arguments."""
    return [(str(name), part.part(name)) for name in part.left()]


def _chain(
    ops: list[tuple[str, Keys]], place: str, size: list[int] | None
) -> tuple[list[Tree], Tree]:
    """The transforms after decoding, and what the sampler has to do of them."""
    chain: list[Tree] = []
    sampler: Tree = {}
    for name, keys in ops:
        if name == "BatchRandomResize":
            sampler = _sizes(keys, f"{place}.sampler")
            chain.append({"ResizeImage": {"size": size or sampler["sizes"][0], **_drawn(keys)}})
        elif name in _OPS:
            chain += _OPS[name](keys)
        elif name in ("Decode", "Permute", "PadGT", "PadBatch", "PadStride"):
            for key in keys.left():
                keys.drop(key, "is always so here")
        else:
            keys.ledger.lost[keys.path] = f"there is no {name} here"
            keys.close()
        keys.close()
    return chain, sampler


def _target(ops: list[Tree]) -> list[int] | None:
    """[width, height] of the images that the transforms give."""
    sizes = [op["ResizeImage"]["size"] for op in ops if "ResizeImage" in op]
    return sizes[-1] if sizes else None


def _width_height(size: Any) -> list[int]:
    """PaddleDetection's size, a side or [height, width]."""
    return [size, size] if isinstance(size, int) else [size[1], size[0]]


def _sizes(keys: Keys, place: str) -> Tree:
    targets = keys.take("target_size", f"{place}.sizes", [])
    targets = targets if isinstance(targets, list) else [targets]
    if not targets:
        raise ConfigError(f"{keys.at('target_size')}: expected a list of sizes")
    if keys.peek("keep_ratio", True):
        keys.ledger.lost[keys.at("keep_ratio")] = "sizes of a batch do not keep the ratio here"
    keys.drop("keep_ratio", "is always so here")
    keys.drop("random_size", "is the sampler")
    return {"name": "MultiSizeBatchSampler", "sizes": [_width_height(t) for t in targets]}


def _drawn(keys: Keys) -> Tree:
    if keys.take("random_interp", "ResizeImage.interpolation", False):
        keys.drop("interp", "is drawn")
        return {"interpolation": "all"}
    return {"interpolation": _interpolation(keys, 0)}


def _interpolation(keys: Keys, default: int) -> str:
    number = keys.take("interp", "ResizeImage.interpolation", default)
    if not isinstance(number, int) or not 0 <= number < len(_INTERPOLATIONS):
        raise ConfigError(f"{keys.at('interp')}: expected 0 to 4, found {shown(number)}")
    return _INTERPOLATIONS[number]


def _resize(keys: Keys) -> list[Tree]:
    found = {"size": _width_height(keys.take("target_size", "ResizeImage.size"))}
    found["interpolation"] = _interpolation(keys, 1)
    if keys.take("keep_ratio", "ResizeImage.keep_ratio", True):
        found["keep_ratio"] = True
    return [{"ResizeImage": found}]


def _crop(keys: Keys) -> list[Tree]:
    names = ("aspect_ratio", "thresholds", "scaling", "num_attempts", "allow_no_crop")
    names += ("cover_all_box", "ioumode", "prob")
    found = {k: keys.take(k, f"RandomCropBoxes.{k}") for k in names if k in keys}
    keys.drop("is_mask_crop", "masks follow by themselves")
    return [{"RandomCropBoxes": found}]


def _flip(keys: Keys) -> list[Tree]:
    return [{"RandFlipImage": {"flip_code": 1, "prob": keys.number("prob", "RandFlipImage", 0.5)}}]


def _expand(keys: Keys) -> list[Tree]:
    found = {}
    if "prob" in keys:  # the share of images that stay as they are
        found["prob"] = 1 - keys.number("prob", "RandomExpand.prob")
    for key in ("ratio", "fill_value"):
        if key in keys:
            found[key] = keys.take(key, f"RandomExpand.{key}")
    return [{"RandomExpand": found}]


def _distort(keys: Keys) -> list[Tree]:
    found: Tree = {}
    for name, usual in _FACTORS.items():
        middle = 0.0 if name == "hue" else 1.0
        low, high, skip = keys.take(
            name, f"RandomDistort.{name}", [middle - usual, middle + usual, 0.5]
        )
        if abs((low + high) / 2 - middle) > 1e-6:
            keys.ledger.lost[keys.at(name)] = f"only ranges around {middle:g} can be drawn from"
        found[f"{name}_range"] = high - middle
        found[f"{name}_prob"] = 1 - skip  # PaddleDetection skips by it
    if keys.peek("random_apply", True) and keys.peek("count", 4) == 4:
        keys.drop("count", "all four are tried")
        keys.drop("random_apply", "the order is random")
    if not keys.peek("random_channel"):
        keys.drop("random_channel", "is off")
    if keys.peek("prob", 1.0) == 1:
        keys.drop("prob", "is always so here")
    return [{"RandomDistort": found}]


def _normalize(keys: Keys) -> list[Tree]:
    mean = keys.take("mean", "NormalizeImage.mean", [0.485, 0.456, 0.406])
    std = keys.take("std", "NormalizeImage.std", [0.229, 0.224, 0.225])
    scaled = keys.take("is_scale", "NormalizeImage.scale", True)
    if keys.peek("norm_type", "mean_std") == "mean_std":
        keys.drop("norm_type", "is always so here")
    scale = "1.0/255.0" if scaled else 1.0
    return [{"NormalizeImage": {"scale": scale, "mean": mean, "std": std, "order": ""}}]


_OPS = {
    "Resize": _resize,
    "RandomCrop": _crop,
    "RandomFlip": _flip,
    "RandomExpand": _expand,
    "RandomDistort": _distort,
    "NormalizeImage": _normalize,
}
