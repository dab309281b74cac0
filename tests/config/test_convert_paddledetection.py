"""Recipes of PaddleDetection's PicoDet, written anew in its language, as recipes of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.config.convert.dialects import Conversion, convert
from ppcls_lite.errors import ConfigError

DATA = """
metric: COCO
num_classes: 80
TrainDataset: !COCODataSet
  dataset_dir: dataset/coco
  image_dir: train2017
  anno_path: annotations/instances_train2017.json
  data_fields: [image, gt_bbox, gt_class, is_crowd]
EvalDataset: !COCODataSet
  {dataset_dir: dataset/coco, image_dir: val2017, anno_path: annotations/instances_val2017.json,
   allow_empty: true}
TestDataset: !ImageFolder {anno_path: names.txt, dataset_dir: dataset/coco}
"""
RUN = """
use_gpu: true
use_xpu: false
log_iter: 20
save_dir: output
snapshot_epoch: 1
print_flops: false
export: {post_process: true, nms: true, benchmark: false, fuse_conv_bn: false}
"""
READER = """
worker_num: 6
eval_height: &height 320
eval_width: &width 320
eval_size: &size [*height, *width]
TrainReader:
  sample_transforms:
  - Decode: {}
  - RandomCrop: {}
  - RandomFlip: {prob: 0.5}
  - RandomDistort: {}
  batch_transforms:
  - BatchRandomResize:
      target_size: [256, 288, [320, 352]]
      random_size: true
      random_interp: true
      keep_ratio: false
  - NormalizeImage: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}
  - Permute: {}
  - PadGT: {}
  batch_size: 64
  shuffle: true
  drop_last: true
EvalReader:
  sample_transforms:
  - Decode: {}
  - Resize: {interp: 2, target_size: *size, keep_ratio: false}
  - NormalizeImage: {is_scale: true}
  - Permute: {}
  batch_transforms:
  - PadBatch: {pad_to_stride: 32}
  batch_size: 8
  shuffle: false
TestReader:
  inputs_def: {image_shape: [1, 3, *height, *width]}
  sample_transforms: [Decode: {}]
  batch_size: 1
"""
OPTIMIZER = """
epoch: 300
LearningRate:
  base_lr: 0.32
  schedulers:
  - !CosineDecay {max_epochs: 300}
  - !LinearWarmup {start_factor: 0.1, steps: 300}
OptimizerBuilder:
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.00004, type: L2}
"""
SECOND = """
_BASE_: [data.yml, run.yml, optimizer.yml, reader.yml]
architecture: PicoDet
find_unused_parameters: true
use_ema: true
ema_decay: 0.9998
cycle_epoch: 40
snapshot_epoch: 10
pretrain_weights: https://example.org/PPLCNet_x0_75_pretrained.pdparams
weights: output/picodet/best_model
PicoDet: {backbone: LCNet, neck: LCPAN, head: PicoHeadV2}
LCNet: {scale: 0.75, feature_maps: [3, 4, 5]}
LCPAN: {out_channels: 96, use_depthwise: true, num_features: 4}
PicoHeadV2:
  conv_feat:
    name: PicoFeat
    feat_in: 96
    feat_out: 96
    num_convs: 2
    num_fpn_stride: 4
    norm_type: bn
    share_cls_reg: true
    use_se: true
  feat_in_chan: 96
  fpn_stride: [8, 16, 32, 64]
  prior_prob: 0.01
  reg_max: 7
  cell_offset: 0.5
  grid_cell_scale: 5.0
  static_assigner_epoch: 100
  use_align_head: true
  static_assigner: {name: ATSSAssigner, topk: 4, force_gt_matching: false}
  assigner: {name: TaskAlignedAssigner, topk: 13, alpha: 1.0, beta: 6.0}
  loss_class: {name: VarifocalLoss, use_sigmoid: false, iou_weighted: true, loss_weight: 1.0}
  loss_dfl: {name: DistributionFocalLoss, loss_weight: 0.5}
  loss_bbox: {name: GIoULoss, loss_weight: 2.5}
  nms:
    name: MultiClassNMS
    nms_top_k: 1000
    keep_top_k: 100
    score_threshold: 0.025
    nms_threshold: 0.6
"""
FIRST = """
_BASE_: [data.yml, run.yml, optimizer.yml, reader.yml]
architecture: PicoDet
pretrain_weights: https://example.org/models/picodet_lcnet_1_0x_416_coco.pdparams
PicoDet: {backbone: MobileNetV3, neck: CSPPAN, head: PicoHead, nms_cpu: true}
MobileNetV3:
  model_name: large
  scale: 0.35
  with_extra_blocks: false
  extra_block_filters: []
  feature_maps: [7, 13, 16]
CSPPAN: {out_channels: 128, use_depthwise: true, num_csp_blocks: 1, num_features: 4}
PicoHead:
  conv_feat: {name: PicoFeat, feat_in: 128, feat_out: 128, num_convs: 4, share_cls_reg: true}
  reg_max: 7
  cell_offset: 0.5
  loss_class: {name: VarifocalLoss, use_sigmoid: true, iou_weighted: true, loss_weight: 1.0}
  loss_dfl: {name: DistributionFocalLoss, loss_weight: 0.25}
  loss_bbox: {name: GIoULoss, loss_weight: 2.0}
  assigner: {name: SimOTAAssigner, candidate_topk: 10, iou_weight: 6, use_vfl: false}
"""


def converted(root: Path, text: str, **other: str) -> Conversion:
    files = {"data": DATA, "run": RUN, "optimizer": OPTIMIZER, "reader": READER} | other
    for name, content in files.items():
        (root / f"{name}.yml").write_text(content)
    (root / "own.yml").write_text(text)
    return convert(root / "own.yml")


def test_a_recipe_of_the_second_generation(tmp_path: Path) -> None:
    found = converted(tmp_path, SECOND)
    assert found.dialect == "PaddleDetection" and found.problems is None
    recipe, ledger = found.recipe, found.ledger
    assert recipe["Arch"] == {
        "name": "PicoDet",
        "class_num": 80,
        "backbone": {"name": "PPLCNet_x0_75", "pretrained": True},
        "neck": {"name": "LCPAN", "out_channels": 96, "num_features": 4, "use_depthwise": True},
        "head": {
            "name": "PicoHeadV2",
            "num_convs": 2,
            "use_se": True,
            "reg_max": 7,
            "cell_offset": 0.5,
            "prior_prob": 0.01,
            "use_align_head": True,
        },
    }
    (loss,) = recipe["Loss"]["Train"]
    assert loss["PicoDetLoss"] == {
        "vfl_weight": 1.0,
        "giou_weight": 2.5,
        "dfl_weight": 0.5,
        "static_assigner_epoch": 100,
        "static_assigner": {"name": "ATSS", "topk": 4, "anchor_scale": 5.0},
        "assigner": {"name": "TaskAligned", "topk": 13, "alpha": 1.0, "beta": 6.0},
    }
    run = recipe["Global"]
    assert (run["epochs"], run["save_interval"], run["eval_interval"]) == (300, 10, 10)
    assert run["image_shape"] == [3, 320, 320] and run["total_batch_size"] == 256
    assert recipe["EMA"] == {"decay": 0.9998, "type": "threshold"}
    assert recipe["Optimizer"]["lr"] == {
        "name": "Cosine",
        "learning_rate": 0.32,
        "warmup_steps": 300,
        "warmup_start_lr": pytest.approx(0.032),
        "base_batch_size": 256,
    }
    assert recipe["Optimizer"]["regularizer"] == {"name": "L2", "coeff": 4e-5}
    train, evaluation = (recipe["DataLoader"][split] for split in ("Train", "Eval"))
    assert train["dataset"]["image_root"] == "dataset/coco/train2017"
    assert train["dataset"]["annotation"] == "dataset/coco/annotations/instances_train2017.json"
    assert not train["dataset"]["allow_empty"] and evaluation["dataset"]["allow_empty"]
    names = [next(iter(op)) for op in train["dataset"]["transform_ops"]]
    assert names == [
        *("DecodeImage", "RandomCropBoxes", "RandFlipImage", "RandomDistort", "ResizeImage"),
        "NormalizeImage",
    ]
    resize = train["dataset"]["transform_ops"][4]["ResizeImage"]
    assert resize == {"size": [320, 320], "interpolation": "all"}
    assert train["sampler"] == {
        "name": "MultiSizeBatchSampler",
        "sizes": [[256, 256], [288, 288], [352, 320]],  # ours are [width, height]
        "batch_size": 64,
        "shuffle": True,
        "drop_last": True,
    }
    assert evaluation["dataset"]["transform_ops"][1] == {
        "ResizeImage": {"size": [320, 320], "interpolation": "bicubic"}
    }
    assert recipe["Infer"]["PostProcess"]["DetectionNMS"] == {
        "score_threshold": 0.025,
        "nms_threshold": 0.6,
        "nms_top_k": 1000,
        "keep_top_k": 100,
        "class_id_map_file": "dataset/coco/names.txt",
    }
    assert not ledger.lost
    assert "scales it to the batch" in ledger.notes[0]


def test_a_recipe_of_the_first_generation(tmp_path: Path) -> None:
    long = OPTIMIZER.replace("max_epochs: 300", "max_epochs: 400")
    found = converted(tmp_path, FIRST, optimizer=long)
    assert found.problems is None
    recipe = found.recipe
    assert recipe["Arch"]["backbone"] == {"name": "MobileNetV3_large_x0_35"}
    assert recipe["Optimizer"]["no_weight_decay_name"] == "backbone."  # its conv_decay is 0
    assert recipe["Arch"]["neck"]["name"] == "CSPPAN"
    assert recipe["Global"]["pretrained_model"].endswith("picodet_lcnet_1_0x_416_coco.pdparams")
    loss = recipe["Loss"]["Train"][0]["PicoDetLoss"]
    assert loss["dfl_weight"] == 0.25 and "static_assigner" not in loss
    assert loss["assigner"] == {
        "name": "SimOTA",
        "use_vfl": False,
        "center_radius": 2.5,
        "candidate_topk": 10,
        "cls_weight": 1.0,
        "iou_weight": 6,
    }
    # what is not said has PaddleDetection's defaults, not ours
    assert recipe["Infer"]["PostProcess"]["DetectionNMS"]["nms_top_k"] is None
    assert recipe["Infer"]["PostProcess"]["DetectionNMS"]["score_threshold"] == 0.05
    assert "EMA" not in recipe
    assert recipe["Optimizer"]["lr"]["decay_epochs"] == 400  # apart from the epochs of the run


def test_voc_and_what_cannot_be_carried(tmp_path: Path) -> None:
    voc = """
metric: VOC
map_type: integral
num_classes: 3
TrainDataset: {name: VOCDataSet, dataset_dir: d, anno_path: trainval.txt, label_list: l.txt}
EvalDataset: {name: VOCDataSet, dataset_dir: d, anno_path: test.txt, label_list: l.txt}
"""
    text = FIRST.replace("scale: 0.35", "scale: 0.36\n  conv_decay: 0.001")
    reader = READER.replace(
        "  - RandomCrop: {}", "  - RandomExpand: {prob: 0.3, ratio: 2.}\n  - Mosaic: {}"
    )
    reader = reader.replace("RandomDistort: {}", "RandomDistort: {hue: [-10, 10, 0.2], count: 2}")
    found = converted(tmp_path, text, data=voc, reader=reader)
    assert found.problems is None
    assert found.recipe["Metric"]["Eval"] == [{"VocAP": {"map_type": "integral"}}]
    dataset = found.recipe["DataLoader"]["Train"]["dataset"]
    assert dataset["annotation"] == "d/trainval.txt" and dataset["label_file"] == "d/l.txt"
    assert found.recipe["Arch"]["backbone"] == {
        "name": "MobileNetV3",
        "size": "large",
        "scale": 0.36,
    }
    expand, _, distort = dataset["transform_ops"][1:4]
    assert expand == {"RandomExpand": {"prob": 0.7, "ratio": 2.0}}
    assert distort["RandomDistort"]["hue_range"] == 10
    assert distort["RandomDistort"]["hue_prob"] == pytest.approx(0.8)
    lost = found.ledger.lost
    assert "there is no Mosaic here" in lost.values()
    assert "MobileNetV3.conv_decay" in lost
    assert any(key.endswith("RandomDistort.count") for key in lost)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("backbone: LCNet", "backbone: ESNet", "PicoDet.backbone: 'ESNet' is no trunk"),
        ("backbone: LCNet", "backbone: ShuffleNetV2", "'ShuffleNetV2' is no trunk"),
        ("[3, 4, 5]", "[2, 3, 4]", "LCNet.feature_maps: .* there is only"),
        ("architecture: PicoDet", "architecture: YOLOv3", "of PaddleDetection's networks there is"),
        ("use_ema: true", "slim: Distill", "slim: cannot be converted: compression is"),
        ("use_ema: true", "unstructured_prune: true", "sparse training does not exist"),
        ("use_ema: true", "ssod_method: DenseTeacher", "semi-supervised training"),
        ("use_ema: true", "metric: RBOX", "metric: 'RBOX': expected COCO or VOC"),
        ("feat_in: 96", "feat_in: 64", "a head is as wide as its neck here"),
        ("name: VarifocalLoss", "name: QualityFocalLoss", "PicoDetLoss has VarifocalLoss"),
        ("name: ATSSAssigner", "name: Other", "static_assigner: 'Other': expected ATSSAssigner"),
        ("neck: LCPAN", "neck: FPN", "PicoDet.neck: 'FPN': expected CSPPAN or LCPAN"),
        ("name: MultiClassNMS", "name: MatrixNMS", "there is MultiClassNMS here"),
    ],
)
def test_what_is_refused(old: str, new: str, problem: str, tmp_path: Path) -> None:
    assert old in SECOND
    with pytest.raises(ConfigError, match=problem):
        converted(tmp_path, SECOND.replace(old, new, 1))


@pytest.mark.parametrize(
    ("part", "old", "new", "problem"),
    [
        (
            "optimizer",
            "!CosineDecay {max_epochs: 300}",
            "!PiecewiseDecay {gamma: 0.1}",
            "expected Cos",
        ),
        ("optimizer", "type: Momentum", "type: Lars", "there is no optimizer 'Lars'"),
        (
            "data",
            "TrainDataset: !COCODataSet",
            "TrainDataset: !KeypointSet",
            "expected COCODataSet",
        ),
        ("data", "TrainDataset:", "OtherDataset:", "TrainDataset: is missing"),
        ("reader", "interp: 2", "interp: 7", "expected 0 to 4, found 7"),
    ],
)
def test_what_is_refused_in_a_base(
    part: str, old: str, new: str, problem: str, tmp_path: Path
) -> None:
    texts: dict[str, Any] = {"optimizer": OPTIMIZER, "data": DATA, "reader": READER}
    assert old in texts[part]
    with pytest.raises(ConfigError, match=problem):
        converted(tmp_path, SECOND, **{part: texts[part].replace(old, new, 1)})
