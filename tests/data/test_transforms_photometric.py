"""Colour operations against Pillow's, and the random ones built from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ppcls_lite.data.transforms import pixels
from ppcls_lite.data.transforms.photometric import (
    BlurImage,
    ColorJitter,
    Cutout,
    RandomDistort,
    RandomErasing,
    RandomGrayscale,
)
from ppcls_lite.errors import UserError


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int = 33, width: int = 47) -> np.ndarray:
    """Random pixels in a limited range, so that stretching the contrast has something to do."""
    return generator(1).integers(20, 180, (height, width, 3)).astype(np.uint8)


IMAGES = {
    "noise": noise(),
    "flat": np.full((9, 7, 3), 77, np.uint8),
    "gray": np.repeat(noise()[..., :1], 3, axis=2),
    "two levels": np.repeat(((np.arange(48) % 2) * 255).reshape(6, 8, 1), 3, axis=2).astype("u1"),
    "one pixel": np.array([[[3, 200, 90]]], np.uint8),
    "one row": noise(1, 31),
}


def enhanced(kind: type, factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: kind(image).enhance(factor)


PAIRS: dict[str, tuple[Callable, Callable]] = {
    "invert": (pixels.invert, ImageOps.invert),
    "auto_contrast": (pixels.auto_contrast, ImageOps.autocontrast),
    "equalize": (pixels.equalize, ImageOps.equalize),
    "grayscale": (pixels.grayscale, lambda i: i.convert("L").convert("RGB")),
}
for bits in (1, 3, 7, 8):
    PAIRS[f"posterize {bits}"] = (
        lambda i, b=bits: pixels.posterize(i, b),
        lambda i, b=bits: ImageOps.posterize(i, b),
    )
for threshold in (0, 100, 256):
    PAIRS[f"solarize {threshold}"] = (
        lambda i, t=threshold: pixels.solarize(i, t),
        lambda i, t=threshold: ImageOps.solarize(i, t),
    )
for value in (0.0, 0.1, 0.7, 1.0, 1.9):
    for function, kind in (
        (pixels.brightness, ImageEnhance.Brightness),
        (pixels.contrast, ImageEnhance.Contrast),
        (pixels.color, ImageEnhance.Color),
        (pixels.sharpness, ImageEnhance.Sharpness),
    ):
        PAIRS[f"{function.__name__} {value}"] = (
            lambda i, f=function, v=value: f(i, v),
            enhanced(kind, value),
        )


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("pair", PAIRS)
def test_pixel_operations_agree_with_pillow(pair: str, name: str) -> None:
    ours, theirs = PAIRS[pair]
    image = IMAGES[name]
    before = image.copy()
    got, expected = ours(image), np.asarray(theirs(Image.fromarray(image)))
    np.testing.assert_array_equal(image, before)  # the input is not written to
    assert got.dtype == np.uint8 and got.shape == image.shape
    exact = pair.startswith(("invert", "equalize", "posterize", "solarize"))
    rounded_twice = pair.startswith(("color", "sharpness"))  # a factor above 1 doubles the first
    slack = 0 if exact else 2 if rounded_twice else 1
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= slack


def test_solarize_add_and_posterize_limits() -> None:
    image = np.array([[[0, 100, 127], [128, 200, 255]]], np.uint8)
    np.testing.assert_array_equal(
        pixels.solarize_add(image, 60), [[[60, 160, 187], [128, 200, 255]]]
    )
    np.testing.assert_array_equal(pixels.posterize(image, 0), pixels.posterize(image, 1))
    assert pixels.posterize(image, 0).max() == 128


def test_hue_turns_the_colour_circle() -> None:
    red = np.array([[[200, 0, 0]]], np.uint8)
    assert np.argmax(pixels.hue(red, 1 / 3)[0, 0]) == 1  # green
    assert np.argmax(pixels.hue(red, -1 / 3)[0, 0]) == 2  # blue
    assert np.abs(pixels.hue(noise(), 0.0).astype(int) - noise()).max() <= 6  # 8-bit HSV
    gray = IMAGES["gray"]
    np.testing.assert_array_equal(pixels.hue(gray, 0.4), gray)


def test_color_jitter_stays_in_its_range() -> None:
    op, rng = ColorJitter(brightness=0.5), generator()
    gray = np.full((4, 4, 3), 100, np.uint8)
    levels = [int(op({"image": gray}, rng)["image"][0, 0, 0]) for _ in range(500)]
    assert 50 <= min(levels) < 55 and 145 < max(levels) <= 150
    op = ColorJitter(brightness=[0.9, 1.1])
    levels = [int(op({"image": gray}, rng)["image"][0, 0, 0]) for _ in range(200)]
    assert min(levels) >= 90 and max(levels) <= 110


def test_color_jitter_draws_its_order_anew() -> None:
    op, rng = ColorJitter(brightness=[2.0, 2.0], contrast=[0.5, 0.5]), generator()
    results = {op({"image": noise()}, rng)["image"].tobytes() for _ in range(30)}
    assert len(results) == 2  # clipping makes the order visible


def test_color_jitter_probability_and_every_part() -> None:
    rng = generator()
    for part in ("brightness", "contrast", "saturation", "hue"):
        changed = ColorJitter(**{part: 0.4})({"image": noise()}, rng)["image"]
        assert not np.array_equal(changed, noise()), part
    op = ColorJitter(prob=0.25, brightness=[0.0, 0.0])
    black = sum(not op({"image": noise()}, rng)["image"].any() for _ in range(800))
    assert 150 < black < 250
    image = noise()
    assert ColorJitter()({"image": image}, rng)["image"] is image


@pytest.mark.parametrize("arguments", [
    {"hue": 0.6}, {"hue": [-0.7, 0.0]}, {"brightness": [2.0, 1.0]}, {"contrast": [1.0]},
])  # fmt: skip
def test_color_jitter_refuses_wrong_ranges(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        ColorJitter(**arguments)


def test_random_grayscale() -> None:
    rng, image = generator(), noise()
    gray = RandomGrayscale(1.0)({"image": image}, rng)["image"]
    np.testing.assert_array_equal(gray, pixels.grayscale(image))
    assert RandomGrayscale(0.0)({"image": image}, rng)["image"] is image
    count = sum(RandomGrayscale()({"image": image}, rng)["image"] is not image for _ in range(1000))
    assert 65 < count < 140


def test_blur_notes_what_it_did() -> None:
    rng, op = generator(), BlurImage()
    image = noise(64, 64)
    labels = []
    for _ in range(200):
        sample = op({"image": image}, rng)
        labels.append(sample["blur_image"])
        assert (sample["image"] is image) == (sample["blur_image"] == 0)
        if sample["blur_image"]:
            assert sample["image"].std() < 0.6 * image.std()
            assert sample["image"].mean() == pytest.approx(image.mean(), abs=1.5)
    assert 70 < sum(labels) < 130
    assert BlurImage(ratio=0.0)({"image": image}, rng)["blur_image"] == 0


def test_both_blurs_at_all_kernel_sizes() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    op, rng = BlurImage(ratio=1.0), generator()
    shapes = set()
    for _ in range(150):
        lit = op({"image": point}, rng)["image"][..., 0] > 0
        shapes.add((int(lit.any(axis=0).sum()), int(lit.any(axis=1).sum())))
    assert len(shapes) > 8
    assert max(max(shape) for shape in shapes) <= 11
    with pytest.raises(UserError, match="at least 6"):
        BlurImage(gaussian_max_ksize=5)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_erasing_replaces_one_rectangle(dtype: type, mode: str, log: bool) -> None:
    image = np.full((50, 70, 3), 60, dtype)
    op = RandomErasing(1.0, 0.1, 0.3, mode=mode, mean=[1, 2, 3], use_log_aspect=log)
    for seed in range(10):
        got = op({"image": image}, generator(seed))["image"]
        assert got.dtype == dtype and (image == 60).all()
        changed = (got != 60).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert changed.sum() >= 0.98 * area  # a rectangle; noise may hit the old value
        assert 0.08 < area / changed.size < 0.32
        inside = got[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if mode == "const":
            assert (inside == np.array([1, 2, 3])).all()
        elif mode == "rand":
            assert (inside == inside[0, 0]).all()
        else:
            spread = inside.std() / (58 if dtype == np.uint8 else 1)
            assert 0.7 < spread < 1.3


def test_erasing_probability_aspect_and_attempts() -> None:
    image = np.full((40, 40, 3), 9, np.float32)
    rng = generator()
    op = RandomErasing(0.25)
    count = sum(op({"image": image}, rng)["image"] is not image for _ in range(1000))
    assert 200 < count < 300
    assert RandomErasing(0.0)({"image": image}, rng)["image"] is image
    thin = np.full((2, 300, 3), 9, np.float32)  # nothing of that aspect fits
    assert RandomErasing(1.0, 0.3, 0.4, r1=1.0, attempt=5)({"image": thin}, rng)["image"] is thin
    tall = []
    for _ in range(300):
        got = RandomErasing(1.0, 0.05, 0.1)({"image": image}, rng)["image"] == 0
        tall.append(got[..., 0].any(axis=1).sum() / got[..., 0].any(axis=0).sum())
    assert 0.2 < min(tall) < 0.6 and 2.4 < max(tall) < 4.5


def test_erasing_aspect_is_uniform_or_log_uniform() -> None:
    image = np.full((200, 200, 3), 9, np.float32)
    for log, expected in ((False, (1 - 0.3) / (1 / 0.3 - 0.3)), (True, 0.5)):
        op, rng, wide = RandomErasing(1.0, 0.02, 0.05, use_log_aspect=log), generator(), []
        for _ in range(800):
            erased = op({"image": image}, rng)["image"][..., 0] == 0
            wide.append(erased.any(axis=1).sum() < erased.any(axis=0).sum())
        assert np.mean(wide) == pytest.approx(expected, abs=0.05)


def test_erasing_refuses_wrong_ranges() -> None:
    for arguments in ({"sl": 0.5, "sh": 0.4}, {"r1": 2.0}, {"mean": [1.0, 2.0]}):
        with pytest.raises(UserError, match="RandomErasing"):
            RandomErasing(**arguments)


def test_cutout_covers_squares_that_the_edge_may_cut() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    covered = []
    for seed in range(200):
        got = Cutout(1, 10, [1, 2, 3])({"image": image}, generator(seed))["image"]
        hole = (got == [1, 2, 3]).all(axis=2)
        assert ((got == 200).all(axis=2) ^ hole).all()
        covered.append(int(hole.sum()))
    assert max(covered) == 100 and min(covered) < 60 and (image == 200).all()
    many = Cutout(4, 8)({"image": image}, generator())["image"]
    assert 64 < (many == 0).all(axis=2).sum() <= 256
    for fill in ("none", None):
        op = Cutout(1, 9, fill)
        colours = {
            tuple(int(v) for v in np.unique(op({"image": image}, generator(s))["image"]))
            for s in range(5)
        }
        assert len(colours) == 5


OFF = {f"{part}_prob": 0.0 for part in ("brightness", "contrast", "saturation", "hue")}


def test_distort_turns_the_hue_by_at_most_its_range_as_pillow_does() -> None:
    """PaddleSeg adds a whole number of 256 steps to Pillow's H."""
    op, rng = RandomDistort(**OFF | {"hue_prob": 1.0}, hue_range=18), generator()
    red = np.full((1, 1, 3), [200, 40, 40], np.uint8)
    hues = []
    for _ in range(200):
        found = Image.fromarray(op({"image": red}, rng)["image"]).convert("HSV").getpixel((0, 0))
        hues.append((found[0] + 128) % 256 - 128)
    assert -19 <= min(hues) < -12 and 12 < max(hues) <= 19


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "sharpness"])
def test_distort_draws_its_factor_around_1(part: str) -> None:
    enhancer = {"saturation": "Color"}.get(part, part.capitalize())
    width = {f"{part}_range": 0.4, f"{part}_prob": 1.0}
    op = RandomDistort(**OFF | width)
    found = op({"image": noise()}, generator(3))["image"]
    limits = [
        np.asarray(enhanced(getattr(ImageEnhance, enhancer), f)(Image.fromarray(noise())), int)
        for f in (0.6, 1.4)
    ]
    low, high = np.minimum(*limits), np.maximum(*limits)
    assert ((found >= low - 2) & (found <= high + 2)).all()
    assert (found != noise()).any()


def test_distort_leaves_alone_what_has_no_probability() -> None:
    image = noise()
    assert RandomDistort(**OFF)({"image": image}, generator())["image"] is image
    often = RandomDistort(**OFF | {"brightness_prob": 0.25})
    changed = sum(
        often({"image": image}, generator(seed))["image"] is not image for seed in range(400)
    )
    assert 70 < changed < 130
