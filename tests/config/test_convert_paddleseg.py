"""PaddleSeg's recipes of DeepLabV3+ become recipes that `check` accepts, key by key.

The inputs have the keys and values of the official files, one base and one file for each model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppcls_lite.config.convert.dialects import Conversion, convert
from ppcls_lite.errors import ConfigError

SCALING = {
    "type": "ResizeStepScaling",
    **{"min_scale_factor": 0.5, "max_scale_factor": 2.0, "scale_step_size": 0.25},
}
DISTORT = {
    "type": "RandomDistort",
    **{"brightness_range": 0.4, "contrast_range": 0.4, "saturation_range": 0.4},
}
NORMALIZE = {"type": "Normalize"}


def training(width: int, height: int) -> list[dict[str, Any]]:
    crop = {"type": "RandomPaddingCrop", "crop_size": [width, height]}
    return [SCALING, crop, {"type": "RandomHorizontalFlip"}, DISTORT, NORMALIZE]


def base(kind: str, root: str, train: list[Any], val: list[Any], mode: str) -> dict[str, Any]:
    return {
        "batch_size": 4,
        "iters": 40000,
        "train_dataset": {
            **{"type": kind, "dataset_root": root, "transforms": train, "mode": mode},
        },
        "val_dataset": {"type": kind, "dataset_root": root, "transforms": val, "mode": "val"},
        "optimizer": {"type": "sgd", "momentum": 0.9, "weight_decay": 4.0e-5},
        "lr_scheduler": {
            **{"type": "PolynomialDecay", "learning_rate": 0.01, "end_lr": 0, "power": 0.9},
        },
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
    }


CITYSCAPES = base("Cityscapes", "data/cityscapes", training(1024, 512), [NORMALIZE], "train")
SQUARE = base(
    *("Cityscapes", "data/cityscapes", training(769, 769)),
    [{"type": "Padding", "target_size": [2049, 1025]}, NORMALIZE],
    "train",
)
VOC = base(
    *("PascalVOC", "data/VOCdevkit/", training(512, 512)),
    [{"type": "Padding", "target_size": [512, 512]}, NORMALIZE],
    "trainaug",
)
RESIZE = {"type": "Resize", "target_size": [512, 512]}
OPTIC = base(
    *("OpticDiscSeg", "data/optic_disc_seg"),
    [RESIZE, {"type": "RandomHorizontalFlip"}, NORMALIZE],
    *([RESIZE, NORMALIZE], "train"),
)


def model(depth: int, classes: int, align: bool = False) -> dict[str, Any]:
    url = f"https://bj.bcebos.com/paddleseg/dygraph/resnet{depth}_vd_ssld.tar.gz"
    trunk = {"type": f"ResNet{depth}_vd", "output_stride": 8, "multi_grid": [1, 2, 4]}
    return {
        "model": {
            "type": "DeepLabV3P",
            "backbone": {**trunk, "pretrained": url},
            **{"num_classes": classes, "backbone_indices": [0, 3]},
            **{"aspp_ratios": [1, 12, 24, 36], "aspp_out_channels": 256},
            **{"align_corners": align, "pretrained": None},
        }
    }


RMI = {
    "loss": {
        "types": [
            {
                "type": "MixedLoss",
                "losses": [{"type": "CrossEntropyLoss"}, {"type": "RMILoss"}],
                "coef": [0.5, 0.5],
            }
        ],
        "coef": [1],
    }
}
OFFICIAL = {
    "resnet50_os8_cityscapes_1024x512_80k": (CITYSCAPES, {"iters": 80000, **model(50, 19)}),
    "resnet50_os8_cityscapes_1024x512_80k_rmiloss": (CITYSCAPES, {**RMI, **model(50, 19)}),
    "resnet101_os8_cityscapes_1024x512_80k": (CITYSCAPES, {"batch_size": 2, **model(101, 19)}),
    "resnet101_os8_cityscapes_769x769_80k": (SQUARE, {"batch_size": 2, **model(101, 19, True)}),
    "resnet50_os8_voc12aug_512x512_40k": (VOC, model(50, 21)),
    "resnet101_os8_voc12aug_512x512_40k": (VOC, model(101, 21)),
    "resnet50_os8_optic_disc_512x512_1k_teacher": (OPTIC, {"iters": 1000, **model(50, 2)}),
    "resnet18_os8_optic_disc_512x512_1k_student": (
        OPTIC,
        {
            **model(18, 2),
            "distill_loss": {"types": [{"type": "KLLoss"}], "coef": [3]},
            "to_static_training": False,
        },
    ),
}


def converted(tmp_path: Path, below: dict[str, Any], own: dict[str, Any]) -> Conversion:
    (tmp_path / "base.yml").write_text(yaml.safe_dump(below), encoding="utf-8")
    file = tmp_path / "own.yml"
    file.write_text(yaml.safe_dump({"_base_": "base.yml", **own}), encoding="utf-8")
    return convert(file)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_recipes_go_through(name: str, tmp_path: Path) -> None:
    found = converted(tmp_path, *OFFICIAL[name])
    assert found.problems is None
    expected = {"model.backbone.multi_grid"}
    expected |= {"loss.types.0.losses.1.type"} if "rmi" in name else set()
    expected |= {"distill_loss"} if "student" in name else set()
    assert set(found.ledger.lost) == expected
    # Every key of the file is somewhere in the account.
    known = {*found.ledger.carried, *found.ledger.dropped, *found.ledger.lost}
    assert {"batch_size", "iters", "optimizer.type", "lr_scheduler.power"} <= known


def test_what_becomes_of_cityscapes(tmp_path: Path) -> None:
    recipe = converted(tmp_path, *OFFICIAL["resnet50_os8_cityscapes_1024x512_80k"]).recipe
    assert recipe["Global"]["iters"] == 80000
    assert recipe["Arch"] == {
        "name": "DeepLabV3P",
        "class_num": 19,
        "backbone": {
            **{"name": "ResNet50_vd", "output_stride": 8, "pretrained": True, "use_ssld": True},
        },
        "aspp_ratios": [1, 12, 24, 36],
        "align_corners": False,
    }
    assert recipe["Metric"] == {"Eval": [{"MeanIoU": {"absent": "one"}}]}
    names = {"class_id_map_file": "cityscapes_label_list.txt"}
    assert recipe["Infer"] == {"PostProcess": {"Segmentation": names}}
    assert recipe["Loss"] == {"Train": [{"SegCELoss": {"weight": 1}}]}
    assert recipe["Optimizer"] == {
        "name": "Momentum",
        "lr": {"name": "Linear", "learning_rate": 0.01, "end_lr": 0, "power": 0.9},
        "momentum": 0.9,
        "regularizer": {"name": "L2", "coeff": 4.0e-5},
    }
    train = recipe["DataLoader"]["Train"]
    assert train["sampler"] == {"batch_size": 4, "shuffle": True, "drop_last": True}
    half = [0.5, 0.5, 0.5]
    normalize = {"NormalizeImage": {"scale": "1.0/255.0", "mean": half, "std": half, "order": ""}}
    assert train["dataset"] == {
        "name": "CityscapesDataset",
        "image_root": "data/cityscapes",
        "split": "train",
        "transform_ops": [
            {"DecodeImage": {}},
            {"RandomScaleImage": {"min_scale": 0.5, "max_scale": 2.0, "step": 0.25}},
            {"RandomPadCrop": {"size": [1024, 512]}},
            {"RandFlipImage": {"flip_code": 1, "prob": 0.5}},
            {
                "RandomDistort": {
                    **{"brightness_range": 0.4, "contrast_range": 0.4, "saturation_range": 0.4},
                }
            },
            normalize,
        ],
    }
    assert recipe["DataLoader"]["Eval"]["dataset"]["transform_ops"] == [
        {"DecodeImage": {}},
        normalize,
    ]


def test_what_becomes_of_the_others(tmp_path: Path) -> None:
    voc = converted(tmp_path, *OFFICIAL["resnet101_os8_voc12aug_512x512_40k"]).recipe["DataLoader"]
    assert voc["Train"]["dataset"]["split"] == "trainaug"
    assert voc["Eval"]["dataset"]["image_root"] == "data/VOCdevkit/VOC2012"
    assert {"Padv2": {"size": [512, 512]}} in voc["Eval"]["dataset"]["transform_ops"]
    optic = converted(tmp_path, *OFFICIAL["resnet50_os8_optic_disc_512x512_1k_teacher"]).recipe
    data = optic["DataLoader"]["Train"]["dataset"]
    assert data["list_path"] == "data/optic_disc_seg/train_list.txt"
    assert {"ResizeImage": {"size": [512, 512]}} in data["transform_ops"]
    assert optic["Arch"]["class_num"] == 2
    notes = converted(tmp_path, *OFFICIAL["resnet50_os8_optic_disc_512x512_1k_teacher"]).ledger
    assert any("the evaluation resizes" in note for note in notes.notes)
    rmi = converted(tmp_path, *OFFICIAL["resnet50_os8_cityscapes_1024x512_80k_rmiloss"]).recipe
    assert rmi["Loss"]["Train"] == [{"SegCELoss": {"weight": 0.5}}]


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """Lists, another trunk, OHEM and Dice, a warm-up, clipping, and keys that nobody knows."""
    own = {
        "batch_size": 8,
        "train_dataset": {
            "_inherited_": False,
            **{"type": "Dataset", "dataset_root": "data/own", "train_path": "data/own/t.txt"},
            **{"num_classes": 3, "separator": ",", "ignore_index": 7, "edge": True},
            "transforms": [
                {"type": "RandomPaddingCrop", "category_max_ratio": 0.75, "ignore_index": 7},
                {"type": "RandomBlur", "prob": 0.1},
                {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.2, 0.2, 0.2]},
            ],
        },
        "val_dataset": {
            "_inherited_": False,
            **{"type": "Dataset", "dataset_root": "data/own", "val_path": "data/own/v.txt"},
            **{"num_classes": 3, "separator": ",", "ignore_index": 7},
            "transforms": [
                {"type": "Resize", "target_size": [320, 200], "keep_ratio": True, "interp": "AREA"},
                NORMALIZE,
            ],
        },
        "model": {
            "type": "DeepLabV3P",
            "backbone": {"type": "MobileNetV3_large_x1_0_os8"},
            "data_format": "NCHW",
            "pretrained": "output/model.pdparams",
        },
        "loss": {
            "types": [
                {
                    "type": "MixedLoss",
                    "losses": [
                        {"type": "OhemCrossEntropyLoss", "min_kept": 5000, "ignore_index": 7},
                        {"type": "DiceLoss"},
                    ],
                    "coef": [0.8, 0.2],
                }
            ],
            "coef": [2.0],
        },
        "optimizer": {
            **{"type": "AdamW", "weight_decay": 0.05, "beta1": 0.8},
            "grad_clip_cfg": {"name": "ClipGradByGlobalNorm", "clip_norm": 3.0},
            "custom_cfg": [
                {"name": "backbone", "lr_mult": 0.1},
                {"name": "norm", "weight_decay_mult": 0.0},
                {"name": "decoder", "weight_decay_mult": 2.0},
            ],
        },
        "lr_scheduler": {"warmup_iters": 100, "warmup_start_lr": 1.0e-5},
        "test_config": {
            **{"is_slide": True, "crop_size": [320, 200], "stride": [160, 100]},
            **{"aug_eval": True, "scales": 1.5, "flip_horizontal": True, "flip_vertical": False},
        },
        "wonder": 1,
    }
    below = {**CITYSCAPES, "optimizer": {}}
    found = converted(tmp_path, below, own)
    assert found.problems is None
    recipe = found.recipe
    assert recipe["Arch"]["class_num"] == 3 and recipe["Arch"]["aspp_ratios"] == [1, 6, 12, 18]
    assert recipe["Arch"]["backbone"] == {"name": "MobileNetV3_large_x1_0", "output_stride": 8}
    assert recipe["Global"]["pretrained_model"] == "output/model.pdparams"
    assert recipe["Loss"]["Train"] == [
        {"OhemCrossEntropyLoss": {"weight": 1.6, "min_kept": 5000}},
        {"DiceLoss": {"weight": 0.4}},
    ]
    assert recipe["Optimizer"]["name"] == "AdamW" and recipe["Optimizer"]["beta1"] == 0.8
    assert recipe["Optimizer"]["weight_decay"] == 0.05
    assert recipe["Optimizer"]["clip_global_norm"] == 3.0
    assert recipe["Optimizer"]["lr_mult"] == {"backbone": 0.1}
    assert recipe["Optimizer"]["no_weight_decay_name"] == "norm"
    rate = recipe["Optimizer"]["lr"]
    assert rate["warmup_steps"] == 100 and rate["warmup_start_lr"] == 1e-5
    data = recipe["DataLoader"]["Train"]["dataset"]
    assert (data["separator"], data["ignore_index"]) == (",", 7)
    assert data["transform_ops"][1] == {
        "RandomPadCrop": {"size": [512, 512], "category_max_ratio": 0.75}
    }
    resize = recipe["DataLoader"]["Eval"]["dataset"]["transform_ops"][1]
    assert resize == {
        "ResizeImage": {"size": [320, 200], "keep_ratio": True, "interpolation": "area"}
    }
    assert recipe["Infer"]["tiling"] == {"size": [320, 200], "stride": [160, 100]}
    assert recipe["Infer"]["tta"] == {"scales": [1.5], "flip_horizontal": True}
    assert set(found.ledger.lost) == {
        *("wonder", "optimizer.custom_cfg.2.weight_decay_mult", "train_dataset.edge"),
        *("train_dataset.transforms.1.type", "train_dataset.transforms.1.prob"),
    }


def test_a_decoder_at_an_eighth_is_carried(tmp_path: Path) -> None:
    below = {**CITYSCAPES, **model(50, 19)}
    found = converted(tmp_path, below, {"model": {"backbone_indices": [1, 3]}})
    assert found.recipe["Arch"]["low_feature"] == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": {"type": "BiSeNetV2"}}, "model.type: 'BiSeNetV2'"),
        ({"model": {"backbone_indices": [1, 2]}}, r"backbone_indices: \[1, 2\]: there is only"),
        ({"model": {"backbone": {"type": "HRNet_W18"}}}, "no network 'HRNet_W18'"),
        ({"train_dataset": {"type": "CocoStuff"}}, "no data set 'CocoStuff'"),
        ({"optimizer": {"type": "Lamb"}}, "no optimizer 'Lamb'"),
        ({"lr_scheduler": {"type": "OneCycleLR"}}, "'OneCycleLR': expected PolynomialDecay"),
        ({"loss": {"types": [{"type": "RMILoss"}]}}, "none of the losses is known"),
        ({"loss": {"types": []}}, "there is no loss"),
        ({"iters": "many"}, "iters: expected a number"),
        ({"model": 3}, "model: expected a map"),
    ],
)
def test_what_there_is_not_here(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    below = {**CITYSCAPES, **model(50, 19)}
    with pytest.raises(ConfigError, match=problem):
        converted(tmp_path, below, change)
