"""What compare.py runs: small recipes, and broken ones with one mistake or several."""

from __future__ import annotations

DIGITS = "configs/quickstart/digits.yaml"
SSLD = "configs/distillation/PPLCNet_x0_5_ssld.yaml"

RECIPES = {  # written into the work folder, beside a copy of configs/
    "tiny.yaml": """
_base_: configs/_base_/pplcnet.yaml
Global: {epochs: 2, total_batch_size: 8, output_dir: output/tiny, image_shape: [3, 32, 32],
         use_visualdl: false, print_batch_step: 1, device: cpu}
Arch: {name: PPLCNet_x0_25, class_num: 2, stride_list: [2, 1, 2, 2, 2]}
Optimizer: {lr: {learning_rate: 0.05, warmup_epoch: 1}}
DataLoader:
  Train:
    dataset:
      image_root: tiny
      cls_label_path: tiny/train_list.txt
      transform_ops: [DecodeImage: {}, RandCropImage: {size: 32, scale: [0.6, 1.0]},
                      RandFlipImage: {}, NormalizeImage: {order: ''}]
    sampler: {batch_size: 8, drop_last: true}
    loader: {num_workers: 0}
  Eval:
    dataset:
      image_root: tiny
      cls_label_path: tiny/val_list.txt
      transform_ops: [DecodeImage: {}, ResizeImage: {size: 32}, NormalizeImage: {order: ''}]
    sampler: {batch_size: 8}
    loader: {num_workers: 0}
Metric: {Train: [TopkAcc: {topk: 1}], Eval: [TopkAcc: {topk: 1}]}
""",
    "teacher.yaml": """
_base_: tiny.yaml
Global: {output_dir: output/teacher, cpu_kernels: off}
Arch: {name: PPLCNet_x0_5}
""",
    "distillation.yaml": """
_base_: tiny.yaml
Global: {output_dir: output/distillation}
Optimizer: {lr: {learning_rate: 0.01}}
Arch:
  _replace_: true
  name: DistillationModel
  class_num: 2
  freeze_params_list: [true, false]
  models:
    - Teacher: {name: PPLCNet_x0_5, stride_list: [2, 1, 2, 2, 2], return_patterns: [blocks4],
                pretrained: output/teacher/PPLCNet_x0_5/latest}
    - Student: {name: PPLCNet_x0_25, stride_list: [2, 1, 2, 2, 2], return_patterns: [blocks4],
                dropout_prob: 0.2}
Loss:
  Train:
    - DistillationDMLLoss: {weight: 1.0}
    - DistillationDistanceLoss: {key: blocks4, weight: 0.1, channels: [32, 64]}
    - DistillationGTCELoss: {weight: 0.5}
Metric: {Train: [DistillationTopkAcc: {topk: 1}], Eval: [DistillationTopkAcc: {topk: 1}]}
""",
    "multilabel.yaml": """
_base_: tiny.yaml
Global: {output_dir: output/multilabel, eval_engine: inference}
Arch: {class_num: 3}
Optimizer: {_replace_: true, name: AdamW, weight_decay: 0.01, lr: {name: Step, learning_rate: 0.002,
            step_size: 1, gamma: 0.5}}
Loss:
  Train: [MultiLabelLoss: {weight: 1.0, weight_ratio: true, size_sum: true}]
  Eval: [MultiLabelLoss: {weight: 1.0, weight_ratio: true, size_sum: true}]
DataLoader:
  Train: {dataset: {name: MultiLabelDataset, label_ratio: true, cls_label_path: tiny/several.txt}}
  Eval: {dataset: {name: MultiLabelDataset, label_ratio: true, cls_label_path: tiny/several.txt}}
Metric: {_replace_: true, Eval: [ATTRMetric: {}, MultiLabelMAP: {}]}
""",
    "ema.yaml": """
_base_: tiny.yaml
Global: {output_dir: output/ema, epochs: 3, update_freq: 2, cpu_kernels: off}
EMA: {decay: 0.9, use_warmup: true}
Arch: {dropout_prob: 0.2}
DataLoader:
  Train:
    dataset:
      transform_ops: [DecodeImage: {}, RandCropImage: {size: 32}, RandAugment: {},
                      NormalizeImage: {order: ''}, RandomErasing: {EPSILON: 0.5}]
      batch_transform_ops: [MixupOperator: {alpha: 0.2}]
    sampler: {batch_size: 4}
    loader: {num_workers: 1}
""",
}

BROKEN: dict[str, tuple[str, ...]] = {  # a recipe (a file, or a text of several lines), overrides
    "typo_section": (DIGITS, "Globall.epochs=3"),
    "typo_global": (DIGITS, "Global.epoch=3"),
    "typo_arch": (DIGITS, "Arch.dropout=0.1"),
    "typo_loss": (DIGITS, "Loss.Train.0.CELoss.epsilonn=0.1"),
    "typo_optimizer": (DIGITS, "Optimizer.momentumm=0.9"),
    "typo_lr": (DIGITS, "Optimizer.lr.name=Cosin"),
    "typo_dataset": (DIGITS, "DataLoader.Train.dataset.imageroot=x"),
    "typo_loader": (DIGITS, "DataLoader.Eval.loader.num_worker=1"),
    "typo_metric": (DIGITS, "Metric.Eval.0.TopkAcc.top=1"),
    "typo_infer": (DIGITS, "Infer.PostProcess.name=Topkk"),
    "type_text": (DIGITS, "Global.epochs=many", "Arch.class_num=ten"),
    "type_flag": (DIGITS, "Global.eval_during_train=1", "Global.device=gpuu"),
    "type_list": (DIGITS, "Loss.Train=CELoss", "Metric.Eval.0.TopkAcc.topk={a: 1}"),
    "range": (DIGITS, "Arch.dropout_prob=1.5", "Global.update_freq=0", "EMA.decay=2"),
    "range_list": (DIGITS, "Metric.Eval.0.TopkAcc.topk=[0]", "Global.image_shape=[3, -1, 32]"),
    "unknown_model": (DIGITS, "Arch.name=PPLCNet_x05"),
    "other_kind": (DIGITS, "Arch.name=TopkAcc"),
    "two_names": (DIGITS, "Loss.Train.0={CELoss: {}, TopkAcc: {}}"),
    "many": (DIGITS, "Arch.scal=1", "Global.epochs=0", "Optimizer.lr.warmup=1", "Metrik={}"),
    "retrieval": (DIGITS, "Global.eval_mode=retrieval"),
    "refused": (DIGITS, "Global.use_dali=true", "Global.train_mode=fixmatch"),
    "override_syntax": (DIGITS, "Global.epochs", "Global.seed=[1", "Loss.Train.7.CELoss.weight=1"),
    "no_file": ("configs/quickstart/digit.yaml",),
    "no_base": ("_base_: configs/no_such.yaml\n",),
    "circle": ("_base_: circle.yaml\n",),
    "not_yaml": ("Global: {epochs: 3\nArch: [\n",),
    "twice": ("Arch: {name: PPLCNet_x0_25}\nArch: {name: PPLCNet_x0_5}\n",),
    "no_sections": ("- Global\n- Arch\n",),
    "no_arch": ("Global: {epochs: 3}\nLoss: {Eval: [CELoss]}\n",),
    "no_training": ("Arch: {name: PPLCNet_x0_25}\nGlobal: {device: cpu}\n",),
    "two_optimizer_rules": ("tiny.yaml", "Optimizer.weight_decay=0.1"),
    "no_data": ("tiny.yaml", "DataLoader.Train.dataset.cls_label_path=none.txt"),
    "wrong_weights": ("tiny.yaml", "Arch.pretrained=none.pdparams"),
    "wrong_classes": ("tiny.yaml", "Arch.class_num=1"),
    "students": (SSLD, "Arch.infer_model_name=Pupil"),
    "frozen_student": (SSLD, "Arch.freeze_params_list=[true, true]"),
    "freeze_list": (SSLD, "Arch.freeze_params_list=[true]"),
    "pair": (SSLD, "Loss.Train.0.DistillationDMLLoss.model_name_pairs=[[Student, Techer]]"),
    "one_network": (SSLD, "Arch.models=[{Student: {name: PPLCNet_x0_5}}]"),
    "no_teacher_weights": ("distillation.yaml", "Arch.models.0.Teacher.pretrained=none"),
    "distilled_metric": (SSLD, "Metric.Eval.0.DistillationTopkAcc.model_key=Teacher"),
}

# Many commands in one process: their arguments from standard input, their results to a file.
CALLS = """
import contextlib, io, json, pathlib, sys
from ppcls_lite.cli import main
results = []
for argv in json.load(sys.stdin):
    said = [io.StringIO(), io.StringIO()]
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        try:
            status = main(argv)
        except SystemExit as end:
            status = end.code
        except Exception as error:
            status = f"{type(error).__name__}: {error}"
    results.append([status, *(text.getvalue() for text in said)])
pathlib.Path(sys.argv[1]).write_text(json.dumps(results))
"""
