"""`prepare scenes`: the rules that its module states, and the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.datasets_detection import COCODataset, VOCDataset
from ppcls_lite.data.datasets_segmentation import SegDataset
from ppcls_lite.data.prepare import scenes
from ppcls_lite.data.prepare.cli import run
from ppcls_lite.data.prepare.digits import DIGITS, load_scans
from ppcls_lite.data.prepare.scenes import HIDDEN, MOST, make_scene
from ppcls_lite.data.scan import scan
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import UserError

pytest.importorskip("sklearn.datasets")
SIZE = (160, 128)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert run(["scenes", "--output", str(folder), "--images", "5", "--val", "3"]) == 0
    return folder


def test_the_same_command_writes_the_same_files(root: Path, tmp_path: Path) -> None:
    run(["scenes", "--output", str(tmp_path), "--images", "5", "--val", "3"])
    names = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    run(["scenes", "--output", str(tmp_path), "--images", "5", "--val", "3", "--seed", "1"])
    other = "images/train/0000.jpg"
    assert (root / other).read_bytes() != (tmp_path / other).read_bytes()


def test_boxes_are_tight_around_what_is_seen_of_a_digit() -> None:
    scans, counts = load_scans(), []
    for seed in range(25):
        scene = make_scene(scans, False, SIZE, np.random.default_rng(seed))
        assert scene.image.shape == (128, 160, 3) and scene.image.dtype == np.uint8
        counts.append(len(scene.digits))
        assert scene.areas.sum() == (scene.mask > 0).sum()
        for (x1, y1, x2, y2), digit in zip(scene.boxes, scene.digits):
            inside = scene.mask[y1:y2, x1:x2] == digit + 1
            # Each edge has a pixel of it, and it has a digit's size.
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert 12 <= y2 - y1 <= 56 and 2 <= x2 - x1 <= 56
    assert min(counts) >= 1 and max(counts) == MOST


def test_all_of_a_card_belongs_to_its_digit() -> None:
    scans = load_scans()
    for seed in range(10):
        scene = make_scene(scans, False, SIZE, np.random.default_rng(seed), cards=True)
        for (x1, y1, x2, y2), digit, area in zip(scene.boxes, scene.digits, scene.areas):
            assert (scene.mask[y1:y2, x1:x2] == digit + 1).sum() >= area
            assert (1 - HIDDEN) * 28**2 <= area <= (x2 - x1) * (y2 - y1)
        grey = scene.image.mean(axis=2)
        assert grey[scene.mask > 0].std() > 30  # bright cards with dark ink


def test_digits_hide_little_of_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels of a digit, had nothing been drawn over it, are those when it was drawn."""
    scans, whole = load_scans(), []
    paste = scenes._paste

    def watched(canvas: scenes._Canvas, *rest: object) -> None:
        before = len(canvas.digits)
        paste(canvas, *rest)
        if len(canvas.digits) > before:
            whole.append(int((canvas.owner == before).sum()))

    monkeypatch.setattr(scenes, "_paste", watched)
    least = 1.0
    for seed in range(40):
        whole.clear()
        scene = make_scene(scans, False, SIZE, np.random.default_rng(seed))
        least = min(least, (scene.areas / np.array(whole)).min())
    assert 1 - HIDDEN <= least < 0.97  # it does happen


def test_no_scan_is_in_both_splits() -> None:
    scans = load_scans()
    marked = scans._replace(labels=np.where(scans.in_val, 9, 0))
    assert 0.15 < scans.in_val.mean() < 0.25
    for validation, expected in ((False, 0), (True, 9)):
        found = [make_scene(marked, validation, SIZE, np.random.default_rng(i)) for i in range(5)]
        assert {int(digit) for scene in found for digit in scene.digits} == {expected}


def test_the_files_say_the_same_in_three_ways(root: Path) -> None:
    ops = [DecodeImage()]
    masks = SegDataset(
        str(root), ops, str(root / "train_list.txt"), label_file=str(root / "labels.txt")
    )
    coco = COCODataset(str(root), str(root / "instances_train.json"), ops)
    voc = VOCDataset(str(root), str(root / "voc_train.txt"), ops, str(root / "label_list.txt"))
    report = scan({"Train": masks})
    assert not report.errors and len(masks) == 5
    assert masks.class_num == 11 and masks.class_keys == ["background", *DIGITS]
    assert not coco.problems and not voc.problems
    assert coco.class_num == voc.class_num == 10
    for i in range(5):
        one, other, third = masks[i], coco[i], voc[i]
        assert Path(one["path"]) == Path(other["path"]) == Path(third["path"])
        count = other["count"]
        assert count == third["count"] >= 1
        np.testing.assert_array_equal(other["boxes"], third["boxes"])
        np.testing.assert_array_equal(other["classes"], third["classes"])
        assert {int(k) + 1 for k in other["classes"][:count]} == {*np.unique(one["mask"])} - {0}
    with Image.open(root / "masks" / "train" / "0000.png") as mask:
        assert mask.mode == "P"  # a viewer shows colours


@pytest.mark.parametrize(
    "more",
    [["--size", "40", "128"], ["--size", "160", "9000"], ["--images", "0"], ["--seed", "-1"]],
)
def test_what_cannot_be(more: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected"):
        run(["scenes", "--output", str(tmp_path), *more])
