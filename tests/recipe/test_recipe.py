"""From a folder of photographs to predictions, through the commands that a user types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

import ppcls_lite
from experiments.chaos import compare
from ppcls_lite.cli import main
from ppcls_lite.config import complete
from ppcls_lite.config.check import check
from ppcls_lite.config.file import dump, load_config
from ppcls_lite.data.prepare.cli import run as prepare
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.system import safe_pickle

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("disc", "stripes")

RECIPE = """
_base_: {base}
Global: {{epochs: 6, output_dir: {root}/output, device: cpu, image_shape: [3, 32, 32],
         save_interval: 3, save_inference_dir: {root}/inference, use_visualdl: false,
         print_batch_step: 1}}
Arch: {{name: PPLCNet_x0_25, class_num: 2, stride_list: [2, 1, 2, 2, 1], dropout_prob: 0.1}}
Optimizer: {{lr: {{learning_rate: 0.05, warmup_epoch: 1}}}}
DataLoader:
  Train:
    dataset:
      image_root: {root}/photos
      cls_label_path: {root}/photos/train_list.txt
      transform_ops:
        - DecodeImage:
        - RandCropImage: {{size: 32, scale: [0.8, 1.0]}}
        - RandFlipImage: {{flip_code: 1}}
        - NormalizeImage: {{order: ''}}
    sampler: {{batch_size: 8, drop_last: true}}
    loader: {{num_workers: 1}}
  Eval:
    dataset:
      image_root: {root}/photos
      cls_label_path: {root}/photos/val_list.txt
      transform_ops: &eval
        - DecodeImage:
        - ResizeImage: {{size: 32}}
        - NormalizeImage: {{order: ''}}
    sampler: {{batch_size: 5}}
    loader: {{num_workers: 0}}
Infer:
  infer_imgs: {root}/photos/disc
  batch_size: 3
  transforms: *eval
  PostProcess: {{topk: 2, class_id_map_file: {root}/photos/labels.txt}}
"""


def draw(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A 48 x 40 picture of a disc or of stripes in random colours."""
    image = np.full((40, 48, 3), rng.integers(0, 90, 3), np.uint8)
    colour = [int(c) for c in rng.integers(150, 256, 3)]
    if kind == "disc":
        cv2.circle(image, (int(rng.integers(16, 32)), int(rng.integers(14, 26))), 11, colour, -1)
    else:
        for x in range(int(rng.integers(0, 5)), 48, 8):
            image[:, x : x + 4] = colour
    return image


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, its lists, and recipe.yaml, trained once."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        (home / "photos" / kind).mkdir(parents=True)
        for i in range(24):
            cv2.imwrite(str(home / "photos" / kind / f"{kind} {i}.png"), draw(kind, rng))
    assert prepare(["folder", str(home / "photos"), "--val", "0.25"]) == 0
    text = RECIPE.format(base=ROOT / "configs" / "_base_" / "pplcnet.yaml", root=home)
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    assert run("train", home) == 0
    return home


def run(command: str, home: Path, *overrides: str) -> int:
    options = [item for override in overrides for item in ("-o", override)]
    return main([command, "-c", str(home / "recipe.yaml"), *options])


def best_dir(home: Path) -> Path:
    return home / "output" / "PPLCNet_x0_25"


def best(home: Path) -> str:
    return f"Global.pretrained_model={best_dir(home)}/best_model"


def records(run_dir: Path, kind: str) -> list[dict[str, float]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_a_run_leaves_what_its_documentation_promises(home: Path) -> None:
    run_dir = home / "output" / "PPLCNet_x0_25"
    left = {path.name for path in run_dir.iterdir()}
    checkpoints = {
        f"{name}.{suffix}"
        for name in ("latest", "best_model", "epoch_3", "epoch_6")
        for suffix in ("pdparams", "pdstate")
    }
    assert checkpoints <= left
    assert {"config.yaml", "versions.json", "train.log", "curves.png", "first_batch.png"} <= left
    assert {"confusion_matrix.png", "metrics.jsonl"} <= left
    assert len(records(run_dir, "eval")) == 6
    assert "[Train][Epoch 6/6][Iter: 4/4]lr(Cosine)" in (run_dir / "train.log").read_text()


def test_the_kept_configuration_repeats_the_run(home: Path, tmp_path: Path) -> None:
    kept = home / "output" / "PPLCNet_x0_25" / "config.yaml"
    assert main(["train", "-c", str(kept), "-o", f"Global.output_dir={tmp_path}"]) == 0
    first = safe_pickle.load(home / "output" / "PPLCNet_x0_25" / "latest.pdparams")
    second = safe_pickle.load(tmp_path / "PPLCNet_x0_25" / "latest.pdparams")
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_eval_gives_the_score_that_training_saw(home: Path) -> None:
    run_dir = home / "output" / "PPLCNet_x0_25"
    assert run("eval", home, best(home)) == 0
    score = json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))
    top = max(records(run_dir, "eval"), key=lambda r: r["top1"])
    assert score["top1"] == pytest.approx(top["top1"])
    assert "disc" in (run_dir / "per_class.txt").read_text(encoding="utf-8")


def test_infer_export_and_predict_agree(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("infer", home, best(home), f"Infer.save_dir={tmp_path}") == 0
    assert run("export", home, best(home)) == 0
    output = tmp_path / "predicted.jsonl"
    arguments = ["--model", str(home / "inference"), "--input", str(home / "photos" / "disc")]
    assert main(["predict", *arguments, "--output", str(output), "--batch-size", "4"]) == 0
    read = [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (tmp_path / "infer.jsonl", output)
    ]
    assert len(read[0]) == len(read[1]) == 24
    for one, other in zip(*read):
        assert one["file"] == other["file"]
        assert one["class_ids"] == other["class_ids"]
        assert one["label_names"] == other["label_names"]
        assert one["scores"] == pytest.approx(other["scores"], rel=1e-3, abs=1e-6)


def exported_spec(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "inference.yml").read_text(encoding="utf-8"))


def test_prediction_follows_the_evaluation(home: Path, tmp_path: Path) -> None:
    left_out = ("Infer.transforms=null", "Global.image_shape=null")
    specs = []
    for number, overrides in enumerate(((), left_out, (*left_out, "Global.image_size=40"))):
        folder = tmp_path / str(number)
        assert (
            run("export", home, best(home), *overrides, f"Global.save_inference_dir={folder}") == 0
        )
        specs.append(exported_spec(folder))
    stated, followed, larger = specs
    assert followed["PreProcess"] == stated["PreProcess"]
    assert followed["Global"]["image_shape"] == stated["Global"]["image_shape"] == [3, 32, 32]
    assert larger["PreProcess"]["transform_ops"][0] == {"ResizeImage": {"size": 40}}
    assert larger["Global"]["image_shape"] == [3, 40, 40]


def test_a_prediction_unlike_the_evaluation_is_warned_of(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "Infer.transforms.1.ResizeImage.size=34"
    says = "Infer.transforms.1.ResizeImage.size: is 34, but DataLoader.Eval"
    for command in ("eval", "infer"):
        assert run(command, home, best(home), f"Global.output_dir={tmp_path}") == 0
        assert "Infer.transforms" not in "".join(capsys.readouterr())
        assert run(command, home, best(home), f"Global.output_dir={tmp_path}", other) == 0
        assert "".join(capsys.readouterr()).count(says) == 1


def test_classes_are_counted_where_the_recipe_leaves_them_out(home: Path, tmp_path: Path) -> None:
    left_out = ("Arch.class_num=null", f"Global.output_dir={tmp_path}")
    assert run("train", home, *left_out, "Global.epochs=1") == 0
    run_dir = tmp_path / "PPLCNet_x0_25"
    kept = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    assert kept["Arch"]["class_num"] == 2
    assert "Arch.class_num: 2, as in " in (run_dir / "train.log").read_text(encoding="utf-8")
    folder = f"Global.save_inference_dir={tmp_path}/inference"
    for command in ("eval", "infer", "export"):
        assert run(command, home, best(home), *left_out, folder) == 0
    top = max(record["top1"] for record in records(best_dir(home), "eval"))
    assert json.loads((run_dir / "eval.json").read_text())["top1"] == pytest.approx(top)
    assert exported_spec(tmp_path / "inference")["PostProcess"]["Topk"]["label_list"] == [*CLASSES]


def test_classes_that_cannot_be_counted_are_asked_for(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = create_model("PPLCNet_x0_25", class_num=0, stride_list=[2, 1, 2, 2, 1])
    file = write_state(tmp_path / "trunk", trunk.state_dict())
    paths = f"{{name: CustomLabelDataset, image_root: {home}, transform_ops: [DecodeImage], "
    unlabelled = f"DataLoader.Train.dataset={paths}sample_list_path: {tmp_path}/list.txt}}"
    (tmp_path / "list.txt").write_text("photos/disc/disc 1.png\n", encoding="utf-8")
    for command, override, says in (
        ("export", f"Global.pretrained_model={file}", "has no fc in which to count"),
        ("train", unlabelled, "CustomLabelDataset) does not tell how many"),
    ):
        assert run(command, home, "Arch.class_num=null", override) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: Arch.class_num: is missing") and says in said
        assert "-o Arch.class_num=" in said


def test_each_command_checks_the_recipe_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []

    def counted(*arguments: Any) -> Any:
        checks.append(arguments)
        return check(*arguments)

    monkeypatch.setattr(complete, "check", counted)
    own = (f"Global.output_dir={tmp_path}", f"Global.save_inference_dir={tmp_path}/inference")
    for command in ("train", "eval", "infer", "export", "config"):
        weights = () if command == "train" else (best(home),)
        checks.clear()
        assert run(command, home, "Global.epochs=1", *weights, *own) == 0
        assert len(checks) == 1, command
    checks.clear()
    tree = load_config(home / "recipe.yaml", [best(home), *own])
    before = dump(tree)
    ppcls_lite.evaluate(tree)  # a plain tree is checked as well, and stays as it is
    assert len(checks) == 1 and dump(tree) == before


def test_eight_images_are_learnt_by_heart(home: Path, tmp_path: Path) -> None:
    lines = (home / "photos" / "train_list.txt").read_text(encoding="utf-8").splitlines()
    chosen = [line for c in "01" for line in [n for n in lines if n.endswith(f" {c}")][:4]]
    (tmp_path / "eight.txt").write_text("\n".join(chosen), encoding="utf-8")
    same = [
        f"DataLoader.{s}.dataset.cls_label_path={tmp_path}/eight.txt" for s in ("Train", "Eval")
    ]
    plain = "[DecodeImage, {ResizeImage: {size: 32}}, {NormalizeImage: {order: ''}}]"
    overrides = [*same, f"DataLoader.Train.dataset.transform_ops={plain}", "Arch.dropout_prob=0"]
    overrides += ["Global.epochs=80", "Global.eval_interval=80", "Global.save_interval=80"]
    assert run("train", home, *overrides, f"Global.output_dir={tmp_path}") == 0
    run_dir = tmp_path / "PPLCNet_x0_25"
    assert records(run_dir, "eval")[-1]["top1"] > 0.5
    # Label smoothing leaves 0.199. The score is another matter: after 80 updates the running
    # statistics are young, and which of the eight images they cost is chance.
    losses = [record["CELoss"] for record in records(run_dir, "train")]
    assert losses[-1] < 0.3 < losses[0]


def test_ctrl_c_and_resume_equal_the_uninterrupted_run(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(home / "recipe.yaml")]
    command += ["-o", f"Global.output_dir={tmp_path}"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "[Epoch 2/6][Iter: 2/4]" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130, "".join(seen)
    assert "Traceback" not in "".join(seen)
    run_dir = tmp_path / "PPLCNet_x0_25"
    resume = f"Global.checkpoints={run_dir}/latest"
    assert run("train", home, f"Global.output_dir={tmp_path}", resume) == 0
    whole = home / "output" / "PPLCNet_x0_25"
    first, second = (safe_pickle.load(d / "latest.pdparams") for d in (whole, run_dir))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    times = ("batch_cost", "reader_cost", "ips", "peak_rss_mb")
    for kind in ("step", "train", "eval"):
        both = [
            [{k: v for k, v in record.items() if k not in times} for record in records(d, kind)]
            for d in (whole, run_dir)
        ]
        assert both[0] == both[1]


def test_resume_with_everything_on_and_other_workers(home: Path, tmp_path: Path) -> None:
    """Averaged weights, AMP, random augmentation of samples and batches; 0, 2 and 1 workers."""
    train = "DataLoader.Train.dataset"
    chain = "[DecodeImage, {RandCropImage: {size: 32}}, RandAugment, {NormalizeImage: {order: ''}},"
    chain += " {RandomErasing: {EPSILON: 0.5}}]"
    common = [f"{train}.transform_ops={chain}", "AMP.use_amp=true", "EMA.decay=0.9"]
    common += [f"{train}.batch_transform_ops=[{{MixupOperator: {{alpha: 0.2}}}}]"]
    common += ["Global.epochs=3", "Global.save_interval=2"]
    workers = "DataLoader.Train.loader.num_workers"
    assert run("train", home, *common, f"{workers}=0", f"Global.output_dir={tmp_path}/whole") == 0
    common += [f"Global.output_dir={tmp_path}/parts", "Global.checkpoints=auto"]
    command = [sys.executable, "-u", str(ROOT / "tools" / "train.py")]
    command += ["-c", str(home / "recipe.yaml"), "-o", f"{workers}=2"]
    command += [item for override in common for item in ("-o", override)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "[Epoch 2/3][Iter: 2/4]" in line:
            process.send_signal(signal.SIGUSR1)
    assert process.wait() == 75, "".join(seen)
    assert sum("AMP has no effect on a CPU" in line for line in seen) == 1
    assert run("train", home, *common, f"{workers}=1") == 0
    whole, parts = (tmp_path / name / "PPLCNet_x0_25" for name in ("whole", "parts"))
    assert compare(whole, parts) == []
    assert "top1_ema" in records(parts, "eval")[0]


def test_a_run_counted_in_updates(home: Path, tmp_path: Path) -> None:
    """The batches are those of epochs; evaluations and checkpoints come every `eval_steps`."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    length = ["Global.epochs=null", "Global.iters=10", "Global.eval_steps=5"]
    length += ["Global.save_interval=1", "Optimizer.lr.warmup_epoch=0"]
    assert run("train", home, *length, f"Global.output_dir={whole}") == 0
    folder = whole / "PPLCNet_x0_25"
    evaluated = [(r["epoch"], r["step"]) for r in records(folder, "eval")]
    assert evaluated == [(1, 5), (2, 10)]
    assert (folder / "epoch_1.pdparams").exists() and (folder / "epoch_2.pdparams").exists()
    resume = f"Global.checkpoints={folder / 'epoch_1'}"
    assert run("train", home, *length, resume, f"Global.output_dir={parts}") == 0
    ended = [safe_pickle.load(d / "latest.pdparams") for d in (folder, parts / "PPLCNet_x0_25")]
    assert all(np.array_equal(ended[0][name], ended[1][name]) for name in ended[0])
    # Without eval_steps, epochs of the list: 4 updates, and here 2 of the second. They end where
    # the same updates of whole epochs do.
    plain = ["Optimizer.lr={learning_rate: 0.05}"]
    short = [*plain, "Global.epochs=null", "Global.iters=6"]
    assert run("train", home, *short, f"Global.output_dir={tmp_path}/iters") == 0
    plain += ["Global.epochs=2", "Global.print_batch_step=2"]
    assert run("train", home, *plain, f"Global.output_dir={tmp_path}/epochs") == 0
    folders = [tmp_path / name / "PPLCNet_x0_25" for name in ("iters", "epochs")]
    found = [[r for r in records(f, "step") if r["step"] in (4, 6)] for f in folders]
    losses = [[record["loss"] for record in one] for one in found]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert [r["step"] for r in records(folders[0], "eval")] == [4, 6]


def break_list(home: Path, tmp_path: Path) -> list[str]:
    path = tmp_path / "list.txt"
    path.write_text("disc/disc 0.png 0\nno-label-here\ndisc/disc 1.png 7\ndisc/gone.png 1\n")
    return [f"DataLoader.Train.dataset.cls_label_path={path}"]


def truncate_image(home: Path, tmp_path: Path) -> list[str]:
    data = cv2.imencode(".jpg", draw("disc", np.random.default_rng(1)))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "list.txt").write_text("cut.jpg 0\n")
    split = "DataLoader.Eval.dataset"
    return [f"{split}.image_root={tmp_path}", f"{split}.cls_label_path={tmp_path}/list.txt"]


def other_head(home: Path, tmp_path: Path) -> list[str]:
    return ["Arch.class_num=3"]


def foreign_weights(home: Path, tmp_path: Path) -> list[str]:
    return ["Arch.name=PPLCNet_x0_5"]


@pytest.mark.parametrize(
    ("command", "damage", "says"),
    [
        ("train", ["Arch.scal=1"], ["Arch.scal", "has no argument"]),
        ("train", ["DataLoader.Train.dataset.cls_label_path=gone.txt"], ["gone.txt", "prepare"]),
        ("train", ["DataLoader.Train.dataset.image_root=gone"], ["no image folder", "gone"]),
        ("train", break_list, ["list.txt:2", "class_num", "gone.png"]),
        ("train", ["Global.device=gpu"], ["Global.device", "Global.device=cpu"]),
        ("train", ["Global.checkpoints=gone/latest"], ["gone/latest", "no such file"]),
        ("train", ["Global.pretrained_model=gone"], ["gone"]),
        ("train", ["DataLoader.Train.sampler.batch_size=1000"], ["drop_last"]),
        ("train", ["Optimizer.lr.learning_rate=1e9"], ["loss is nan", "the learning rate"]),
        ("train", ["Global.output_dir=/proc/nowhere"], ["Global.output_dir"]),
        ("train", ["AMP.level=O3"], ["AMP.level"]),
        ("train", ["EMA.decay=1.5"], ["EMA.decay"]),
        ("train", ["Global.save_steps=0"], ["Global.save_steps"]),
        ("eval", [], ["Global.pretrained_model"]),
        ("eval", other_head, ["class_num", "classifier"]),
        ("eval", foreign_weights, ["does not fit"]),
        ("eval", truncate_image, ["cut.jpg"]),
        ("export", ["Infer.PostProcess.class_id_map_file=gone.txt"], ["gone.txt"]),
        ("infer", ["Infer.infer_imgs=gone.png"], ["gone.png"]),
    ],
)
def test_a_mistake_ends_with_one_message(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    damage: list[str] | Callable[[Path, Path], list[str]],
    says: list[str],
) -> None:
    overrides = damage if isinstance(damage, list) else damage(home, tmp_path)
    weights = [best(home)] if command != "train" and damage != [] else []
    status = run(command, home, f"Global.output_dir={tmp_path}", *weights, *overrides)
    printed = capsys.readouterr().err
    assert status in (1, 2), printed
    assert printed.startswith("error: ")
    for part in says:
        assert part in printed
    assert "Traceback" not in printed


def test_a_wrong_command_line_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    printed = capsys.readouterr().err
    assert "no command 'trian'" in printed and "export" in printed
    assert main(["--version"]) == 0
    assert main([]) == 0


def test_bad_training_images_are_replaced_counted_and_listed(home: Path, tmp_path: Path) -> None:
    lines = (home / "photos" / "train_list.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("\n".join([*lines, f"{tmp_path}/bad.png 1"]), "utf-8")
    overrides = [
        f"DataLoader.Train.dataset.cls_label_path={tmp_path}/list.txt",
        f"Global.output_dir={tmp_path}",
        "Global.epochs=2",
    ]
    assert run("train", home, *overrides) == 0
    listed = (tmp_path / "PPLCNet_x0_25" / "bad_files.txt").read_text(encoding="utf-8")
    assert listed.startswith("Train\t") and "bad.png" in listed and listed.count("\n") == 1


def test_only_a_training_may_replace_the_classifier(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = f"Arch.pretrained={home}/output/PPLCNet_x0_25/best_model"
    three = [weights, "Arch.class_num=3", f"Global.output_dir={tmp_path}"]
    for command in ("eval", "export", "infer"):
        assert run(command, home, *three, "Infer.PostProcess.class_id_map_file=null") == 1
        assert "another classifier" in capsys.readouterr().err
    assert run("train", home, *three, "Global.epochs=1") == 0
