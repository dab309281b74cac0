"""The quick start of detection, on a few small scenes: data, training, export, prediction."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_lite import Predictor
from ppcls_lite.config.file import load_config
from ppcls_lite.data.prepare.cli import run as prepare
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.train import train

pytest.importorskip("sklearn.datasets")


def test_it_trains_exports_and_finds_objects(tmp_path: Path, own_home: Path) -> None:
    scenes = tmp_path / "scenes"
    prepare(["scenes", "--output", str(scenes), "--images", "4", "--val", "2"])
    places = [
        f"DataLoader.{split}.dataset.{key}={value}"
        for split, name in (("Train", "train"), ("Eval", "val"))
        for key, value in (
            ("image_root", scenes),
            ("annotation", scenes / f"instances_{name}.json"),
        )
    ]
    names = scenes / "label_list.txt"
    short = ["Global.epochs=1", "Global.eval_interval=1", f"Global.output_dir={tmp_path}"]
    short += ["DataLoader.Train.sampler.batch_size=2", "DataLoader.Train.loader.num_workers=0"]
    short += ["DataLoader.Eval.loader.num_workers=0", "Global.device=cpu"]
    short += [f"Global.save_inference_dir={tmp_path / 'inference'}"]
    short += [f"Infer.PostProcess.class_id_map_file={names}"]
    # weights that have learnt nothing are sure of nothing
    short += ["Infer.PostProcess.score_threshold=0.001", "Infer.PostProcess.keep_top_k=5"]
    recipe = "configs/quickstart/scenes_detection.yaml"
    result = train(load_config(recipe, [*places, *short]))
    best = f"Global.pretrained_model={result.run_dir / 'best_model'}"
    report = export(load_config(recipe, [*places, *short, best]))
    with Predictor(report.folder) as predictor:
        (answer,) = predictor.predict(str(scenes / "images" / "val" / "0000.jpg"))
    assert predictor.spec.labels == names.read_text(encoding="utf-8").split()
    assert len(answer["boxes"]) == len(answer["scores"]) == 5
    assert answer["label_names"] == [predictor.spec.labels[i] for i in answer["class_ids"]]
    for x1, y1, x2, y2 in answer["boxes"]:
        assert 0 <= x1 <= x2 <= 160 and 0 <= y1 <= y2 <= 128
