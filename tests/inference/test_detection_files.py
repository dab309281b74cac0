"""Objects as COCO's results and YOLO's labels, by the command's `--save`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.output import writer
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.inference.postprocess.detect import DetectionNMS

IMAGES = [Path("in/a/x.jpg"), Path("in/y.jpg"), Path("in/y.png")]


def saved(images: list[Path], *save: object) -> None:
    """Two objects in the first image, an unreadable one, and none in the last one."""
    step = DetectionNMS(label_list=["cat", "dog"], score_threshold=0.5)
    boxes = np.float32([[[0, 0, 10, 20], [20, 4, 40, 30]]])
    scores = np.float32([[[0.9, 0.1], [0.0, 0.7]]])
    (some,) = step({"boxes": boxes, "scores": scores}, [Meta(40, 80)])
    (none,) = step({"boxes": boxes, "scores": scores * 0}, [Meta(40, 80)])
    with writer(step, step.label_list, images, [str(text) for text in save]) as write:
        write({"file": str(images[0]), **some})
        write({"file": str(images[-1]), **none})


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_coco_results_have_ids_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.json"
    saved(IMAGES, "coco", out)
    first, second = read(out)
    named = {"image_id": 1, "file_name": "a/x.jpg"}
    assert first == {"category_id": 1, "bbox": [0, 0, 10, 20], "score": 0.9, **named}
    assert second == {"category_id": 2, "bbox": [20, 4, 20, 26], "score": 0.7, **named}
    saved([Path("000000000139.jpg"), Path("000000000285.jpg")], "coco", out)
    assert [entry["image_id"] for entry in read(out)] == [139, 139]  # as COCO's files are called


def test_coco_results_take_the_ids_of_annotations(tmp_path: Path) -> None:
    truth, out = tmp_path / "truth.json", tmp_path / "r.json"
    tree: dict[str, Any] = {
        "images": [
            {"id": 70 + number, "file_name": name, "height": 40, "width": 80}
            for number, name in enumerate(("x.jpg", "y.jpg", "y.png"))
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 70, "category_id": 17, "bbox": [0, 0, 10, 20]},
            {"id": 2, "image_id": 70, "category_id": 18, "bbox": [20, 4, 20, 26]},
        ],
    }
    for item in tree["annotations"]:
        item |= {"iscrowd": 0, "area": item["bbox"][2] * item["bbox"][3]}
    truth.write_text(json.dumps(tree), encoding="utf-8")
    saved(IMAGES, "coco", out, truth)
    assert [(e["image_id"], e["category_id"]) for e in read(out)] == [(70, 17), (70, 18)]

    coco = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    known = coco.COCO(str(truth))
    score = coco.COCOeval_faster(known, known.loadRes(str(out)), "bbox")
    score.params.imgIds = [70]
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert score.stats[0] == pytest.approx(1.0)  # the objects are where they are

    for change, message in (
        ({"categories": tree["categories"][:1]}, "has no category 'cat'"),
        ({"images": tree["images"][1:]}, r"names no image x\.jpg"),
        ({"images": [{}]}, "expected COCO's annotations as JSON"),
    ):
        truth.write_text(json.dumps(tree | change), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            saved(IMAGES, "coco", out, truth)
    assert len(read(out)) == 2  # refused before anything is written


def test_yolo_labels_are_shares_of_the_image(tmp_path: Path) -> None:
    saved(IMAGES, "yolo", tmp_path / "labels")
    lines = (tmp_path / "labels" / "a" / "x.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "0 0.062500 0.250000 0.125000 0.500000 0.9",
        "1 0.375000 0.425000 0.250000 0.650000 0.7",
    ]
    assert (tmp_path / "labels" / "y.png.txt").read_text(encoding="utf-8") == ""  # y.jpg is there
    assert not (tmp_path / "labels" / "y.jpg.txt").exists()  # it was unreadable


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.json"):
        saved(IMAGES, "coco", tmp_path / "r.txt")
    with pytest.raises(UserError, match="in: holds the images"):
        saved(IMAGES, "yolo", "in")
    with pytest.raises(UserError, match="expected one folder"):
        saved(IMAGES, "yolo")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for form, place in (("coco", "file/r.json"), ("yolo", "file/labels")):
        with pytest.raises(UserError, match=f"--save {form} .*cannot be written"):
            saved(IMAGES, form, tmp_path / place)
    with pytest.raises(UserError, match="no form for the answers of DetectionNMS; it has: coco"):
        saved(IMAGES, "voc", "x")
    with pytest.raises(UserError, match="of Topk; it has: none"):
        writer(Topk(), None, IMAGES, ["coco", "r.json"])


def test_the_command_refuses_what_it_cannot_save(
    exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A classifier has no such form, which is said before a file is written."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20, 3), np.uint8))
    common = ["--model", str(exported.folder), "--input", str(tmp_path), "--threads", "1"]
    with pytest.raises(UserError, match="of Topk; it has: none"):
        run([*common, "--save", "yolo", str(tmp_path / "labels")])
    with pytest.raises(SystemExit):
        run([*common, "--output", "r.jsonl", "--resume", "--save", "yolo", "x"])
    assert "--resume goes on with --output only" in capsys.readouterr().err
