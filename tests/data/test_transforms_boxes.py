"""Crops, canvases, letterboxes and mosaics: every box stays on what it was drawn around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.data.batch_boxes import BatchMosaic
from ppcls_lite.data.transforms.boxes import LetterboxImage, RandomCropBoxes, RandomExpand
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.errors import UserError
from ppcls_lite.ops.boxes import area, iou

HEIGHT, WIDTH = 60, 80
BOXES = np.array([[4, 6, 24, 30], [40, 10, 76, 50], [30, 40, 36, 58]], np.float32)


def sample(boxes: np.ndarray = BOXES) -> dict[str, Any]:
    """Object i fills its box with the gray 50 + 50 i; they do not overlap."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        image[y1:y2, x1:x2] = (50 + 50 * number) % 256
    classes = np.arange(len(boxes))
    meta = Meta(HEIGHT, WIDTH)
    return {"image": image, "boxes": boxes.copy(), "classes": classes, "meta": meta}


def drawn(found: dict[str, Any], number: int) -> np.ndarray:
    """The box around what is to be seen of an object; no area where nothing is."""
    rows, columns = np.nonzero(np.abs(found["image"][..., 0].astype(int) - 50 - 50 * number) < 5)
    if not len(rows):
        return np.zeros(4)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_a_crop_keeps_the_objects_whose_centres_it_has() -> None:
    seen = set()
    for seed in range(60):
        found = RandomCropBoxes()(sample(), np.random.default_rng(seed))
        height, width = found["image"].shape[:2]
        seen.add((height, width))
        assert len(found["boxes"]) == len(found["classes"]) >= 1
        for box, number in zip(found["boxes"], found["classes"]):
            np.testing.assert_array_equal(box, drawn(found, number))
            back = found["meta"].boxes_back(box[None])[0]
            assert area(back) <= area(BOXES[number])
        for number in set(range(3)) - set(found["classes"].tolist()):
            window = found["meta"].boxes_back(np.array([[0, 0, width, height]], np.float32))[0]
            x, y = (BOXES[number][:2] + BOXES[number][2:]) / 2
            assert not (window[0] <= x < window[2] and window[1] <= y < window[3])
    assert len(seen) > 20


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("every", [False, True])
def test_a_crop_overlaps_as_it_has_to(mode: str, every: bool) -> None:
    least = 0.08 if every and mode == "iou" else 0.3
    crop = RandomCropBoxes(
        thresholds=[least], allow_no_crop=False, ioumode=mode, cover_all_box=every
    )
    boxes, done = BOXES[:2], 0
    for seed in range(40):
        found = crop(sample(boxes), np.random.default_rng(seed))
        height, width = found["image"].shape[:2]
        if (height, width) == (HEIGHT, WIDTH):
            continue  # no attempt fitted
        done += 1
        window = found["meta"].boxes_back(np.array([[0, 0, width, height]], np.float32))
        overlap = iou(boxes, window)
        if mode == "iof":
            shared = iou(boxes, window) * (area(boxes) + area(window)) / (1 + iou(boxes, window))
            overlap = shared / area(boxes)
        assert (overlap.min() if every else overlap.max()) >= least - 1e-6
        ratio = width / height / (WIDTH / HEIGHT)
        assert 0.45 < ratio < 2.2
    assert done > 10


def test_no_crop_without_boxes_or_by_chance() -> None:
    empty = sample(BOXES[:0])
    assert RandomCropBoxes()(empty, np.random.default_rng(0))["image"].shape[0] == HEIGHT
    unchanged = RandomCropBoxes(prob=0.0)(sample(), np.random.default_rng(0))
    np.testing.assert_array_equal(unchanged["boxes"], BOXES)
    whole = [
        RandomCropBoxes()(sample(), np.random.default_rng(seed))["image"].shape[:2]
        == (HEIGHT, WIDTH)
        for seed in range(300)
    ]
    assert 0.08 < np.mean(whole) < 0.35  # one of seven choices, and what found no window


def test_three_hundred_boxes_are_no_more_work_than_one() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (300, 2))
    many = np.concatenate([corner, corner + rng.uniform(1, 9, (300, 2))], axis=1).astype(np.float32)
    found = RandomCropBoxes(allow_no_crop=False)(sample(many), rng)
    assert 1 <= len(found["boxes"]) <= 300


def test_a_canvas_moves_the_boxes() -> None:
    for seed in range(20):
        found = RandomExpand(prob=1.0, ratio=3.0)(sample(), np.random.default_rng(seed))
        height, width = found["image"].shape[:2]
        assert HEIGHT <= height <= 3 * HEIGHT and WIDTH <= width <= 3 * WIDTH
        for number in range(3):
            np.testing.assert_array_equal(found["boxes"][number], drawn(found, number))
        np.testing.assert_allclose(found["meta"].boxes_back(found["boxes"]), BOXES)
    assert RandomExpand(prob=0.0)(sample(), np.random.default_rng(1))["image"].shape[0] == HEIGHT


def test_a_letterbox_keeps_the_ratio_and_the_middle() -> None:
    found = LetterboxImage([160, 160], interpolation="nearest")(sample())
    assert found["image"].shape == (160, 160, 3)
    assert (found["image"][:20] == 114).all() and (found["image"][-20:] == 114).all()
    np.testing.assert_allclose(found["boxes"], BOXES * 2 + [0, 20, 0, 20])
    np.testing.assert_allclose(found["meta"].boxes_back(found["boxes"]), BOXES)
    found = LetterboxImage(99)(sample() | {"size": (64, 32)})
    assert found["image"].shape == (64, 32, 3)


def test_all_interpolations_are_drawn() -> None:
    resize, kinds = ResizeImage([64, 48], interpolation="all"), set()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for seed in range(40):
        kinds.add(resize({"image": noise}, np.random.default_rng(seed))["image"].tobytes())
    assert len(kinds) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomCropBoxes(scaling=[0.5, 1.5]),
        lambda: RandomCropBoxes(aspect_ratio=[2.0, 1.0]),
        lambda: BatchMosaic(scaling=[0.5]),
        lambda: LetterboxImage([1, 2, 3]),
    ],
)
def test_ranges_that_are_none(make: Any) -> None:
    with pytest.raises(UserError, match="expected"):
        make()


def batch(number: int = 4) -> dict[str, Any]:
    """Each image has object 0 in its own gray; the last image has nothing."""
    images = np.zeros((number, 3, 64, 96), np.float32)
    boxes = np.full((number, 2, 4), -1, np.float32)
    classes = np.full((number, 2), -1)
    count = np.zeros(number, np.int64)
    for place in range(number - 1):
        images[place, :, 16:48, 32:80] = place + 1
        boxes[place, 0], classes[place, 0], count[place] = (32, 16, 80, 48), place, 1
    return {"image": images, "boxes": boxes, "classes": classes, "count": count}


def test_the_boxes_of_a_mosaic_lie_on_its_parts() -> None:
    for seed in range(20):
        found = BatchMosaic(1.0)(batch(), np.random.default_rng(seed))
        assert found["image"].shape == (4, 3, 64, 96) and found["boxes"].shape == (4, 8, 4)
        for image, boxes, classes, count in zip(
            *(found[n] for n in ("image", "boxes", "classes", "count"))
        ):
            assert (boxes[count:] == -1).all() and (classes[count:] == -1).all()
            for (x1, y1, x2, y2), kind in zip(boxes[:count].round().astype(int), classes[:count]):
                inside = np.abs(image[0, y1:y2, x1:x2] - kind - 1) < 0.3
                assert inside.mean() > 0.8


def test_no_mosaic_leaves_a_batch_as_it_is() -> None:
    before = batch()
    found = BatchMosaic(0.0)(batch(), np.random.default_rng(0))
    np.testing.assert_array_equal(found["image"], before["image"])
    np.testing.assert_array_equal(found["boxes"][:, :2], before["boxes"])
    np.testing.assert_array_equal(found["count"], before["count"])


def test_the_preparation_of_an_evaluation_is_paddledetections(
    fixtures: Path, real_data: Path
) -> None:
    golden = np.load(fixtures.parent / "detection" / "preprocess.npz")
    chain = [DecodeImage(), ResizeImage(320, interpolation="bicubic"), NormalizeImage(order="")]
    path = real_data / "bccd" / "JPEGImages" / "BloodImage_00000.jpg"
    found = Compose(chain)({"image": str(path), "meta": Meta()})
    np.testing.assert_allclose(found["image"][:, ::32, ::32], golden["det_sub"], atol=1e-5)
    np.testing.assert_allclose(found["image"].mean((1, 2)), golden["det_mean"], atol=1e-5)
    scale = 1 / found["meta"].source[[1, 0], [1, 0]]  # down, across
    np.testing.assert_allclose(scale, golden["det_scale_factor"], rtol=1e-6)
