"""Chains: the evaluation path against golden values, exact arithmetic, the deferred tail."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.config.check import build
from ppcls_lite.config.registry import entries
from ppcls_lite.data.transforms import Compose, DecodeImage, NormalizeImage, Normalizer, ToCHWImage
from ppcls_lite.data.transforms.autoaugment import AutoAugment, RandAugment, TimmAutoAugment
from ppcls_lite.data.transforms.boxes import (
    PARALLEL,
    LetterboxImage,
    RandomCropBoxes,
    RandomExpand,
)
from ppcls_lite.data.transforms.crop import (
    CenterCrop,
    CropImage,
    CropImageAtRatio,
    Pad,
    Padv2,
    RandCropImage,
    RandomCropImage,
    RandomPadCrop,
)
from ppcls_lite.data.transforms.normalize import ToGray
from ppcls_lite.data.transforms.orientation import RandFlipImage, RandomRot90, RandomRotation
from ppcls_lite.data.transforms.photometric import (
    BlurImage,
    ColorJitter,
    Cutout,
    RandomDistort,
    RandomErasing,
    RandomGrayscale,
)
from ppcls_lite.data.transforms.resize import Resize, ResizeImage
from ppcls_lite.data.transforms.scale import (
    LimitLong,
    RandomScaleImage,
    ResizeByLong,
    ResizeByShort,
    ResizeRangeScaling,
)
from ppcls_lite.errors import UserError

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
EVERY_OP: dict[str, Callable[[], Any]] = {
    "DecodeImage": DecodeImage,
    "ResizeImage": lambda: ResizeImage(resize_short=40, interpolation="random"),
    "Resize": lambda: Resize(20),
    "CropImage": lambda: CropImage(20),
    "CenterCrop": lambda: CenterCrop(20),
    "CropImageAtRatio": lambda: CropImageAtRatio(20, 4),
    "RandCropImage": lambda: RandCropImage(24),
    "RandCropImage pil": lambda: RandCropImage(24, backend="pil", use_log_aspect=True),
    "RandomCropImage": lambda: RandomCropImage(24),
    "RandomPadCrop": lambda: RandomPadCrop([40, 60]),
    "RandomScaleImage": RandomScaleImage,
    "ResizeByLong": lambda: ResizeByLong(30),
    "ResizeByShort": lambda: ResizeByShort(30),
    "LetterboxImage": lambda: LetterboxImage([64, 64]),
    "RandomCropBoxes": RandomCropBoxes,
    "RandomExpand": RandomExpand,
    "ResizeRangeScaling": lambda: ResizeRangeScaling(20, 40),
    "LimitLong": lambda: LimitLong(30),
    "RandomDistort": RandomDistort,
    "RandFlipImage": RandFlipImage,
    "RandomRot90": RandomRot90,
    "RandomRotation": lambda: RandomRotation(30.0, 0.9),
    "Pad": lambda: Pad(3),
    "Padv2": lambda: Padv2(80),
    "ColorJitter": lambda: ColorJitter(0.9, 0.4, 0.4, 0.4, 0.2),
    "RandomGrayscale": lambda: RandomGrayscale(0.5),
    "BlurImage": BlurImage,
    "AutoAugment": AutoAugment,
    "RandAugment": RandAugment,
    "TimmAutoAugment": TimmAutoAugment,
    "RandomErasing": lambda: RandomErasing(0.9, mode="pixel"),
    "Cutout": lambda: Cutout(2, 16, "none"),
    "NormalizeImage": lambda: NormalizeImage(order=""),
    "ToCHWImage": ToCHWImage,
    "ToGray": ToGray,
}
DETERMINISTIC = {"DecodeImage", "Resize", "ResizeByLong", "ResizeByShort", "LimitLong",
                 "CropImage", "CenterCrop", "CropImageAtRatio", "Pad",
                 "LetterboxImage", "Padv2", "NormalizeImage", "ToCHWImage", "ToGray"}  # fmt: skip


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int = 50, width: int = 64) -> np.ndarray:
    return generator(5).integers(0, 256, (height, width, 3)).astype(np.uint8)


def with_box(image: np.ndarray) -> dict[str, np.ndarray]:
    """A sample with one object."""
    rows = dict.fromkeys(PARALLEL, np.zeros(1, np.int64))
    return {"image": image, **rows, "boxes": np.array([[10, 10, 30, 40]], np.float32)}


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def evaluation(*last: Any) -> Compose:
    return Compose([DecodeImage(), ResizeImage(resize_short=256), CropImage(224), *last])


def reference_resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear resizing from its definition: pixel centres, the border repeated, no filter."""

    def taps(new: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = (np.arange(new) + 0.5) * old / new - 0.5
        low = np.floor(place).astype(int)
        return low.clip(0, old - 1), (low + 1).clip(0, old - 1), place - low

    top, bottom, dy = taps(height, image.shape[0])
    left, right, dx = taps(width, image.shape[1])
    rows = image[top] * (1 - dy)[:, None, None] + image[bottom] * dy[:, None, None]
    return rows[:, left] * (1 - dx)[None, :, None] + rows[:, right] * dx[None, :, None]


@pytest.mark.parametrize("backend", ["cv2", "pil"])
def test_evaluation_path_equals_the_golden_values(
    backend: str, fixtures: Path, real_data: Path
) -> None:
    golden = json.loads((fixtures / "preprocess.json").read_text(encoding="utf-8"))
    chain = Compose([
        DecodeImage(backend=backend), ResizeImage(resize_short=256), CropImage(224),
        NormalizeImage(1 / 255, MEAN.tolist(), STD.tolist(), ""), ToCHWImage(),
    ])  # fmt: skip
    with np.load(fixtures / "preprocess_samples.npz") as samples:
        assert len(golden) == 8
        for name, expected in golden.items():
            path = real_data / "imagenet_samples" / "images" / name
            short = ResizeImage(resize_short=256)(DecodeImage()({"image": path}))["image"]
            assert list(short.shape[:2]) == expected["resized_hw"]
            image = chain({"image": path})["image"]
            assert image.shape == tuple(expected["shape"]) and image.dtype == np.float32
            assert image.mean() == pytest.approx(expected["mean"], abs=2e-2)
            assert image.std() == pytest.approx(expected["std"], abs=2e-2)
            np.testing.assert_allclose(image[:, ::32, ::32], samples[name], atol=2e-2)


@pytest.mark.parametrize("height, width", [(300, 451), (451, 300), (256, 256), (77, 90)])
def test_evaluation_path_from_its_definition(height: int, width: int) -> None:
    image = noise(height, width)
    factor = 256 / min(height, width)
    new_width, new_height = round(width * factor), round(height * factor)
    resized = reference_resize(image.astype(np.float64), new_width, new_height)
    top, left = (new_height - 224) // 2, (new_width - 224) // 2
    cropped = resized[top : top + 224, left : left + 224]
    expected = ((cropped / 255 - MEAN) / STD).transpose(2, 0, 1)
    got = evaluation(NormalizeImage(order=""))({"image": png(image)})["image"]
    one_level = 1 / 255 / STD.min()  # the resized image is rounded to 8 bits
    assert got.shape == (3, 224, 224)
    np.testing.assert_allclose(got, expected, atol=1.01 * one_level)
    assert np.abs(got - expected).mean() < 0.4 * one_level


def test_normalisation_is_exact() -> None:
    image = noise()
    expected = (image.astype(np.float32) * np.float32(1 / 255) - MEAN) / STD
    got = NormalizeImage(order="")({"image": image})["image"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    planes = NormalizeImage(order="chw")({"image": image.transpose(2, 0, 1)})["image"]
    np.testing.assert_array_equal(planes, expected.transpose(2, 0, 1))
    normalizer = NormalizeImage().normalizer
    linear = image * normalizer.factor + normalizer.offset
    np.testing.assert_allclose(linear, expected, atol=1e-5)


def test_normalize_options() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    got = NormalizeImage(2.0, [1.0, 2.0, 3.0], [2.0, 4.0, 8.0], "hwc")({"image": image})["image"]
    assert got[0, 0].tolist() == [99.5, 49.5, 24.625]
    four = NormalizeImage(order="", channel_num=4)({"image": image})["image"]
    assert four.shape == (2, 3, 4) and not four[..., 3].any() and four[..., :3].all()
    assert NormalizeImage(order="", output_fp16=True)({"image": image})["image"].dtype == np.float16
    for text in ("1.0/255.0", "0.00392156862745098", " 1 / 255 "):
        made = build({"NormalizeImage": {"scale": text}}, "transform")
        assert made.normalizer.scale == np.float32(1 / 255)
    for text in ("1/0", "__import__('os')", "1/2/3", ""):
        with pytest.raises(UserError, match=r"NormalizeImage\.scale: expected .*number"):
            build({"NormalizeImage": {"scale": text}}, "transform")
    with pytest.raises(UserError, match="one number for each channel"):
        NormalizeImage(mean=[0.5])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_batch_is_normalised_like_its_images(dtype: type) -> None:
    images = generator().integers(0, 256, (5, 7, 9, 3)).astype(dtype)
    normalizer = Normalizer(1 / 255, MEAN, STD)
    batch = normalizer.normalize_batch(images)
    assert batch.shape == (5, 3, 7, 9) and batch.dtype == np.float32 and batch.flags.c_contiguous
    expected = (images.astype(np.float32) * np.float32(1 / 255) - MEAN) / STD
    np.testing.assert_array_equal(batch, expected.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch[2], normalizer.normalize_image(images[2]))
    with pytest.raises(UserError, match="images have 4 channels"):
        normalizer.normalize_batch(np.zeros((1, 2, 2, 4), np.uint8))


@pytest.mark.parametrize("last", [
    lambda: [NormalizeImage(order="")],
    lambda: [NormalizeImage(order="hwc"), ToCHWImage()],
    lambda: [ToCHWImage(), NormalizeImage(order="chw")],
])  # fmt: skip
def test_the_tail_can_wait_for_the_batch(last: Callable[[], list[Any]]) -> None:
    first = [DecodeImage(), RandCropImage(32), RandFlipImage()]
    whole = Compose([*first, *last()])
    head, normalizer = whole.split_tail()
    assert normalizer is not None
    data = png(noise())
    finished = [whole({"image": data}, generator(s))["image"] for s in range(4)]
    waiting = [head({"image": data}, generator(s))["image"] for s in range(4)]
    assert all(i.dtype == np.uint8 and i.shape == (32, 32, 3) for i in waiting)
    np.testing.assert_array_equal(normalizer.normalize_batch(np.stack(waiting)), finished)
    assert finished[0].shape == (3, 32, 32) and finished[0].flags.c_contiguous


@pytest.mark.parametrize("last", [
    lambda: [NormalizeImage(order=""), RandomErasing(1.0, mode="pixel")],
    lambda: [NormalizeImage(order="", output_fp16=True)],
    lambda: [NormalizeImage(order="", channel_num=4)],
    lambda: [],
])  # fmt: skip
def test_other_tails_stay_in_the_chain(last: Callable[[], list[Any]]) -> None:
    whole = Compose([DecodeImage(), RandCropImage(32), *last()])
    head, normalizer = whole.split_tail()
    assert normalizer is None and head is whole
    image = whole({"image": png(noise())}, generator())["image"]
    assert image.shape[1:] == (32, 32) and image.flags.c_contiguous


def test_chw_is_appended_only_where_it_is_missing() -> None:
    image = noise(8, 9)
    expected = image.transpose(2, 0, 1)
    for ops in ([], [ToCHWImage()], None, [DecodeImage(channel_first=True)]):
        np.testing.assert_array_equal(Compose(ops)({"image": image})["image"], expected)
    np.testing.assert_array_equal(Compose([], to_chw=False)({"image": image})["image"], image)
    planes = Compose([DecodeImage(channel_first=True), NormalizeImage()])({"image": image})["image"]
    np.testing.assert_array_equal(planes, Normalizer(1 / 255, MEAN, STD).normalize_image(image))


@pytest.mark.parametrize("ops, message", [
    ([NormalizeImage()], r"transform_ops\.0\.NormalizeImage: order is 'chw'.*order: ''"),
    ([ToCHWImage(), NormalizeImage(order="")], r"transform_ops\.1.*order is ''.*order: 'chw'"),
    ([ToCHWImage(), RandFlipImage()], r"transform_ops\.1\.RandFlipImage: needs \(H, W, C\)"),
    ([DecodeImage(channel_first=True), CropImage(4)], r"transform_ops\.1\.CropImage"),
    ([ToCHWImage(), ToCHWImage()], r"transform_ops\.1\.ToCHWImage"),
])  # fmt: skip
def test_a_wrong_layout_is_found_when_the_chain_is_built(ops: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Compose(ops)


def test_a_chain_without_decoding_says_so() -> None:
    with pytest.raises(UserError, match="DecodeImage is missing"):
        Compose([RandFlipImage()])({"image": "a.jpg"}, generator())


def test_the_size_of_a_multi_scale_batch_is_followed_and_removed() -> None:
    chain = Compose([DecodeImage(), RandCropImage(24), RandFlipImage(), NormalizeImage(order="")])
    sample = chain({"image": png(noise()), "size": (32, 48), "label": 3}, generator())
    assert sample["image"].shape == (3, 32, 48)
    assert set(sample) == {"image", "label"}
    head, _ = chain.split_tail()
    sample = head({"image": png(noise()), "size": (40, 40)}, generator())
    assert sample["image"].shape == (40, 40, 3) and "size" not in sample


@pytest.mark.parametrize("name", EVERY_OP)
def test_every_op_repeats_with_its_seed_and_pickles(name: str) -> None:
    op = EVERY_OP[name]()
    copy = pickle.loads(pickle.dumps(op))
    results = set()
    for seed in range(12):
        image = noise()
        first = op(with_box(image), generator(seed))["image"]
        np.testing.assert_array_equal(image, noise())  # what came in is not written to
        second = copy(with_box(image), generator(seed))["image"]
        np.testing.assert_array_equal(first, second)
        results.add((first.shape, first.tobytes()))
    assert (len(results) == 1) == (name in DETERMINISTIC)


def test_no_op_touches_the_global_random_state() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    for make in EVERY_OP.values():
        make()(with_box(noise()), generator())
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("ops", [
    lambda: [ResizeImage(size=[48, 64]), TimmAutoAugment(1.0), Padv2([52, 68], pad_mode=1),
             RandomCropImage([48, 64]), RandFlipImage(), NormalizeImage(order=""),
             RandomErasing(1.0, 0.02, 1 / 3, 0.3, attempt=10, use_log_aspect=True, mode="pixel")],
    lambda: [ResizeImage(size=[48, 64]), RandomRot90(), RandCropImage([48, 64]), BlurImage(),
             NormalizeImage(order="")],
])  # fmt: skip
def test_recipes_of_the_pulc_kind(ops: Callable[[], list[Any]]) -> None:
    chain = Compose([DecodeImage(), *ops()])
    for seed in range(5):
        image = chain({"image": png(noise())}, generator(seed))["image"]
        assert image.shape == (3, 64, 48) and image.dtype == np.float32
        assert np.isfinite(image).all() and np.abs(image).max() < 6


def test_every_registered_transform_is_tried_here() -> None:
    marked = {entry.class_name for (kind, _), entry in entries().items() if kind == "transform"}
    assert len(marked) >= 23
    assert {name.split()[0] for name in EVERY_OP} == marked
