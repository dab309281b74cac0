"""The quick start of segmentation, on a few small scenes: data, training, export, prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppcls_lite import Predictor
from ppcls_lite.config.file import load_config
from ppcls_lite.data.prepare.cli import run as prepare
from ppcls_lite.recipe.export import export
from ppcls_lite.recipe.train import train

pytest.importorskip("sklearn.datasets")


def test_it_trains_exports_and_names_the_pixels(tmp_path: Path, own_home: Path) -> None:
    scenes = tmp_path / "scenes"
    small = ["--cards", "--images", "4", "--val", "2", "--size", "64", "64"]
    prepare(["scenes", "--output", str(scenes), *small])
    places = [
        f"DataLoader.{split}.dataset.{key}={scenes / file}"
        for split, name in (("Train", "train"), ("Eval", "val"))
        for key, file in (
            *(("image_root", ""), ("list_path", f"{name}_list.txt"), ("label_file", "labels.txt")),
        )
    ]
    short = ["Global.epochs=1", "Global.eval_interval=1", f"Global.output_dir={tmp_path}"]
    short += ["DataLoader.Train.sampler.batch_size=2", "DataLoader.Train.loader.num_workers=0"]
    short += ["DataLoader.Eval.loader.num_workers=0", "Global.device=cpu"]
    short += ["Global.cpu_processes=1"]
    short += ["Arch.backbone.pretrained=false"]  # that is another run's
    short += [f"Global.save_inference_dir={tmp_path / 'inference'}"]
    recipe = "configs/quickstart/scenes_segmentation.yaml"
    result = train(load_config(recipe, [*places, *short]))
    best = f"Global.pretrained_model={result.run_dir / 'best_model'}"
    report = export(load_config(recipe, [*places, *short, best]))
    with Predictor(report.folder) as predictor:
        (answer,) = predictor.predict(str(scenes / "images" / "val" / "0000.jpg"))
    assert sum(answer["pixels"]) == 64 * 64
    names = ["background", "zero", "one", "two", "three", "four"]
    names += ["five", "six", "seven", "eight", "nine"]
    assert predictor.spec.labels == names
    assert answer["label_names"] == [names[i] for i in answer["class_ids"]]
    assert np.isfinite(answer["shares"]).all()
