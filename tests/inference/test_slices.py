"""Slices of large photographs: every object is found once, wherever it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.slices import Sliced
from ppcls_lite.inference.spec import InferenceSpec

OBJECTS = {  # x1, y1, x2, y2 in a photograph of 300 x 400
    "on a seam": (96, 40, 120, 60),
    "where four slices meet": (95, 95, 117, 117),
    "small": (201, 16, 207, 22),
    "at the edge": (380, 280, 400, 300),
    "larger than a slice": (140, 130, 370, 260),
}


class BrightRectangles:
    """An engine that finds what is brighter than the rest, at least three pixels wide."""

    name, precision, device, threads = "paddle", "fp32", "cpu", 1

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.seen.append(images.shape)
        boxes, scores = np.zeros((len(images), 9, 4)), np.zeros((len(images), 1, 9))
        for number, image in enumerate(images):
            bright = (image[0] > 0.5).astype(np.uint8)
            for place, found in enumerate(cv2.connectedComponentsWithStats(bright)[2][1:]):
                left, top, width, height, _ = found
                if min(width, height) >= 3:
                    boxes[number, place] = left, top, left + width, top + height
                    scores[number, 0, place] = 0.9 - 0.001 * place - 0.1 * (width < 20)
        return [boxes.astype(np.float32), scores.astype(np.float32)]


def predictor(edge: int | None) -> tuple[Predictor, BrightRectangles]:
    resize = [{"ResizeImage": {"size": [edge, edge], "interpolation": "nearest"}}] if edge else []
    normal = {
        "NormalizeImage": {"scale": "1/255", "mean": [0.0] * 3, "std": [1.0] * 3, "order": ""}
    }
    spec = InferenceSpec(
        model_name="bright",
        transform_ops=[*resize, normal, {"ToCHWImage": None}],
        postprocess={"DetectionNMS": {"label_list": ["bright"]}},
        outputs=("boxes", "scores"),
    )
    engine = BrightRectangles()
    return Predictor.of(spec, engine), engine


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    image = np.zeros((300, 400, 3), np.uint8)
    for left, top, right, bottom in OBJECTS.values():
        image[top:bottom, left:right] = 255
    cv2.imwrite(str(tmp_path / "scene.png"), image)
    return tmp_path / "scene.png"


def require_each_once(result: dict[str, Any], tolerance: float) -> None:
    found = sorted(map(tuple, result["boxes"]))
    assert len(found) == len(OBJECTS)
    np.testing.assert_allclose(found, sorted(OBJECTS.values()), atol=tolerance)
    assert result["size"] == [300, 400] and result["label_names"] == ["bright"] * len(found)


@pytest.mark.parametrize(
    ("edge", "batch_size", "threads"), [(None, 1, 0), (128, 4, 0), (128, 4, 2)]
)
def test_an_object_on_a_seam_is_found_once(
    photograph: Path, edge: int | None, batch_size: int, threads: int
) -> None:
    plain, engine = predictor(edge)
    sliced = Sliced(plain, 128, 0.2)
    bad = photograph.with_name("bad.png")
    bad.write_bytes(b"no picture")
    images = [bad, photograph, bad, photograph, bad]
    results = list(sliced.stream(images, batch_size, True, None, threads))
    assert [result["file"] for result in results] == [str(image) for image in images]
    for result in results:
        if result["file"] == str(bad):
            assert "boxes" not in result and result["error"]
        else:
            require_each_once(result, 0 if edge is None else 3)
    # 4 slices across, 3 down, and the whole; batches go across photographs
    assert sum(shape[0] for shape in engine.seen) == 2 * 13
    assert max(shape[0] for shape in engine.seen) == batch_size
    with pytest.raises(ImageError, match=r"bad\.png"):
        list(sliced.stream(images))


def test_slices_see_more_and_small_photographs_are_seen_once(photograph: Path) -> None:
    plain, engine = predictor(128)
    (whole,) = plain.predict([photograph])
    assert len(whole["boxes"]) == len(OBJECTS) - 1  # a thing of two pixels is none
    engine.seen.clear()
    (same,) = Sliced(plain, 400, 0.2).stream([photograph])
    assert len(engine.seen) == 1
    assert same == whole
    (none,) = Sliced(plain, 100, 0.5).stream([_dark(photograph)])
    assert none["boxes"] == [] and none["scores"] == []


def _dark(photograph: Path) -> Path:
    cv2.imwrite(str(photograph.with_name("dark.png")), np.zeros((200, 300, 3), np.uint8))
    return photograph.with_name("dark.png")


def test_a_broken_slice_breaks_the_answer(photograph: Path) -> None:
    plain, engine = predictor(128)
    find = engine.run

    def run(images: np.ndarray) -> list[np.ndarray]:
        boxes, scores = find(images)
        return [boxes, scores * (np.nan if len(engine.seen) == 3 else 1)]

    engine.run = run  # type: ignore[method-assign]
    results = list(Sliced(plain, 128, 0.2).stream([photograph, photograph], 1, True))
    assert "not a number" in results[0]["error"] and len(results[1]["boxes"]) == len(OBJECTS)


def test_the_command_says_what_cannot_be_sliced(
    exported: Any, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(exported.folder), "--input", str(photograph), "--threads", "1"]
    with pytest.raises(UserError, match="--slice: answers of Topk for slices are none for"):
        run([*common, "--slice", "64"])
    for options in (["--slice", "0"], ["--slice", "64", "--overlap", "0.95"]):
        with pytest.raises(SystemExit):
            run([*common, *options])
    assert "expected at most 0.9" in capsys.readouterr().err


def test_results_are_plain(photograph: Path) -> None:
    (result,) = Sliced(predictor(None)[0], 128, 0.2).stream([photograph])
    assert json.loads(json.dumps(result)) == result
