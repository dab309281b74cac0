"""What goes wrong with one image is an ImageError that names it, wherever it goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from experiments.image_kinds import RGB, png
from ppcls_lite.config.check import build_list
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.fetch import Fetcher
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.augment_ops import apply
from ppcls_lite.data.transforms.autoaugment import TimmAutoAugment
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.crop import Pad, Padv2, RandCropImage, RandomCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.orientation import RandomRotation
from ppcls_lite.data.transforms.resize import Resize, ResizeImage
from ppcls_lite.errors import ImageError, UserError

THIN = np.zeros((1, 5000, 3), np.uint8)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (ResizeImage(resize_short=256), "1280000x256"),
        (ResizeImage(resize_short=256, backend="pil"), "1280000x256"),
        (Resize(256), "1280000x256"),
        (ResizeImage(size=[9000, 9000]), "9000x9000"),
        (Pad(3000), "11000x6001"),
        (Padv2(size=[6000, 6000]), "6000x6000"),
        (RandomRotation([45, 45], prob=1.0, expand=True), "3537x3537"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_far_larger_than_the_image_is_refused_before_it_is_made(
    op: Any, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "MAX_RESULT", 10_000_000)
    for call in ("resize", "copyMakeBorder", "warpAffine"):
        monkeypatch.setattr(cv2, call, None)
    with pytest.raises(ImageError, match=rf"^a\.png: .*5000x1 pixels would become one of {shape};"):
        Compose([op])({"image": THIN, "path": "a.png"}, np.random.default_rng(0))


def test_large_images_may_grow_as_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "MAX_RESULT", 100)
    image = np.zeros((40, 50, 3), np.uint8)
    grown = Pad(8)({"image": image})["image"]
    assert grown.shape == (56, 66, 3)  # 3,696 pixels of 2,000
    with pytest.raises(ImageError, match="would become"):
        Pad(12)({"image": image})


def test_a_part_of_a_thin_image_is_resized_as_ever() -> None:
    sample = {"image": THIN}
    assert RandCropImage(64)(sample, np.random.default_rng(0))["image"].shape == (64, 64, 3)


class Fails:
    """A transform that raises something."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, sample: Any, rng: Any = None) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "x.png: Fails: there is not enough memory for it"),
        (cv2.error("dst.cols < SHRT_MAX"), "x.png: Fails: OpenCV refuses it: dst.cols < SHRT_MAX"),
        (ImageError("too thin"), "x.png: too thin"),
        (ImageError("x.png: too thin"), "x.png: too thin"),
    ],
)
def test_one_place_makes_image_errors(error: Exception, text: str) -> None:
    with pytest.raises(ImageError) as caught:
        Compose([Fails(error)])({"image": THIN, "path": "x.png"})
    assert str(caught.value) == text


@pytest.mark.parametrize("error", [KeyError("a"), UserError("a wrong argument")])
def test_mistakes_of_the_code_and_the_recipe_stay(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Compose([Fails(error)])({"image": THIN})
    assert caught.value is error


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty images, of which 3.png is too small for a crop of 12."""
    for i in range(20):
        data = png(RGB[:8, :8] if i == 3 else RGB, 8, 2)
        (tmp_path / f"{i}.png").write_bytes(data)
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(20)))
    return tmp_path


def fetched(photos: Path, on_bad: Any) -> Any:
    ops = [DecodeImage(), RandomCropImage(12)]
    data = ImageNetDataset(str(photos), str(photos / "list.txt"), ops)
    return Fetcher(data, on_bad=on_bad)(0, [SampleKey(index, 0, None) for index in range(20)])


def test_training_takes_another_image(photos: Path) -> None:
    batch = fetched(photos, "replace")
    assert batch.count == 20 and 3 not in batch.arrays["index"]
    [(path, reason)] = batch.bad
    assert path == str(photos / "3.png")
    assert reason.startswith("RandomCropImage: the image of 8x8 pixels is smaller than the crop")


def test_an_evaluation_stops_or_leaves_it_out(photos: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be used: .*3\.png: RandomCropImage: .*eval_skip"):
        fetched(photos, "raise")
    assert fetched(photos, "skip").count == 19


def test_a_decoded_image_of_a_cache_is_named_too(photos: Path) -> None:
    ops = build_list(["DecodeImage", {"RandomCropImage": {"size": 12}}], "transform")
    data = ImageNetDataset(str(photos), str(photos / "list.txt"), ops)

    class Kept:
        def get(self, index: int) -> np.ndarray:
            return np.zeros((8, 8, 3), np.uint8)

    data.keep_decoded(Kept())
    with pytest.raises(ImageError, match=r"^.*/5\.png: RandomCropImage"):
        data[5]


def test_no_image_becomes_black_by_fewer_bits() -> None:
    dark = np.full((6, 6, 3), 61, np.uint8)
    dark[0, 0] = 20
    posterized = apply({"image": dark}, "Posterize", 0, None, (0, 0, 0))["image"]
    assert posterized.max() == 32 and posterized[0, 0, 0] == 0  # the highest bit that is set
    bright = np.full((6, 6, 3), 200, np.uint8)
    assert apply({"image": bright}, "Posterize", 0, None, (0, 0, 0))["image"].max() == 128
    assert apply({"image": dark * 0}, "Posterize", 0, None, (0, 0, 0))["image"].max() == 0


def test_weak_augmentation_leaves_every_image_visible() -> None:
    op = TimmAutoAugment(config_str="rand-m1-mstd0.1")
    y, x = np.mgrid[:32, :32]
    image = np.stack([x * 6, y * 5 + 20, (x + y) * 3], axis=2).astype(np.uint8)
    rng = np.random.default_rng(0)
    darkest = min(int(op({"image": image.copy()}, rng)["image"].max()) for _ in range(2000))
    assert darkest > 0
