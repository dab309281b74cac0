"""Scores of detectors: COCO's numbers, VOC's two ways, confusions, and what they are made of."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.inference.postprocess.detect import DetectionNMS
from ppcls_lite.metrics.coco_ap import CocoAP, coco_tables
from ppcls_lite.metrics.detection_report import Settings, confusion
from ppcls_lite.metrics.matching import matched, operating, pairs_of
from ppcls_lite.metrics.objects import Found, Truth
from ppcls_lite.metrics.voc_ap import VocAP, voc_aps
from ppcls_lite.ops.boxes import iou
from ppcls_lite.report.pictures import LINE

Rows = Sequence[Sequence[float]]


def found_of(rows: Rows) -> Found:
    """Rows image, class, score, x1, y1, x2, y2."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return Found(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2], table[:, 3:])


def truth_of(rows: Rows, crowd: Sequence[int] = (), difficult: Sequence[int] = ()) -> Truth:
    """Rows image, class, x1, y1, x2, y2; the others are places of rows."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    box = table[:, 2:]
    flags = [np.isin(np.arange(len(table)), list(places)) for places in (crowd, difficult)]
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return Truth(table[:, 0].astype(int), table[:, 1].astype(int), box, area, *flags)


def golden(fixtures: Path) -> tuple[Any, Found, Truth]:
    stored = np.load(fixtures.parent / "detection" / "coco.npz")
    found, truth = stored["found"].copy(), stored["truth"]
    found[:, 5:] += found[:, 3:5]
    box = np.concatenate([truth[:, 4:6], truth[:, 4:6] + truth[:, 6:]], axis=1)
    objects = truth_of(np.concatenate([truth[:, :2], box], axis=1))
    return stored, found_of(found), objects._replace(area=truth[:, 2], crowd=truth[:, 3] > 0)


def state_of(found: Found, truth: Truth, images: np.ndarray) -> dict[str, np.ndarray]:
    state = {"image": images, "image_id": images}
    state |= {f"found_{name}": part for name, part in found._asdict().items()}
    return state | {f"truth_{name}": part for name, part in truth._asdict().items()}


def metric(kind: type = CocoAP, class_num: int = 3, **arguments: Any) -> Any:
    return kind(DetectionNMS(), class_num, **arguments)


def test_the_numbers_are_those_of_pycocotools(fixtures: Path) -> None:
    stored, found, truth = golden(fixtures)
    scores = metric()
    scores.load_state(state_of(found, truth, stored["images"]))
    result = scores.result()
    assert next(iter(result)) == "AP" and scores.higher_is_better
    for name, expected in zip(stored["names"].tolist(), stored["scores"]):
        assert result[name] == pytest.approx(expected, abs=1e-6), name
    tables = coco_tables(found, truth, stored["images"], 3)
    per_class = [[tables.ap(None, 0, k), tables.ap(0, 0, k)] for k in range(3)]
    np.testing.assert_allclose(per_class, stored["per_class"], atol=1e-6)


def test_precision_and_recall_are_those_of_a_loop_over_the_scores(fixtures: Path) -> None:
    _, found, truth = golden(fixtures)
    match = matched(found, truth, pairs_of(found, truth))
    taken: dict[int, int] = {}
    for place in np.argsort(-found.score, kind="stable").tolist():
        same = (truth.image == found.image[place]) & (truth.kind == found.kind[place])
        free = [i for i in np.flatnonzero(same) if i not in taken.values()]
        overlaps = [iou(found.box[place], truth.box[i]) for i in free]
        if free and max(overlaps) >= 0.5:
            taken[place] = int(free[int(np.argmax(overlaps))])
    assert {p: int(m) for p, m in enumerate(match) if m >= 0} == taken
    objects = len(truth.image)
    for threshold in (0.2, 0.5, 0.77):
        shown = np.flatnonzero(found.score >= threshold)
        right = sum(int(p) in taken for p in shown)
        precision, recall, f1 = operating(found.score, match, objects).at(threshold)
        assert precision == pytest.approx(right / len(shown))
        assert recall == pytest.approx(right / objects)
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    curve = operating(found.score, match, objects)
    best, f1 = curve.best()
    assert f1 == pytest.approx(curve.at(best)[2])
    assert f1 >= max(curve.at(t)[2] for t in np.linspace(0.05, 1, 50)) - 1e-9


def test_a_displaced_detection_takes_its_second_choice() -> None:
    truth = truth_of([[0, 0, 0, 0, 10, 10], [0, 0, 3, 0, 13, 10]])
    found = found_of([[0, 0, 0.5, 0.5, 0, 10.5, 10], [0, 0, 0.9, 0, 0, 10, 10]])
    assert matched(found, truth, pairs_of(found, truth)).tolist() == [1, 0]
    assert matched(found, truth, pairs_of(found, truth), 0.7).tolist() == [-1, 0]


def test_crowds_and_difficult_objects_excuse_but_do_not_count() -> None:
    rows = [[0, 0, 0, 0, 40, 40], [0, 0, 60, 60, 80, 80], [0, 0, 90, 90, 99, 99]]
    truth = truth_of(rows, crowd=[0], difficult=[1])
    found = found_of([[0, 0, 0.9, 2, 2, 12, 12], [0, 0, 0.8, 60, 60, 80, 80]])
    assert matched(found, truth, pairs_of(found, truth)).tolist() == [-2, -2]
    scores = metric()
    scores.load_state(state_of(found, truth, np.array([0])))
    assert scores.result()["AP"] == 0 and scores.result()["precision"] == 0
    more = found_of([[0, 0, 0.9, 2, 2, 12, 12], [0, 0, 0.7, 90, 90, 99, 99]])
    scores.load_state(state_of(more, truth, np.array([0])))
    result = scores.result()
    assert result["AP"] == 1 and result["precision"] == 1 and result["best_f1"] == 1
    assert result["best_threshold"] == pytest.approx(0.7)
    assert "AP_large" not in result  # there is no such object


def test_vocs_two_ways_by_hand() -> None:
    truth = truth_of([[0, 0, 0, 0, 9, 9], [0, 0, 20, 20, 29, 29], [1, 0, 0, 0, 9, 9]])
    rows = [[0, 0, 0.9, 0, 0, 9, 9], [0, 0, 0.8, 0, 0, 9, 9], [1, 0, 0.7, 0, 0, 9, 9]]
    aps = voc_aps(found_of(rows), truth, 2)
    # precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3
    assert aps["integral"][0] == pytest.approx((1 + 2 / 3) / 3)
    assert aps["11point"][0] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert np.isnan(aps["integral"][1])  # a class without objects
    first = metric(VocAP, 2)
    first.load_state(state_of(found_of(rows), truth, np.array([0, 1])))
    assert list(first.result()) == ["VOC_AP_11point", "VOC_AP_integral"]
    other = metric(VocAP, 2, map_type="integral")
    other.load_state(first.state())
    assert list(other.result()) == ["VOC_AP_integral", "VOC_AP_11point"]


def test_where_voc_and_coco_differ() -> None:
    # a pixel more: 9 x 9 in 13 x 13 by their corners, but 10 x 10 in 14 x 14 as VOC counts
    truth, found = truth_of([[0, 0, 0, 0, 13, 13]]), found_of([[0, 0, 0.9, 0, 0, 9, 9]])
    assert iou(found.box[0], truth.box[0]) < 0.5
    assert voc_aps(found, truth, 1)["integral"][0] == 1
    # a second detection of an object is wrong, even where another object is free
    truth = truth_of([[0, 0, 0, 0, 20, 20], [0, 0, 6, 0, 26, 20]])
    found = found_of([[0, 0, 0.9, 0, 0, 20, 20], [0, 0, 0.8, 2, 0, 22, 20]])
    assert voc_aps(found, truth, 1)["integral"][0] == pytest.approx(0.5)
    assert (matched(found, truth, pairs_of(found, truth)) >= 0).all()
    # a difficult object is neither to be found nor wrong to find
    truth = truth_of([[0, 0, 0, 0, 20, 20], [0, 0, 40, 0, 60, 20]], difficult=[1])
    found = found_of([[0, 0, 0.9, 40, 0, 60, 20], [0, 0, 0.8, 0, 0, 20, 20]])
    assert voc_aps(found, truth, 1)["11point"][0] == pytest.approx(1)


def test_the_confusion_matrix_has_the_background() -> None:
    truth = truth_of([[0, 0, 0, 0, 10, 10], [0, 1, 20, 0, 30, 10], [0, 1, 50, 0, 60, 10]])
    rows = [[0, 0, 0.9, 0, 0, 10, 10], [0, 0, 0.8, 20, 0, 30, 10], [0, 1, 0.7, 80, 80, 90, 90]]
    rows += [[0, 1, 0.1, 50, 0, 60, 10]]  # below the threshold
    matrix = confusion(found_of(rows), truth, Settings(2, 0.5, None))
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def batch_of(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Objects in images of 40 x 80 pixels that a network sees as 64 x 64."""
    corner = rng.uniform(0, 30, (number, 3, 2)).astype(np.float32)
    truth = np.concatenate([corner, corner + rng.uniform(4, 10, (number, 3, 2))], axis=2)
    kinds = rng.integers(0, 3, (number, 3))
    kinds[::3, 2] = -1
    areas = (truth[..., 2:] - truth[..., :2]).prod(axis=2)
    source = np.tile(np.array([[80 / 64, 0, 0], [0, 40 / 64, 0]], np.float32), (number, 1, 1))
    arrays = {
        "index": np.arange(number),
        "image_id": np.arange(number) + 100,
        "original": np.tile([40, 80], (number, 1)),
        "source": source,
        "truth": truth.astype(np.float32),
        "truth_classes": kinds,
        "truth_areas": areas.astype(np.float32),
        "truth_crowd": np.where(kinds < 0, -1, 0),
        "truth_difficult": np.where(kinds < 0, -1, 0),
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def outputs_of(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The objects, moved a little, each with a score for every class; and boxes beside them."""
    truth = batch["truth"].numpy() * np.float32([64 / 80, 64 / 40] * 2)
    boxes = np.concatenate([truth + rng.normal(0, 0.4, truth.shape), truth * 0.5], axis=1)
    scores = rng.uniform(0, 0.6, (len(truth), 3, boxes.shape[1]))
    kinds = batch["truth_classes"].numpy()
    for image, own in enumerate(kinds):
        for place, kind in enumerate(own):
            scores[image, kind, place] = rng.uniform(0.5, 1)
    found = {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}
    return {name: paddle.to_tensor(array) for name, array in found.items()}


def part(tensors: dict[str, Any], its: slice) -> dict[str, Any]:
    return {name: tensor[its] for name, tensor in tensors.items()}


@pytest.mark.parametrize("kind", [CocoAP, VocAP])
def test_ranks_and_batches_change_nothing(kind: type) -> None:
    rng = np.random.default_rng(4)
    batch = batch_of(11, rng)
    outputs = outputs_of(batch, rng)
    whole = metric(kind)
    whole.update(outputs, batch)
    expected = whole.result()
    assert 0.2 < next(iter(expected.values())) < 0.98
    ranks = [metric(kind) for _ in range(2)]
    for start in range(0, 11, 3):
        its = slice(start, start + 3)
        ranks[start % 2].update(part(outputs, its), part(batch, its))
    ranks[1].update(part(outputs, slice(0, 2)), part(batch, slice(0, 2)))  # these come twice
    merged = metric(kind)
    merged.merge(rank.state() for rank in ranks)
    assert merged.result() == expected
    merged.merge([metric(kind).state(), whole.state()])  # a rank without images
    assert merged.result() == expected


def test_boxes_are_scored_in_the_photograph_and_clipped_to_it() -> None:
    rng = np.random.default_rng(0)
    batch = batch_of(1, rng)
    outputs = {
        "boxes": paddle.to_tensor(np.float32([[[32, 32, 70, 90]]])),
        "scores": paddle.to_tensor(np.float32([[[0.9], [0.0], [0.01]]])),
    }
    scores = metric()
    scores.update(outputs, batch)
    assert scores.state()["found_box"].tolist() == [[40, 20, 80, 40]]
    assert scores.state()["found_kind"].tolist() == [0]


def test_images_without_objects_are_looked_at_too() -> None:
    rng = np.random.default_rng(0)
    batch = batch_of(2, rng)
    outputs = outputs_of(batch, rng)
    whole = metric()
    whole.update(outputs, batch)
    nothing = {name: batch[name][1:] * 0 - 1 for name in batch if name.startswith("truth")}
    other = part(batch, slice(1, 2)) | nothing
    scores = metric()
    scores.update(part(outputs, slice(1, 2)), other)
    assert scores.result() == {}  # no object, no score
    scores.update(part(outputs, slice(0, 1)), part(batch, slice(0, 1)))
    assert 0 < scores.result()["precision"] < whole.result()["precision"]  # a false alarm counts


def test_numbers_that_are_not_finite_find_nothing() -> None:
    rng = np.random.default_rng(0)
    batch = batch_of(2, rng)
    outputs = outputs_of(batch, rng)
    for name in outputs:
        bad = outputs | {name: outputs[name] * float("nan")}
        scores = metric()
        scores.update(bad, batch)
        assert scores.result()["AP"] == 0 and scores.result()["best_f1"] == 0


def test_a_report_names_classes_and_images(tmp_path: Path, fixtures: Path) -> None:
    stored, found, truth = golden(fixtures)
    scores = metric()
    scores.load_state(state_of(found, truth, stored["images"]))
    scores.paths = [f"photo_{i}.jpg" for i in range(5)]
    files = {file.name: file for file in scores.report(tmp_path, ["RBC", "WBC", "Platelets"])}
    table = files["detection_per_class.txt"].read_text()
    assert "RBC        0.5013  0.6788      967" in table
    csv = files["detection_confusion.csv"].read_text().splitlines()
    assert csv[0] == "true,RBC,WBC,Platelets,background"
    numbers = np.array([line.split(",")[1:] for line in csv[1:]], int)
    assert numbers[:3].sum() == 1137 and numbers[3, 3] == 0
    worst = files["worst_images.txt"].read_text().splitlines()
    assert worst[1].split() == ["11", "122", "photo_3.jpg"] and "number 5" in worst[2]
    for name in ("detection_confusion.png", "detection_curves.png"):
        assert files[name].read_bytes().startswith(b"\x89PNG")
    assert "worst_images.png" not in files  # there are no such files
    photo = tmp_path / "photo.png"
    photo.write_bytes(cv2.imencode(".png", np.zeros((480, 640, 3), np.uint8))[1].tobytes())
    scores.paths = [str(photo)] * 400
    drawn = next(f for f in scores.report(tmp_path) if f.name == "worst_images.png")
    picture = cv2.imread(str(drawn))
    assert picture.shape == (6 * (320 + LINE + 4), 2 * 427 + 4, 3)
    truth_side, answers = picture[:320, :427], picture[:320, -427:]
    assert truth_side.any() and answers.any() and (truth_side != answers).any()
    (voc,) = _loaded(VocAP, scores).report(tmp_path, None)
    assert voc.read_text().startswith("class  VOC_AP_11point  VOC_AP_integral\n0 ")


def _loaded(kind: type, other: Any) -> Any:
    scores = metric(kind)
    scores.load_state(other.state())
    return scores


def test_what_cannot_be_scored_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Topk, which finds no objects"):
        CocoAP(Topk(), 3)
    rng = np.random.default_rng(0)
    batch = batch_of(1, rng)
    with pytest.raises(UserError, match=r"Metric\.Eval, with a data set of boxes"):
        metric().update(outputs_of(batch, rng), {"image": batch["index"]})
    with pytest.raises(UserError, match="choose a detector"):
        metric().update(paddle.zeros([1, 3]), batch)
    empty = metric()
    assert empty.result() == {}

    true_import = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "faster_coco_eval":
            raise ImportError(name)
        return true_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    scores = metric()
    scores.update(outputs_of(batch, rng), batch)
    with pytest.raises(UserError, match=r'pip install "ppcls-lite\[detection\]"'):
        scores.result()
