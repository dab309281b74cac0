"""PaddleDetection's recipes for PicoDet as recipes of ours.

Every module there is a section of its name; `batch_size` is per card, and the published rates are
for four cards. Source: PaddleDetection, configs/picodet. Read before: keys.py.
Read next: paddledetection_data.py.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ppcls_lite.config.convert.keys import Keys
from ppcls_lite.config.convert.paddledetection_data import CARDS, data, names_file
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import ConfigError, shown

Tree = dict[str, Any]
_OTHER_TRAININGS = {
    "slim": "compression is `ppcls-lite quantize` here, of an exported network",
    "slim_method": "compression is `ppcls-lite quantize` here, of an exported network",
    "unstructured_prune": "sparse training does not exist here",
    "ssod_method": "semi-supervised training does not exist here",
    "distill_loss": "a distillation is a DistillationModel here (docs/distillation.md)",
    "teacher_model": "a distillation is a DistillationModel here (docs/distillation.md)",
}
_WITHOUT_EFFECT = (
    *("find_unused_parameters", "use_xpu", "use_npu", "use_mlu", "use_mps", "use_gpu", "filename"),
    *("print_flops", "print_params", "profiler_options", "norm_type"),
)
_TRUNKS = "LCNet and MobileNetV3 are; train another trunk of the zoo in its place"


def convert(keys: Keys) -> Tree:
    """Our recipe of a PaddleDetection tree, whose keys are taken one by one."""
    for key, why in _OTHER_TRAININGS.items():
        if keys.peek(key):
            raise ConfigError(f"{keys.at(key)}: cannot be converted: {why}")
        keys.drop(key, "is off")
    kind = keys.take("architecture", "Arch.name")
    if kind != "PicoDet":
        raise ConfigError(
            f"architecture: {shown(kind)}: of PaddleDetection's networks there is PicoDet here"
        )
    count = keys.number("num_classes", "Arch.class_num", 80)
    parts = keys.part("PicoDet")
    names = {part: str(parts.take(part, f"Arch.{part}.name", "")) for part in ("backbone", "neck")}
    head = str(parts.take("head", "Arch.head.name", "PicoHead"))
    parts.drop("nms_cpu", "boxes are suppressed outside the network here")
    parts.close()
    weights = str(keys.take("pretrain_weights", "Arch.backbone.pretrained", "") or "")
    trunk, free = _trunk(keys, names["backbone"], weights)
    arch: Tree = {"name": "PicoDet", "class_num": count, "backbone": trunk}
    arch["neck"] = _neck(keys.part(names["neck"]), names["neck"])
    arch["head"], loss, answer = _head(keys, head, arch["neck"]["out_channels"])
    run = _run(keys)
    if weights and "pretrained" not in trunk:
        keys.ledger.carried["pretrain_weights"] = "Global.pretrained_model"
        run["pretrained_model"] = weights
    keys.drop("weights", "says what an evaluation loads: -o Global.pretrained_model=...")
    loaders, shape, batch = data(keys)
    if shape is not None:
        run["image_shape"] = shape
    if batch is not None:
        run["total_batch_size"] = CARDS * batch
    labels = names_file(keys)
    if labels:
        answer["class_id_map_file"] = labels
    recipe: Tree = {
        "Global": run,
        **_average(keys),
        "Arch": arch,
        "Loss": {"Train": [{"PicoDetLoss": loss}]},
        "Optimizer": _optimizer(keys, batch, run.get("epochs"), free),
        "DataLoader": loaders,
        "Metric": {"Eval": [_metric(keys)]},
        "Infer": {"PostProcess": {"DetectionNMS": answer}},
    }
    for key in _WITHOUT_EFFECT:
        keys.drop(key, "has no effect here")
    keys.drop("eval_size", "places follow from the features of each image")
    keys.drop("export", "what is exported are options of the command")
    for key in ("output_eval", "classwise", "save_prediction_only", "bias"):
        keys.drop(key, "evaluations write their tables into the run's folder")
    for key in [key for key in keys.left() if key.startswith("eval_")]:
        keys.drop(key, "names a value for other keys")
    return recipe


def _run(keys: Keys) -> Tree:
    run: Tree = {"output_dir": "./output/converted"}
    for key, name in (
        ("epoch", "epochs"),
        ("log_iter", "print_batch_step"),
        ("snapshot_epoch", "save_interval"),
    ):
        if key in keys:
            run[name] = keys.number(key, f"Global.{name}")
    if "save_interval" in run:
        run["eval_interval"] = run["save_interval"]
    keys.drop("save_dir", "is Global.output_dir")
    return run


def _trunk(keys: Keys, kind: str, weights: str) -> tuple[Tree, str | None]:
    """`Arch.backbone`, and the names of its weights where these never decay."""
    act, free = "hardswish", None
    if kind == "LCNet":
        part, own = keys.part(kind), {"name": "PPLCNet"}
        _only(part, "feature_maps", [3, 4, 5])
        act = _activation(part.take("act", "Arch.backbone.act", "hard_swish"))
    elif kind == "MobileNetV3":
        part = keys.part(kind)
        own = {"name": "MobileNetV3", "size": "large"}
        _only(part, "model_name", "large")
        _only(part, "feature_maps", [7, 13, 16])
        _only(part, "with_extra_blocks", False)
        part.drop("extra_block_filters", "there are no extra blocks")
        if part.number("conv_decay", "Optimizer.no_weight_decay_name", 0.0) == 0:
            free = "backbone."  # none of its convolutions decays, nor do its norms
        else:
            keys.ledger.lost[part.at("conv_decay")] = "the decay is one for the whole network here"
        part.lose("lr_mult_list", "write Arch.backbone.lr_mult_list for its five stages")
        for key in ("multiplier", "norm_type", "norm_decay", "freeze_norm"):
            part.drop(key, "is the default")
    else:
        raise ConfigError(
            f"PicoDet.backbone: {shown(kind)} is no trunk of a PicoDet here; {_TRUNKS}"
        )
    scale = part.number("scale", "Arch.backbone.name", 1.0)
    part.close()
    zoo_name = "_".join([*own.values(), f"x{float(scale)}"]).replace(".", "_")
    trunk: Tree = {"name": zoo_name} if zoo_name in ZOO else {**own, "scale": scale}
    if act != "hardswish":
        trunk["act"] = act
    file = PurePosixPath(weights).name
    if weights and "_pretrained" in file and "coco" not in file:
        trunk["pretrained"] = True
        if "ssld" in file and zoo_name in ZOO and ZOO[zoo_name].ssld:
            trunk["use_ssld"] = True
    return trunk, free


def _only(keys: Keys, key: str, value: Any) -> None:
    found = keys.peek(key, value)
    if (list(found) if isinstance(found, (list, tuple)) else found) != value:
        raise ConfigError(f"{keys.at(key)}: {shown(found)}: there is only {value} here")
    keys.drop(key, "is always so here")


def _neck(keys: Keys, kind: str) -> Tree:
    if kind not in ("CSPPAN", "LCPAN"):
        raise ConfigError(f"PicoDet.neck: {shown(kind)}: expected CSPPAN or LCPAN")
    neck: Tree = {"name": kind, "out_channels": 96, "num_features": 3}
    for key in ("out_channels", "num_features", "kernel_size", "use_depthwise"):
        if key in keys:
            neck[key] = keys.take(key, f"Arch.neck.{key}")
    if kind == "CSPPAN" and "num_csp_blocks" in keys:
        neck["num_csp_blocks"] = keys.take("num_csp_blocks", "Arch.neck.num_csp_blocks")
    if "act" in keys:
        neck["act"] = _activation(keys.take("act", "Arch.neck.act"))
    keys.drop("in_channels", "follow from the trunk")
    keys.drop("spatial_scales", "follow from the trunk")
    keys.close()
    return neck


def _activation(name: Any) -> str:
    return {"hard_swish": "hardswish"}.get(str(name), str(name))


def _head(keys: Keys, kind: str, channels: int) -> tuple[Tree, Tree, Tree]:
    """`Arch.head`, the arguments of PicoDetLoss, and those of DetectionNMS."""
    if kind not in ("PicoHead", "PicoHeadV2"):
        raise ConfigError(f"PicoDet.head: {shown(kind)}: expected PicoHead or PicoHeadV2")
    second = kind == "PicoHeadV2"
    part = keys.part(kind)
    feature = part.part("conv_feat")
    head: Tree = {"name": kind, "num_convs": feature.number("num_convs", "Arch.head.num_convs", 2)}
    if "use_se" in feature:
        head["use_se"] = feature.take("use_se", "Arch.head.use_se")
    for key in ("feat_in", "feat_out"):
        if feature.peek(key, channels) != channels:
            raise ConfigError(
                f"{feature.at(key)}: {shown(feature.peek(key))}: a head is as wide as its neck "
                f"here, whose out_channels is {channels}"
            )
        feature.drop(key, "is the neck's width")
    _only(feature, "share_cls_reg", True)
    for key in ("name", "num_fpn_stride", "norm_type"):
        feature.drop(key, "is always so here")
    if "act" in feature:
        head["act"] = _activation(feature.take("act", "Arch.head.act"))
    feature.close()
    for key, default in (("reg_max", 16), ("cell_offset", 0), ("prior_prob", 0.01)):
        head[key] = part.number(key, f"Arch.head.{key}", default)
    if second:
        head["use_align_head"] = part.take("use_align_head", "Arch.head.use_align_head", True)
    for key in ("fpn_stride", "feat_in_chan", "num_classes"):
        part.drop(key, "follows from the neck and the data")
    for key in ("act", "nms_pre", "eval_size", "dgqp_module"):
        part.drop(key, "is not read by the network")
    loss = _loss(part, keys, second)
    answer = _suppression(part.part("nms"))
    part.close()
    return head, loss, answer


def _loss(part: Keys, keys: Keys, second: bool) -> Tree:
    loss: Tree = {}
    place = "Loss.Train.PicoDetLoss"
    weights = {"loss_class": "vfl_weight", "loss_bbox": "giou_weight", "loss_dfl": "dfl_weight"}
    names = {"loss_class": "VarifocalLoss", "loss_bbox": "GIoULoss"}
    names["loss_dfl"] = "DistributionFocalLoss"
    for key, name in weights.items():
        term = part.part(key)
        kind = term.take("name", place, names[key])
        if kind != names[key]:
            raise ConfigError(f"{term.at('name')}: {shown(kind)}: PicoDetLoss has {names[key]}")
        loss[name] = term.number("loss_weight", f"{place}.{name}", 1.0)
        for other in ("use_sigmoid", "iou_weighted"):
            term.drop(other, "follows from the head")
        term.close()
    if second:
        loss["static_assigner_epoch"] = part.number(
            "static_assigner_epoch", f"{place}.static_assigner_epoch", 60
        )
        loss["static_assigner"] = _assigner(part, keys, "static_assigner", "ATSSAssigner")
        scale = part.number("grid_cell_scale", f"{place}.static_assigner.anchor_scale", 5.0)
        loss["static_assigner"]["anchor_scale"] = scale
        loss["assigner"] = _assigner(part, keys, "assigner", "TaskAlignedAssigner")
    else:
        loss["assigner"] = _assigner(part, keys, "assigner", "SimOTAAssigner")
    return loss


_ASSIGNERS = {
    "ATSSAssigner": ("ATSS", {"topk": 9}),
    "TaskAlignedAssigner": ("TaskAligned", {"topk": 13, "alpha": 1.0, "beta": 6.0}),
    "SimOTAAssigner": (
        "SimOTA",
        {"center_radius": 2.5, "candidate_topk": 10, "cls_weight": 1.0, "iou_weight": 3.0},
    ),
}
_SWITCHES = {"use_vfl": True, "force_gt_matching": False}
_SWITCH_OF = {"use_vfl": "SimOTA", "force_gt_matching": "ATSS"}


def _assigner(part: Keys, keys: Keys, key: str, default: str) -> Tree:
    place = f"Loss.Train.PicoDetLoss.{key}"
    given = part.peek(key, default)
    if isinstance(given, dict):  # written in place, with its arguments
        own = part.part(key)
        kind = str(own.take("name", place, default))
    else:
        kind = str(part.take(key, place, default))
        own = keys.part(kind)
        own.drop("name", "is its own")
    if kind != default:
        raise ConfigError(f"{part.at(key)}: {shown(kind)}: expected {default}")
    name, defaults = _ASSIGNERS[kind]
    found = {k: own.number(k, f"{place}.{k}", value) for k, value in defaults.items()}
    for key, default in _SWITCHES.items():
        given = own.peek(key, default)
        if given == default or name != _SWITCH_OF[key]:
            own.drop(key, f"is {str(default).lower()}")
        else:
            found[key] = own.take(key, f"{place}.{key}", default)
    own.drop("num_classes", "is the network's")
    own.close()
    return {"name": name, **found}


def _suppression(keys: Keys) -> Tree:
    kind = keys.take("name", "Infer.PostProcess", "MultiClassNMS")
    if kind != "MultiClassNMS":
        raise ConfigError(f"{keys.at('name')}: {shown(kind)}: there is MultiClassNMS here")
    place = "Infer.PostProcess.DetectionNMS"
    defaults = {"score_threshold": 0.05, "nms_threshold": 0.5, "nms_top_k": -1, "keep_top_k": 100}
    found = {key: keys.number(key, f"{place}.{key}", value) for key, value in defaults.items()}
    for key in ("nms_top_k", "keep_top_k"):
        if found[key] < 0:
            found[key] = None
    for key in ("normalized", "nms_eta", "return_index", "return_rois_num", "trt", "cpu"):
        keys.drop(key, "is always so here")
    if keys.peek("background_label", -1) == -1:
        keys.drop("background_label", "there is no background class")
    keys.close()
    return found


def _average(keys: Keys) -> Tree:
    """`EMA`, if it is on."""
    names = ("ema_decay", "ema_decay_type", "cycle_epoch", "ema_black_list", "ema_filter_no_grad")
    if not keys.take("use_ema", "EMA", False):
        for key in names:
            keys.drop(key, "there is no average")
        return {}
    kind = keys.peek("ema_decay_type", "threshold")
    if kind in ("threshold", "normal"):
        keys.take("ema_decay_type", "EMA.type")
    keys.lose("ema_decay_type", "expected threshold or normal")
    average: Tree = {"decay": keys.number("ema_decay", "EMA.decay", 0.9998)}
    average["type"] = kind if kind in ("threshold", "normal") else "threshold"
    keys.drop("cycle_epoch", "counts snapshots there, and so begins no average anew in its recipes")
    keys.lose("ema_black_list", "all weights are averaged here")
    keys.drop("ema_filter_no_grad", "all weights are averaged here")
    return {"EMA": average}


def _optimizer(keys: Keys, batch: int | None, epochs: int | None, free: str | None) -> Tree:
    builder = keys.part("OptimizerBuilder")
    own = builder.part("optimizer")
    kind = str(own.take("type", "Optimizer.name", "Momentum"))
    if kind not in ("SGD", "Momentum", "Adam", "AdamW"):
        raise ConfigError(f"{own.at('type')}: there is no optimizer {shown(kind)} here")
    optimizer: Tree = {"name": kind, "lr": _schedule(keys.part("LearningRate"), batch, epochs)}
    if kind == "Momentum":
        optimizer["momentum"] = own.number("momentum", "Optimizer.momentum", 0.9)
    if "weight_decay" in own:
        optimizer["weight_decay"] = own.number("weight_decay", "Optimizer.weight_decay")
    own.lose("param_groups", "rates and decays of parts of a network cannot be set here")
    own.close()
    decay = builder.part("regularizer")
    if decay.left():
        kind = decay.take("type", "Optimizer.regularizer", "L2")
        factor = decay.number("factor", "Optimizer.regularizer.coeff", 0.0)
        optimizer["regularizer"] = {"name": kind, "coeff": factor}
    decay.close()
    if free:
        optimizer["no_weight_decay_name"] = free
    for key, name in (
        ("clip_grad_by_norm", "clip_global_norm"),
        ("clip_grad_by_value", "clip_value"),
    ):
        if builder.peek(key) is not None:
            optimizer[name] = builder.number(key, f"Optimizer.{name}")
        builder.drop(key, "is off")
    builder.close()
    return optimizer


def _schedule(keys: Keys, batch: int | None, epochs: int | None) -> Tree:
    place = "Optimizer.lr"
    rate = keys.number("base_lr", f"{place}.learning_rate", 0.01)
    schedule: Tree = {"name": "Cosine", "learning_rate": rate}
    for part in keys.parts("schedulers"):
        kind = part.take("name", place)
        if kind == "CosineDecay":
            floor = part.number("min_lr_ratio", f"{place}.eta_min", 0.0)
            if floor:
                schedule["eta_min"] = rate * floor
            part.drop("use_warmup", "a warm-up is what says that there is one")
            length = part.number("max_epochs", f"{place}.decay_epochs", 1000)
            if length != epochs:
                schedule["decay_epochs"] = length
            part.lose("last_plateau_epochs", "the rate falls until the end here")
        elif kind == "LinearWarmup":
            if part.peek("epochs") is not None:
                schedule["warmup_epoch"] = part.number("epochs", f"{place}.warmup_epoch")
                part.drop("steps", "epochs say it")
            else:
                schedule["warmup_steps"] = part.number("steps", f"{place}.warmup_steps", 500)
            factor = part.number("start_factor", f"{place}.warmup_start_lr", 1 / 3)
            schedule["warmup_start_lr"] = rate * factor
            part.drop("epochs", "steps say it")
            part.drop("epochs_first", "is the default")
        else:
            raise ConfigError(
                f"{part.at('name')}: {shown(kind)}: expected CosineDecay or LinearWarmup; write "
                "another schedule by hand (`ppcls-lite config --list schedule`)"
            )
        part.close()
    keys.close()
    if batch is not None:
        schedule["base_batch_size"] = CARDS * batch
        keys.ledger.notes.append(
            f"the rate is taken for {CARDS} cards with {batch} images each, as PaddleDetection's "
            f"recipes are published: Optimizer.lr.base_batch_size: {CARDS * batch} scales it to "
            "the batch that is trained with"
        )
    return schedule


def _metric(keys: Keys) -> Tree:
    kind = keys.take("metric", "Metric.Eval", "COCO")
    if kind == "COCO":
        keys.drop("map_type", "is of VOC's AP")
        return {"CocoAP": {}}
    if kind == "VOC":
        return {
            "VocAP": {"map_type": keys.take("map_type", "Metric.Eval.VocAP.map_type", "11point")}
        }
    raise ConfigError(f"metric: {shown(kind)}: expected COCO or VOC")
