"""Data sets of boxes: what the four formats say, what is wrong with them, what a batch has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.data.annotations import kept
from ppcls_lite.data.datasets_detection import (
    BoxDataset,
    COCODataset,
    LabelMeDataset,
    VOCDataset,
    YOLODataset,
)
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler, MultiSizeBatchSampler
from ppcls_lite.data.scan import scan
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.orientation import RandFlipImage
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.errors import ImageError, UserError

WIDTH, HEIGHT = 40, 30
# The boxes of three images, in pixels; the last one has none.
BOXES = {"a.png": [(2, 3, 22, 23, "cat"), (10, 0, 40, 30, "dog")], "b.png": [(0, 0, 8, 9, "dog")]}
BOXES["c.png"] = []


def picture(path: Path, boxes: list[tuple[Any, ...]] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x1, y1, x2, y2, _ in boxes:
        image[y1:y2, x1:x2] = 255
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def write_coco(root: Path, boxes: dict[str, list[Any]] = BOXES, **changes: Any) -> str:
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    ids = {item["name"]: item["id"] for item in categories}
    images, annotations = [], []
    for number, (name, its) in enumerate(boxes.items()):
        picture(root / name, its)
        size = {"width": WIDTH, "height": HEIGHT}
        images.append({"id": 100 - number, "file_name": name, **size})
        for x1, y1, x2, y2, kind in its:
            box = {"image_id": 100 - number, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append(box | {"category_id": ids[kind], "id": len(annotations)})
    content = {"images": images, "categories": categories, "annotations": annotations} | changes
    (root / "boxes.json").write_text(json.dumps(content))
    return str(root / "boxes.json")


def write_voc(root: Path) -> str:
    lines = []
    for name, its in BOXES.items():
        picture(root / name, its)
        objects = [
            f"<object><name>{kind}</name><difficult>{int(kind == 'dog')}</difficult><bndbox>"
            f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2, kind in its
        ]
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (root / name).with_suffix(".xml").write_text(
            f"<annotation>{size}{''.join(objects)}</annotation>"
        )
        lines.append(f"{name} {Path(name).stem}.xml")
    (root / "labels.txt").write_text("cat\ndog\n")
    (root / "list.txt").write_text("\n".join(lines))
    return str(root / "list.txt")


def write_yolo(root: Path) -> str:
    for name, its in BOXES.items():
        picture(root / "images" / "train" / name, its)
        lines = []
        for x1, y1, x2, y2, kind in its:
            shares = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH
            numbers = (*shares, (y2 - y1) / HEIGHT)
            lines.append(f"{int(kind == 'dog')} {' '.join(f'{v:.9f}' for v in numbers)}\n")
        if its:
            file = root / "labels" / "train" / f"{Path(name).stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(lines))
    (root / "data.yaml").write_text(
        "path: /elsewhere\ntrain: images/train\nval: images/train\nnames: {0: cat, 1: dog}\n"
    )
    return str(root / "data.yaml")


def write_labelme(root: Path) -> None:
    for name, its in BOXES.items():
        picture(root / name, its)
        shapes = [
            {"label": kind, "points": [[x2, y1], [x1, y2]], "shape_type": "rectangle"}
            for x1, y1, x2, y2, kind in its
        ]
        shapes.append({"label": "nose", "points": [[1, 1]], "shape_type": "point"})
        content = {"shapes": shapes, "imagePath": name, "imageData": "AAAA" * 10}
        content |= {"imageWidth": WIDTH, "imageHeight": HEIGHT}
        (root / name).with_suffix(".json").write_text(json.dumps(content))


def of_kind(kind: str, root: Path, ops: list[Any] | None = None, **arguments: Any) -> BoxDataset:
    ops = [DecodeImage()] if ops is None else ops
    match kind:
        case "coco":
            return COCODataset(str(root), write_coco(root), ops, **arguments)
        case "voc":
            names = str(root / "labels.txt")
            return VOCDataset(str(root), write_voc(root), ops, names, **arguments)
        case "yolo":
            return YOLODataset(write_yolo(root), ops, **arguments)
    write_labelme(root)
    return LabelMeDataset(str(root), ops, **arguments)


KINDS = ("coco", "voc", "yolo", "labelme")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_the_same(kind: str, tmp_path: Path) -> None:
    data = of_kind(kind, tmp_path)
    assert scan({"Train": data}).errors == []
    assert data.class_keys == ["cat", "dog"] and data.class_num == 2
    samples = {Path(sample["path"]).name: sample for sample in (data[i] for i in range(3))}
    assert samples.keys() == BOXES.keys()
    for name, its in BOXES.items():
        sample = samples[name]
        assert sample["count"] == len(its)
        wanted = np.array([box[:4] for box in its], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(sample["boxes"][: len(its)], wanted, atol=1e-5)
        assert (sample["boxes"][len(its) :] == -1).all()
        kinds = [int(box[4] == "dog") for box in its]
        assert sample["classes"].tolist() == kinds + [-1] * (2 - len(its))


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_boxes_are_kept_and_counted(kind: str, tmp_path: Path) -> None:
    data = of_kind(kind, tmp_path)
    assert len(data) == 3
    (note,) = [text for text in scan({"Train": data}).warnings if "no boxes" in text]
    assert "1 of 3 images have no boxes: kept" in note
    without = of_kind(kind, tmp_path, allow_empty=False)
    assert len(without) == 2 and "0 kept, 1 left out" in without.warnings[-1]
    assert all(without[i]["count"] for i in range(2))


def test_a_share_of_the_empty_images(tmp_path: Path) -> None:
    boxes = {f"{i}.png": BOXES["b.png"] if i < 4 else [] for i in range(14)}
    file = write_coco(tmp_path, boxes)
    some, same, other = (
        COCODataset(str(tmp_path), file, [], empty_ratio=0.5, seed=seed) for seed in (1, 1, 2)
    )
    assert len(some) == 8 and list(some.paths) == list(same.paths) != list(other.paths)
    assert len(COCODataset(str(tmp_path), file, [], sample_num=5)) == 5


def test_the_map_back_and_the_truth_of_an_evaluation(tmp_path: Path) -> None:
    crowd = {"image_id": 100, "category_id": 3, "bbox": [0, 0, 20, 30], "iscrowd": 1, "area": 55}
    content = json.loads(Path(write_coco(tmp_path)).read_text())
    file = write_coco(tmp_path, annotations=[*content["annotations"], crowd])
    ops = [DecodeImage(), ResizeImage(20), NormalizeImage(order="")]
    data = COCODataset(str(tmp_path), file, ops)
    sampler = DistributedBatchSampler(3).bind(len(data), evaluation=True)
    (batch,) = Loader(data, sampler, training=False).epoch(0)
    batch = {name: value.numpy() for name, value in batch.items()}
    assert batch["image"].shape == (3, 3, 20, 20)
    assert batch["image_id"].tolist() == [98, 99, 100]  # ascending
    assert batch["original"].tolist() == [[HEIGHT, WIDTH]] * 3
    np.testing.assert_allclose(batch["source"][0], [[2, 0, 0], [0, 1.5, 0]])
    assert batch["count"].tolist() == [0, 1, 2]  # what is trained
    assert batch["truth"].shape == (3, 3, 4) and batch["truth_crowd"][2].tolist() == [0, 0, 1]
    assert batch["truth_areas"][2].tolist() == [400, 900, 55]
    np.testing.assert_allclose(batch["boxes"][2][0] * [2, 1.5, 2, 1.5], batch["truth"][2][0])
    assert "source" not in COCODataset(str(tmp_path), file, ops).batch_keys


def test_boxes_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    def box(x: float, y: float, w: float, h: float, **more: Any) -> dict[str, Any]:
        return {"image_id": 100, "category_id": 7, "bbox": [x, y, w, h], **more}

    strange = [box(1, 1, 0, 9), box(1, 1, 9, -2), box(1, 1, 4, 4, area=0), box(41, 2, 5, 5)]
    strange += [box(30, 20, 20, 20), box(3, 3, 9, 9), box(3, 3, 9, 9), box(5, 5, 9, 9, iscrowd=1)]
    data = COCODataset(str(tmp_path), write_coco(tmp_path, annotations=strange), [DecodeImage()])
    assert data.problems == []
    texts = "\n".join(data.warnings)
    for expected in (
        "3 boxes have no area: left out (a.png [1, 1, 1, 10], ",
        "1 boxes lie outside their image: left out (a.png [41, 2, 46, 7])",
        "1 boxes are there twice: left out once",
        "1 boxes reach beyond their image",
    ):
        assert expected in texts
    sample = data[2]
    assert sample["boxes"].tolist() == [[30, 20, 50, 40], [3, 3, 12, 12]]  # clipped when it moves
    flipped = COCODataset(str(tmp_path), data.source, [DecodeImage(), ResizeImage(40)])[2]
    assert flipped["boxes"][0].tolist() == pytest.approx([30, 20 * 4 / 3, 40, 40], abs=1e-4)


def test_all_mistakes_come_in_one_bounded_report(tmp_path: Path) -> None:
    good = {"image_id": 100, "category_id": 7, "bbox": [1, 1, 5, 5]}
    wrong = [good | {"category_id": 9}] * 1000 + [good | {"image_id": 5}, good | {"bbox": [1, 2]}]
    wrong += [{"bbox": [1, 1, 2, 2]}, None, good | {"bbox": [1, 1, float("nan"), 2]}]
    file = write_coco(tmp_path, annotations=wrong)
    data = COCODataset(str(tmp_path), file, [], class_num=1)
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError) as caught:
        scan({"Train": data}).raise_errors()
    text = str(caught.value)
    for expected in (
        "1,000 annotations are of categories that are not listed (category_id 9 of a.png",
        "and 995 more)",
        "1 annotations are of images that are not listed (image_id 5)",
        "3 annotations lack image_id, category_id or bbox",
        "1 boxes are no numbers of pixels",
        "2 classes (cat, dog), but Arch.class_num is 1: set it to 2",
        "b.png; correct the list",
    ):
        assert expected in text
    assert len(text) < 3000


@pytest.mark.parametrize(
    "content, expected",
    [
        ("{", "is no JSON"),
        ("[1]", "a list (of results?)"),
        ('{"images": []}', "expected `{"),
        ('{"images": [], "categories": []}', "there are no images to use"),
        ('{"images": [{"id": 1}, 5], "categories": []}', "2 images have no id or no file_name"),
        (
            '{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}, 3]}',
            "id or",
        ),
    ],
)
def test_what_is_no_coco_file(content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="there is no annotation file"):
        COCODataset(str(tmp_path), str(tmp_path / "none.json"), [])
    with pytest.raises(UserError) as caught:
        data = COCODataset(str(tmp_path), str(tmp_path / "x.json"), [])
        scan({"Train": data}).raise_errors()
    assert expected in str(caught.value)


def test_wrong_names_and_files_of_voc(tmp_path: Path) -> None:
    file = write_voc(tmp_path)
    (tmp_path / "labels.txt").write_text("cat\n")
    (tmp_path / "b.xml").write_text("<annotation><object>")
    (tmp_path / "c.xml").unlink()
    bad = (tmp_path / "d.xml", "<annotation><object><name>cat</name></object></annotation>")
    bad[0].write_text(bad[1])
    picture(tmp_path / "d.png")
    Path(file).write_text(Path(file).read_text() + "\nd.png d.xml\nword\n")
    text = "\n".join(VOCDataset(str(tmp_path), file, [], str(tmp_path / "labels.txt")).problems)
    for expected in (
        "1 objects have names that are not in label_file (" + str(tmp_path / "a.xml") + ": 'dog')",
        "1 annotation files are no XML",
        "1 annotation files do not exist",
        "1 objects have no box",
        "1 lines are not `image xml` (line 5: 'word')",
    ):
        assert expected in text


def test_entities_are_not_read(tmp_path: Path) -> None:
    file = write_voc(tmp_path)
    (tmp_path / "a.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    data = VOCDataset(str(tmp_path), file, [], str(tmp_path / "labels.txt"))
    assert "declares entities" in data.problems[0]


def test_difficult_objects_are_trained_and_marked(tmp_path: Path) -> None:
    data = of_kind("voc", tmp_path)
    assert data[0]["count"] == 2
    data.without_chance()
    assert data[0]["truth_difficult"].tolist() == [0, 1]


def test_wrong_lines_of_yolo(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "a.txt"
    label.write_text("2 .5 .5 .1 .1\n0 12 14 3 3\n0 .5 .5\nx y\n1 .1 .1 .5 .1 .5 .6\n")
    data = YOLODataset(file, [DecodeImage()])
    text = "\n".join(data.problems)
    assert "1 lines have a class that is not in 0..1 of names" in text and f"{label}:1: 2" in text
    assert "1 lines have numbers that are no shares" in text
    assert "2 lines are not `class x y width height`" in text
    np.testing.assert_allclose(data[0]["boxes"], [[4, 3, 20, 18]], atol=1e-5)  # of an outline


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train: images/train\nnames: [a]", "there is no 'val'; it has train"),
        ("val: nowhere\nnames: [a]", "there is no folder or list"),
        ("val: images/train", "names: expected"),
        ("val: images/train\nnc: 3\nnames: [a]", "nc is 3, but there are 1 names"),
        ("val: images/train\nnames: {1: a}", "are not 0 to 0"),
        ("- a", "expected a map"),
        ("a: [", "data.yaml"),
    ],
)
def test_what_is_no_data_yaml(text: str, expected: str, tmp_path: Path) -> None:
    Path(write_yolo(tmp_path)).write_text(text)
    with pytest.raises(UserError) as caught:
        YOLODataset(str(tmp_path / "data.yaml"), [], "val")
    assert expected in str(caught.value)


def test_labels_of_labelme_that_are_not_listed(tmp_path: Path) -> None:
    write_labelme(tmp_path)
    (tmp_path / "labels.txt").write_text("dog\n")
    (tmp_path / "other.json").write_text("{}")
    data = LabelMeDataset(str(tmp_path), [], label_file=str(tmp_path / "labels.txt"))
    text = "\n".join(data.problems)
    assert "1 shapes have labels that are not in label_file" in text and "'cat'" in text
    assert "1 files are none of LabelMe" in text
    assert "3 shapes are points or lines" in "\n".join(data.warnings)


def test_the_classes_are_those_of_the_training_set(tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    train.mkdir()
    val.mkdir()
    other = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    first = COCODataset(str(train), write_coco(train), [DecodeImage()])
    second = COCODataset(str(val), write_coco(val, categories=other), [DecodeImage()])
    assert second[2]["classes"].tolist() == [1, 0]
    second.number_as(first)
    assert second[2]["classes"].tolist() == [0, 1] and second.class_keys == ["cat", "dog"]
    strange = [{"id": 3, "name": "horse"}, {"id": 7, "name": "cat"}]
    third = COCODataset(str(val), write_coco(val, categories=strange), [DecodeImage()])
    third.number_as(first)
    assert "1 classes are not in the training set" in third.problems[0]
    assert "horse" in third.problems[0]


def test_what_a_training_is_warned_of(tmp_path: Path) -> None:
    kinds = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 4, "name": "cow"}]
    file = write_coco(tmp_path, categories=kinds)
    data = COCODataset(str(tmp_path), file, [DecodeImage(), ResizeImage(8)], class_num=5)
    warnings = "\n".join(scan({"Train": data}).warnings)
    assert "1 of 3 classes have no box: cow" in warnings
    assert "3 classes, but Arch.class_num is 5: the others are never learnt" in warnings
    assert "100% of the boxes are narrower or lower than 8 pixels once an image has 8x8" in warnings


def test_a_turned_image_is_an_error(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "a.png").write_bytes(
        cv2.imencode(".png", np.zeros((WIDTH, HEIGHT, 3), np.uint8))[1].tobytes()
    )
    with pytest.raises(ImageError, match="shown turned, 30x40"):
        COCODataset(str(tmp_path), file, [DecodeImage()])[2]


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kept, "WORTH", 10)
    file = write_coco(tmp_path)
    first = COCODataset(str(tmp_path), file, [DecodeImage()])
    (stored,) = (tmp_path / "home" / "annotations").glob("*.npz")
    monkeypatch.setattr("ppcls_lite.data.annotations.coco._read", None)  # not called again
    second = COCODataset(str(tmp_path), file, [DecodeImage()])
    assert second.digests() == first.digests() and second.warnings == first.warnings
    assert list(second.paths) == list(first.paths)
    monkeypatch.undo()
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kept, "WORTH", 10)
    stored.write_bytes(b"PK damaged")
    assert COCODataset(str(tmp_path), file, []).digests() == first.digests()
    write_coco(tmp_path, annotations=[])
    assert COCODataset(str(tmp_path), file, []).digests() != first.digests()


def test_batches_of_several_sizes_have_their_boxes_in_their_pixels(tmp_path: Path) -> None:
    boxes = {f"{i}.png": [(10, 6, 30, 24, "cat")] for i in range(12)}
    file = write_coco(tmp_path, boxes)
    ops = [DecodeImage(), ResizeImage(64), NormalizeImage(order="")]
    data = COCODataset(str(tmp_path), file, ops)
    sampler = MultiSizeBatchSampler([64, [96, 32]], 2, seed=1).bind(len(data))
    sizes = set()
    for batch in Loader(data, sampler).epoch(0):
        height, width = batch["image"].shape[2:]
        sizes.add((width, height))
        wanted = np.array([0.25 * width, 0.2 * height, 0.75 * width, 0.8 * height])
        np.testing.assert_allclose(batch["boxes"].numpy()[:, 0], [wanted] * 2, rtol=1e-5)
    assert sizes == {(64, 64), (96, 32)}


def test_the_first_batch_shows_its_boxes(tmp_path: Path) -> None:
    data = of_kind("coco", tmp_path)
    sample = data[2]
    known = {name: np.asarray(sample[name]) for name in ("boxes", "classes", "count")}
    picture = data.draw(np.zeros((HEIGHT, WIDTH, 3), np.uint8), known)
    assert picture[22, 12].any() and picture[29, 30].any()  # the lower edges of cat and dog
    assert (picture[22, 12] != picture[29, 30]).any()  # in two colours
    empty = known | {"count": np.array(0)}
    assert not data.draw(np.zeros((HEIGHT, WIDTH, 3), np.uint8), empty).any()


def test_random_flips_move_the_boxes_of_a_batch(tmp_path: Path) -> None:
    data = of_kind("coco", tmp_path, [DecodeImage(), RandFlipImage(), ResizeImage(32)])
    sampler = DistributedBatchSampler(3, shuffle=True).bind(len(data))
    for epoch in range(4):
        (batch,) = Loader(data, sampler).epoch(epoch)
        for image, boxes, count in zip(batch["image"], batch["boxes"], batch["count"]):
            drawn = np.zeros((32, 32), bool)
            for x1, y1, x2, y2 in boxes.numpy()[: int(count)].round().astype(int):
                drawn[y1:y2, x1:x2] = True
            assert (drawn != (image.numpy()[0] > 127)).mean() < 0.1
