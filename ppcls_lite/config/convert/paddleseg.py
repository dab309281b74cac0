"""PaddleSeg's recipes (its 2.x YAML) for DeepLabV3+ as recipes of ours.

Components there are maps with `type`; `batch_size` is per card. Read before: keys.py.
Read next: paddleseg_data.py.
"""

from __future__ import annotations

from typing import Any

from ppcls_lite.config.convert.keys import Keys
from ppcls_lite.config.convert.paddleseg_data import CLASSES, dataset
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import ConfigError, shown

Tree = dict[str, Any]
_WITHOUT_EFFECT = (
    *("to_static_training", "print_mem_info", "log_ranks", "pdx_model_name", "hpi_config_path"),
    *("uniform_output_enabled", "export"),
)
_LOSSES = {
    "CrossEntropyLoss": "SegCELoss",
    "OhemCrossEntropyLoss": "OhemCrossEntropyLoss",
    "DiceLoss": "DiceLoss",
    "LovaszSoftmaxLoss": "LovaszSoftmaxLoss",
    "LovaszHingeLoss": "LovaszHingeLoss",
    "MultiClassFocalLoss": "MultiClassFocalLoss",
}


_LABELS = {"Cityscapes": {"class_id_map_file": "cityscapes_label_list.txt"}}


def convert(keys: Keys) -> Tree:
    """Our recipe of a PaddleSeg tree, whose keys are taken one by one."""
    batch = keys.number("batch_size", "DataLoader.Train.sampler.batch_size", 1)
    iters = keys.number("iters", "Global.iters")
    train, evaluation = keys.part("train_dataset"), keys.part("val_dataset")
    kind = train.peek("type")
    count = train.peek("num_classes", CLASSES.get(str(kind)))
    arch, weights = _model(keys.part("model"), count)
    run: Tree = {"iters": iters} if iters else {}
    run |= {"pretrained_model": weights} if weights else {}
    ignored = train.peek("ignore_index", 255)
    recipe: Tree = {
        "Global": {**run, "output_dir": "./output/converted"},
        "Arch": arch,
        "Loss": {"Train": _losses(keys.part("loss"), ignored)},
        "Optimizer": _optimizer(keys.part("optimizer"), keys.part("lr_scheduler")),
        "DataLoader": {
            "Train": {
                "dataset": dataset(train, "DataLoader.Train.dataset", "train"),
                "sampler": {"batch_size": batch, "shuffle": True, "drop_last": True},
            },
        },
        "Metric": {"Eval": [{"MeanIoU": {"absent": "one"}}]},  # as PaddleSeg counts
        "Infer": {"PostProcess": {"Segmentation": _LABELS.get(str(kind), {})}},
    }
    if evaluation.left():
        recipe["DataLoader"]["Eval"] = {
            "dataset": dataset(evaluation, "DataLoader.Eval.dataset", "val"),
            "sampler": {"batch_size": 1},
        }
        ops = recipe["DataLoader"]["Eval"]["dataset"]["transform_ops"]
        if any(name.startswith(("Resize", "Limit")) for op in ops for name in op):
            keys.ledger.notes.append(
                "the evaluation resizes: here masks are resized with their images, so that scores "
                "are of that size; PaddleSeg's are of the files' size"
            )
    else:
        recipe["Global"]["eval_during_train"] = False
        recipe["Infer"]["transforms"] = ["DecodeImage", {"NormalizeImage": {"order": ""}}]
    recipe["Infer"] |= _test_config(keys.part("test_config"))
    for key in _WITHOUT_EFFECT:
        keys.drop(key, "has no effect here")
    keys.lose("distill_loss", "distillation is a DistillationModel here (docs/distillation.md)")
    keys.ledger.notes.append(
        "batch_size is the number of images per card: the published rates are for four cards, so "
        "with fewer processes lower the rate, or raise Global.update_freq"
    )
    return recipe


def _model(keys: Keys, count: Any) -> tuple[Tree, str | None]:
    """`Arch`, and the weights of the whole network."""
    kind = keys.take("type", "Arch.name")
    if kind != "DeepLabV3P":
        raise ConfigError(
            f"model.type: {shown(kind)}: of PaddleSeg's networks there is DeepLabV3P here"
        )
    near = _near(keys)
    _only(keys, "aspp_out_channels", 256)
    keys.drop("data_format", "the layout is the machine's business")
    arch = {
        "name": "DeepLabV3P",
        "class_num": keys.number("num_classes", "Arch.class_num", count),
        "backbone": _trunk(keys.part("backbone")),
        # Stated, because ours follow the output stride where they are left out.
        "aspp_ratios": keys.take("aspp_ratios", "Arch.aspp_ratios", [1, 6, 12, 18]),
        "align_corners": keys.take("align_corners", "Arch.align_corners", False),
        **near,
    }
    weights = keys.take("pretrained", "Global.pretrained_model")
    keys.close()
    return arch, weights


def _near(keys: Keys) -> Tree:
    """`low_feature`, where it is not the usual one; the pyramid stands on the last feature."""
    found = keys.peek("backbone_indices", [0, 3])
    if found not in ([0, 3], [1, 3], [2, 3]):
        raise ConfigError(
            f"{keys.at('backbone_indices')}: {shown(found)}: there is only [0, 3], [1, 3] and "
            "[2, 3] here"
        )
    keys.take("backbone_indices", "Arch.low_feature")
    return {"low_feature": found[0]} if found[0] else {}


def _only(keys: Keys, key: str, value: Any) -> None:
    found = keys.peek(key, value)
    if (list(found) if isinstance(found, (list, tuple)) else found) != value:
        raise ConfigError(f"{keys.at(key)}: {shown(found)}: there is only {value} here")
    keys.drop(key, "is always so here")


def _trunk(keys: Keys) -> Tree:
    kind = str(keys.take("type", "Arch.backbone.name"))
    name = kind.removesuffix("_os8")
    if name not in ZOO:
        raise ConfigError(f"{keys.at('type')}: there is no network {shown(kind)} in the zoo")
    stride = 8 if kind.endswith("_os8") else 8 if name.startswith("ResNet") else 32
    stride = keys.number("output_stride", "Arch.backbone.output_stride", stride)
    trunk: Tree = {"name": name, "output_stride": stride if stride in (8, 16) else 32}
    weights = keys.take("pretrained", "Arch.backbone.pretrained (of the zoo, not this file)")
    if weights:
        trunk["pretrained"] = True
        if "ssld" in str(weights) and ZOO[name].ssld:
            trunk["use_ssld"] = True
    if list(keys.peek("multi_grid", [1, 1, 1])) == [1, 1, 1]:
        keys.drop("multi_grid", "is always so here")
    keys.lose("multi_grid", "all blocks of a stage have the same dilation here")
    if keys.peek("in_channels", 3) == 3:
        keys.drop("in_channels", "is always so here")
    keys.drop("data_format", "the layout is the machine's business")
    keys.close()
    return trunk


def _losses(keys: Keys, ignored: Any) -> list[Tree]:
    coefficients = keys.take("coef", "Loss.Train: weight", [1])
    types = keys.parts("types")
    if not types:
        raise ConfigError(f"{keys.at('types')}: there is no loss")
    if len(types) > 1 or len(coefficients) > 1:
        keys.ledger.lost[keys.at("coef")] = (
            "only the first loss is carried: the others are for outputs that DeepLabV3P has not"
        )
    for other in types[1:]:
        other.close("is for an output that DeepLabV3P has not")
    terms = _terms(types[0], coefficients[0], ignored)
    keys.close()
    if not terms:
        raise ConfigError(f"{keys.at('types')}: none of the losses is known here")
    return terms


def _terms(keys: Keys, weight: float, ignored: Any) -> list[Tree]:
    """A loss, or the losses of a MixedLoss, whose weights are multiplied."""
    kind = keys.take("type", "Loss.Train")
    if kind == "MixedLoss":
        weights = keys.take("coef", "Loss.Train: weight", [])
        parts = keys.parts("losses")
        keys.close()
        if len(weights) != len(parts):
            raise ConfigError(f"{keys.at('coef')}: {len(weights)} weights for {len(parts)} losses")
        return [t for part, w in zip(parts, weights) for t in _terms(part, weight * w, ignored)]
    if kind not in _LOSSES:
        keys.ledger.carried.pop(keys.at("type"), None)
        keys.ledger.lost[keys.at("type")] = f"there is no {kind} here"
        keys.close()
        return []
    index = keys.peek("ignore_index", ignored)
    if index == ignored:
        keys.drop("ignore_index", "the data set maps it to 255")
    arguments: Tree = {"weight": weight}
    for key, name in (
        ("weight", "class_weight"),
        ("top_k_percent_pixels", "top_k_percent_pixels"),
        ("avg_non_ignore", "avg_non_ignore"),
        ("thresh", "thresh"),
        ("min_kept", "min_kept"),
        ("smooth", "smooth"),
        ("classes", "classes"),
        ("alpha", "alpha"),
        ("gamma", "gamma"),
    ):
        if keys.peek(key) is not None:
            arguments[name] = keys.take(key, f"Loss.Train.{_LOSSES[kind]}.{name}")
        keys.drop(key, "is the default")
    keys.close()
    return [{_LOSSES[kind]: arguments}]


def _optimizer(keys: Keys, rate: Keys) -> Tree:
    kind = str(keys.take("type", "Optimizer.name", "SGD"))
    known = {name.lower(): name for name in ("SGD", "Momentum", "Adam", "AdamW")}
    if kind.lower() not in known:
        raise ConfigError(f"{keys.at('type')}: there is no optimizer {shown(kind)} here")
    name = known[kind.lower()]
    optimizer: Tree = {}
    if name in ("SGD", "Momentum") and (name == "Momentum" or "momentum" in keys):
        name = "Momentum"  # PaddleSeg's SGD with a momentum is that
        optimizer["momentum"] = keys.number("momentum", "Optimizer.momentum", 0.9)
        if keys.peek("use_nesterov"):
            optimizer["use_nesterov"] = keys.take("use_nesterov", "Optimizer.use_nesterov")
        keys.drop("use_nesterov", "is the default")
    for key in ("beta1", "beta2", "epsilon"):
        if key in keys and name.startswith("Adam"):
            optimizer[key] = keys.number(key, f"Optimizer.{key}")
    decay = keys.number("weight_decay", "Optimizer.regularizer.coeff")
    if decay is not None and name == "AdamW":
        optimizer["weight_decay"] = decay
    elif decay is not None:
        optimizer["regularizer"] = {"name": "L2", "coeff": decay}
    optimizer |= _clipping(keys.part("grad_clip_cfg"))
    optimizer |= _rates_of_parts(keys.parts("custom_cfg"))
    keys.close()
    return {"name": name, "lr": _schedule(rate), **optimizer}


def _rates_of_parts(parts: list[Keys]) -> Tree:
    """Factors of rate and decay by parts of parameters' names."""
    rates: dict[str, float] = {}
    without: list[str] = []
    for part in parts:
        name = str(part.take("name", "Optimizer.lr_mult"))
        factor = part.number("lr_mult", "Optimizer.lr_mult")
        if factor is not None:
            rates.setdefault(name, factor)  # the first one counts
        if part.peek("weight_decay_mult") == 0:
            part.take("weight_decay_mult", "Optimizer.no_weight_decay_name")
            without.append(name)
        part.close("the decay of a part is that of all here, or none")
    found: Tree = {"lr_mult": rates} if rates else {}
    return found | ({"no_weight_decay_name": " ".join(without)} if without else {})


def _clipping(keys: Keys) -> Tree:
    kind = keys.take("name", "Optimizer: clipping")
    if kind is None:
        return {}
    names = {"ClipGradByGlobalNorm": "clip_global_norm", "ClipGradByNorm": "clip_norm"}
    if kind in names:
        found = {names[kind]: keys.number("clip_norm", f"Optimizer.{names[kind]}", 1.0)}
    elif kind == "ClipGradByValue" and keys.peek("min", -keys.peek("max", 0)) == -keys.peek(
        "max", 0
    ):
        found = {"clip_value": keys.number("max", "Optimizer.clip_value")}
        keys.drop("min", "is the opposite of max")
    else:
        found = {}
    keys.close("gradients cannot be clipped in this way here")
    return found


def _schedule(keys: Keys) -> Tree:
    kind = keys.take("type", "Optimizer.lr.name")
    place = "Optimizer.lr"
    schedule: Tree
    if kind == "PolynomialDecay":
        schedule = {
            "name": "Linear",
            "learning_rate": keys.number("learning_rate", f"{place}.learning_rate", 0.01),
            "end_lr": keys.number("end_lr", f"{place}.end_lr", 0.0),
            "power": keys.number("power", f"{place}.power", 0.9),
        }
        keys.lose("decay_steps", "the rate falls until the end of the run")
    elif kind == "CosineAnnealingDecay":
        schedule = {
            "name": "Cosine",
            "learning_rate": keys.number("learning_rate", f"{place}.learning_rate", 0.01),
            "eta_min": keys.number("eta_min", f"{place}.eta_min", 0.0),
        }
        keys.lose("T_max", "the rate falls until the end of the run")
    else:
        raise ConfigError(
            f"{keys.at('type')}: {shown(kind)}: expected PolynomialDecay or CosineAnnealingDecay; "
            "write another schedule by hand (`ppcls-lite config --list schedule`)"
        )
    if keys.peek("warmup_iters"):
        schedule["warmup_steps"] = keys.number("warmup_iters", f"{place}.warmup_steps")
        schedule["warmup_start_lr"] = keys.number("warmup_start_lr", f"{place}.warmup_start_lr", 0)
    for key in ("warmup_iters", "warmup_start_lr"):
        keys.drop(key, "there is no warm-up")
    keys.close()
    return schedule


def _test_config(keys: Keys) -> Tree:
    """`Infer.tiling` and `Infer.tta` of what an evaluation does beside the plain way."""
    found: Tree = {}
    if keys.peek("is_slide"):
        keys.take("is_slide", "Infer.tiling")
        found["tiling"] = {
            "size": keys.take("crop_size", "Infer.tiling.size"),
            "stride": keys.take("stride", "Infer.tiling.stride"),
        }
    if keys.peek("aug_eval"):
        keys.take("aug_eval", "Infer.tta")
        scales = keys.take("scales", "Infer.tta.scales", 1.0)
        found["tta"] = {"scales": list(scales) if isinstance(scales, (list, tuple)) else [scales]}
        for key in ("flip_horizontal", "flip_vertical"):
            if keys.peek(key):
                found["tta"][key] = keys.take(key, f"Infer.tta.{key}")
    for key in ("is_slide", "aug_eval", "flip_horizontal", "flip_vertical"):
        keys.drop(key, "is off")
    for key in ("use_multilabel", "auc_roc"):
        if not keys.peek(key):
            keys.drop(key, "is off")
    for key in ("crop_size", "stride", "scales"):
        keys.drop(key, "belongs to what is off")
    keys.close()
    return found
