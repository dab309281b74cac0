"""DetectionNMS: from boxes and scores to the objects of a photograph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.config.check import build
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess.detect import DetectionNMS
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.ops.boxes import iou

BOXES = np.float32([[0, 0, 10, 10], [0, 0, 10, 9], [20, 4, 40, 30], [-5, 2, 200, 8]])
SCORES = np.float32([[0.6, 0.9, 0.1, 0.0], [0.0, 0.0, 0.7, 0.3]])  # (classes, places)
OUTPUTS = {"boxes": BOXES[None], "scores": SCORES[None]}


def test_the_objects_come_in_the_photographs_pixels() -> None:
    meta = Meta(60, 160, np.array([[2.0, 0, 0], [0, 1.0, 0]]))
    (result,) = DetectionNMS(label_list=["cat", "dog"])(OUTPUTS, [meta])
    assert result["class_ids"] == [0, 0, 1, 1]  # one of the two cats is suppressed
    assert result["boxes"] == [[0, 0, 20, 9], [40, 4, 80, 30], [40, 4, 80, 30], [0, 2, 160, 8]]
    assert result["scores"] == [0.9, 0.1, 0.7, 0.3]
    assert result["label_names"] == ["cat", "cat", "dog", "dog"]
    json.dumps(result)
    (plain,) = DetectionNMS(score_threshold=0.5)(OUTPUTS)
    assert plain["boxes"] == [[0, 0, 10, 9], [20, 4, 40, 30]] and plain["label_names"] == []


def test_the_surest_come_first_in_a_table() -> None:
    step = DetectionNMS()
    rows = step.rows(step(OUTPUTS)[0])
    assert [row[1] for row in rows] == [0.9, 0.7, 0.3, 0.1]
    assert all(len(row) == len(step.columns) for row in rows)
    (nothing,) = DetectionNMS(score_threshold=1.0)(OUTPUTS)
    assert nothing["boxes"] == [] and step.rows(nothing) == [("", "", "", "", "", "", "(nothing)")]


def test_limits_of_null_are_none() -> None:
    found = DetectionNMS(nms_top_k=None, keep_top_k=None, nms_threshold=1.0).objects(BOXES, SCORES)
    assert found.shape == (5, 6)
    assert len(DetectionNMS(keep_top_k=1).objects(BOXES, SCORES)) == 1


def test_a_picture_shows_what_is_sure_enough() -> None:
    step = DetectionNMS(draw_threshold=0.8)
    image = np.zeros((40, 60, 3), np.uint8)
    (result,) = step(OUTPUTS)
    picture = step.draw(image, result)
    assert not image.any() and picture[0, 5].any() and picture[8, 5].any()  # the cat's edges
    assert not picture[14:].any()
    both = DetectionNMS(draw_threshold=0.5).draw(image, result)
    assert both[29, 30].any() and not both[20, 30].any()
    (nothing,) = DetectionNMS(score_threshold=1.0)(OUTPUTS)
    assert not step.draw(image, nothing).any()
    layer = step.layer(result, (40, 60))
    assert (
        layer is not None and layer.shape == (40, 60, 4) and step.layer(nothing, (40, 60)) is None
    )
    gray = np.full_like(image, 100)
    assert (np.where(layer[..., 3:] > 0, layer[..., :3], gray) == step.draw(gray, result)).all()


def test_agreement_is_the_share_of_equal_objects() -> None:
    step = DetectionNMS()  # the cat and the dog count, 0.9 and 0.7; the rest is unsure
    equal = step.agreement(OUTPUTS, OUTPUTS)
    assert equal.same == 1 and equal.computed("int8") is None and equal.exported() is None
    nudged = {"boxes": OUTPUTS["boxes"] + 0.5, "scores": OUTPUTS["scores"] * 0.98}
    found = step.agreement(OUTPUTS, nudged)
    assert found.same == 1 and found.computed("bf16") is None
    assert found.distance == pytest.approx([0.018], abs=1e-4)  # of scores, not of pixels
    moved = OUTPUTS["boxes"].copy()
    moved[0, 2] += 30  # the dog
    found = step.agreement(OUTPUTS, OUTPUTS | {"boxes": moved})
    assert found.same == pytest.approx(0.5) and found.distance == pytest.approx([0.5])
    assert "objects" in (found.computed("int8") or "") and found.exported()
    other = {"boxes": OUTPUTS["boxes"], "scores": OUTPUTS["scores"][:, ::-1]}
    assert step.agreement(OUTPUTS, other).same == 0  # other classes
    unsure = {"boxes": OUTPUTS["boxes"], "scores": OUTPUTS["scores"] * 0.1}
    assert step.agreement(unsure, unsure | {"boxes": moved}).same < 1
    nothing = {"boxes": OUTPUTS["boxes"], "scores": OUTPUTS["scores"] * 0}
    assert step.agreement(nothing, nothing).same == 1
    assert step.agreement(nothing, OUTPUTS).same == 0 == step.agreement(OUTPUTS, nothing).same


def test_what_it_cannot_read() -> None:
    with pytest.raises(UserError, match="the network gives logits; expected boxes and scores"):
        DetectionNMS()({"logits": SCORES})
    with pytest.raises(UserError, match="label_list names 1 classes, the network has 2"):
        DetectionNMS(label_list=["cat"])(OUTPUTS)


def small_picodet(neck: str, head: str) -> nn.Layer:
    """A PicoDet of three classes whose scores differ from place to place."""
    paddle.seed(1)
    spec = {
        "backbone": {"name": "PPLCNet_x0_25"},
        "neck": {"name": neck, "out_channels": 16},
        "head": {"name": head, "num_convs": 1},
    }
    network = build({"PicoDet": spec}, "model", class_num=3)
    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):
            layer._momentum = 0.0
    network.train()
    with paddle.no_grad():
        network(paddle.randn([4, 3, 352, 608]))  # statistics, without which all fades
        for name, layer in network.head.named_sublayers():
            if name.startswith(("head_cls", "head_reg")):
                layer.weight.set_value(layer.weight * 25)
                layer.bias.set_value(layer.bias * 0.2)
    network.eval()
    return network


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


NORMAL = {"NormalizeImage": {"scale": "1/255", "mean": [0.5] * 3, "std": [0.3] * 3, "order": ""}}


@pytest.mark.parametrize("parts", [("CSPPAN", "PicoHead"), ("LCPAN", "PicoHeadV2")])
def test_one_folder_answers_like_the_network_in_every_engine(
    parts: tuple[str, str], tmp_path: Path
) -> None:
    """Of any batch and any size: the boxes, the scores, and the objects in the photograph."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    network = small_picodet(*parts)
    pad: list[Any] = [{"Padv2": {"size_divisor": 32}}, NORMAL, {"ToCHWImage": None}]
    ask: dict[str, Any] = {"DetectionNMS": {"score_threshold": 0.2, "nms_threshold": 0.5}}
    seen = [photograph(96, 128)]
    folder = tmp_path / "m"
    export_model(
        network, folder, (3, -1, -1), pad, ask, [*"abc"], format="both", sample_images=seen
    )
    objects = []
    for engine in ("paddle", "onnxruntime", "openvino"):
        predictor = Predictor(folder, engine=engine, threads=1)
        for number, height, width in ((1, 160, 160), (3, 352, 608), (3, 160, 160)):
            x = np.random.default_rng(number).standard_normal((number, 3, height, width))
            x = x.astype(np.float32)
            with paddle.no_grad():
                expected = network(paddle.to_tensor(x))
            boxes, scores = predictor.engine.run(x)
            assert expected["scores"].numpy().std() > 0.05
            np.testing.assert_allclose(scores, expected["scores"].numpy(), atol=1e-3)
            np.testing.assert_allclose(boxes, expected["boxes"].numpy(), atol=0.05)
        with pytest.raises(UserError, match=r"cannot run on an input of shape \(1, 3, 100, 150\)"):
            predictor.engine.run(np.zeros((1, 3, 100, 150), np.float32))
        answers = predictor.postprocess
        assert (answers.score_threshold, answers.nms_threshold) == (0.2, 0.5)
        results = predictor.predict([photograph(150, 200), photograph(151, 199)], batch_size=2)
        objects.append(results)
        for result, (high, wide) in zip(results, ((150, 200), (151, 199))):
            found = np.array(result["boxes"])
            assert len(found) > 3 and found.min() >= 0
            assert found[:, 2].max() <= wide and found[:, 3].max() <= high
            assert found[:, 3].max() > high - 20  # pixels of the photograph, not smaller ones
    for other in objects[1:]:
        for first, second in zip(objects[0], other, strict=True):
            assert first["class_ids"] == second["class_ids"]
            np.testing.assert_allclose(first["scores"], second["scores"], atol=1e-3)
            # Scores that rounding orders otherwise change places.
            boxes, others = (np.array(run["boxes"]) for run in (first, second))
            near = iou(boxes[:, None], others[None]) > 0.99  # (n, n)
            kinds = np.array(first["class_ids"])
            assert (near & (kinds[:, None] == kinds)).any(axis=1).all()
    set_at_prediction = Predictor(folder, threads=1, settings={"keep_top_k": 2})
    (few,) = set_at_prediction.predict(photograph(150, 200))
    assert len(few["scores"]) == 2 and max(few["scores"]) == max(objects[0][0]["scores"])
    cv2.imwrite(str(tmp_path / "a.png"), photograph(150, 200)[..., ::-1])
    common = ["--model", str(folder), "--input", str(tmp_path / "a.png"), "--threads", "1"]
    assert run([*common, "--set", "keep_top_k=2", "--save", "yolo", str(tmp_path / "labels")]) == 0
    assert len((tmp_path / "labels" / "a.txt").read_text(encoding="utf-8").splitlines()) == 2
