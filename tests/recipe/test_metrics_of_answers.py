"""Metrics that score answers are given the recipe's own post-processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.errors import ConfigError
from ppcls_lite.metrics.coco_ap import CocoAP
from ppcls_lite.recipe.parts import build_metrics


def recipe(metric: Any, **sections: Any) -> dict[str, Any]:
    return {
        "Arch": {"name": "PPLCNet_x0_25", "class_num": 3},
        "Metric": {"Eval": [metric]},
        "Infer": {
            "transforms": ["DecodeImage"],
            "PostProcess": {
                "DetectionNMS": {"score_threshold": 0.3, "class_id_map_file": "missing.txt"}
            },
        },
    } | sections


def test_the_thresholds_are_those_of_a_prediction() -> None:
    (metric,) = build_metrics(check(recipe({"CocoAP": {"score_threshold": 0.4}})), "Eval")
    assert isinstance(metric, CocoAP) and metric.class_num == 3
    assert metric.postprocess.score_threshold == 0.3 and metric.score_threshold == 0.4
    own = {"CocoAP": {"postprocess": {"DetectionNMS": {"keep_top_k": 7}}}}
    (metric,) = build_metrics(check(recipe(own)), "Eval")  # stated beside the metric: that one
    assert metric.postprocess.keep_top_k == 7


def test_without_a_prediction_there_is_nothing_to_score() -> None:
    with pytest.raises(ConfigError, match=r"Infer\.PostProcess: is missing; Metric\.Eval\.0"):
        build_metrics(check(recipe("VocAP", Infer=None)), "Eval")


def test_other_metrics_need_none() -> None:
    (metric,) = build_metrics(check(recipe("TopkAcc", Infer=None)), "Eval")
    metric.update(paddle.eye(3), {"label": paddle.arange(3).reshape([3, 1])})
    assert metric.result()["top1"] == 1


def test_the_report_names_the_files_of_the_loader(tmp_path: Path) -> None:
    from ppcls_lite.engine.evaluate import Evaluator
    from ppcls_lite.engine.tasks import Supervised

    class Two:
        paths = ("first.jpg", "second.jpg")

        def __len__(self) -> int:
            return 1

        def epoch(self, epoch: int, start_step: int = 0) -> Any:
            arrays = {
                "image": np.zeros((2, 3, 8, 8), np.float32),
                "index": np.arange(2),
                "image_id": np.arange(2),
                "original": np.full((2, 2), 8),
                "source": np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)),
                "truth": np.float32([[[1, 1, 5, 5]], [[-1, -1, -1, -1]]]),
                "truth_classes": np.array([[1], [-1]]),
                "truth_areas": np.float32([[16], [-1]]),
                "truth_crowd": np.array([[0], [-1]]),
                "truth_difficult": np.array([[0], [-1]]),
            }
            yield {name: paddle.to_tensor(array) for name, array in arrays.items()}

    class Sees(paddle.nn.Layer):
        """The same object in the second image alone."""

        def forward(self, x: Any) -> dict[str, Any]:
            boxes = paddle.to_tensor(np.float32([[[1, 1, 5, 5]]] * 2))
            scores = paddle.to_tensor(np.float32([[[0], [0], [0]], [[0], [0.9], [0]]]))
            return {"boxes": boxes, "scores": scores}

    metrics = build_metrics(check(recipe("CocoAP")), "Eval")
    evaluator = Evaluator(Supervised(Sees(), None), Two(), metrics)
    scores = evaluator.run()
    assert scores is not None and scores["AP"] == 0
    evaluator.report(tmp_path, ["a", "b", "c"], evaluator.kept())
    worst = (tmp_path / "worst_images.txt").read_text().splitlines()[1:]
    assert [line.split() for line in worst] == [["1", "0", "first.jpg"], ["0", "1", "second.jpg"]]
    table = (tmp_path / "detection_per_class.txt").read_text().splitlines()
    assert [line.split()[0] for line in table[2:]] == ["a", "b", "c", "all"]  # none is shifted
    assert table[2].split()[1] == "nan" and table[3].split()[1] == "0.0000"
