"""Geometry: exact pixels, limits of what is drawn, and image, mask and boxes moving together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.transforms import geometry
from ppcls_lite.data.transforms.crop import (
    CenterCrop,
    CropImage,
    CropImageAtRatio,
    Pad,
    Padv2,
    RandCropImage,
    RandomCropImage,
)
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.orientation import RandFlipImage, RandomRot90, RandomRotation
from ppcls_lite.data.transforms.resize import Resize, ResizeImage, Resizer
from ppcls_lite.errors import UserError


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(height: int, width: int) -> np.ndarray:
    """Every pixel tells its own place: red its column, green its row, blue 7."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], axis=2).astype(np.uint8)


def scene() -> dict[str, Any]:
    """A black 80x120 image with one white rectangle, in the image, the mask and the boxes."""
    image, mask = np.zeros((80, 120, 3), np.uint8), np.zeros((80, 120), np.uint8)
    image[20:50, 30:90], mask[20:50, 30:90] = 255, 1
    return {"image": image, "mask": mask, "boxes": np.array([[30, 20, 90, 50]], np.float32)}


def extent(marked: np.ndarray) -> np.ndarray:
    """The box around all marked pixels."""
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


MOVES: dict[str, Callable[[], Any]] = {
    "flip left-right": lambda: lambda s, _: geometry.flip(s, 1),
    "flip top-bottom": lambda: lambda s, _: geometry.flip(s, 0),
    "flip both": lambda: lambda s, _: geometry.flip(s, -1),
    "turn 1": lambda: lambda s, _: geometry.rotate90(s, 1),
    "turn 2": lambda: lambda s, _: geometry.rotate90(s, 2),
    "turn 3": lambda: lambda s, _: geometry.rotate90(s, 3),
    "ResizeImage": lambda: ResizeImage(size=[60, 160]),
    "ResizeImage short": lambda: ResizeImage(resize_short=160),
    "Resize": lambda: Resize([160, 60]),
    "CropImage": lambda: CropImage([100, 70]),
    "CropImage through the box": lambda: CropImage([40, 20]),
    "RandCropImage": lambda: RandCropImage([80, 60], scale=[0.5, 1.0]),
    "RandomCropImage": lambda: RandomCropImage([70, 60]),
    "Pad": lambda: Pad([3, 5, 7, 9]),
    "Padv2": lambda: Padv2([200, 150], pad_mode=1, fill_value=0),
    "RandomRotation 90": lambda: RandomRotation([90.0, 90.0], 1.0, expand=True),
    "CropImageAtRatio": lambda: CropImageAtRatio(64, 8),
}


@pytest.mark.parametrize("move", MOVES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_image_mask_and_boxes_move_together(move: str, seed: int) -> None:
    sample = MOVES[move]()(scene(), generator(seed))
    height, width = sample["image"].shape[:2]
    assert sample["mask"].shape == (height, width)
    assert sample["boxes"].shape == (1, 4)
    seen = extent(sample["image"][..., 0] > 127)
    slack = 1.01 if "Resize" in move or "Rand" in move or "Ratio" in move else 1e-3
    np.testing.assert_allclose(extent(sample["mask"] == 1), seen, atol=slack)
    np.testing.assert_allclose(sample["boxes"][0], seen, atol=slack)


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_meta_leads_back_to_the_decoded_image(move: str) -> None:
    asked = DecodeImage()(scene() | {"meta": None})
    sample = MOVES[move]()(asked, generator(1))
    (back,) = sample["meta"].boxes_back(sample["boxes"])
    assert (sample["meta"].height, sample["meta"].width) == (80, 120)
    inside = np.array([30, 20, 90, 50])
    assert (back[:2] > inside[:2] - 1e-3).all() and (back[2:] < inside[2:] + 1e-3).all()
    height, width = sample["image"].shape[:2]
    x1, y1, x2, y2 = sample["boxes"][0]
    if min(x1, y1) > 0 and x2 < width and y2 < height:  # none of it was cut off
        np.testing.assert_allclose(back, inside, atol=1e-3)


def test_meta_follows_a_chain_of_moves() -> None:
    sample = DecodeImage(channel_first=False)({"image": ramp(100, 200), "meta": None})
    sample = ResizeImage(size=[100, 50])(sample)
    sample = CropImage([60, 40])(sample)  # from (20, 5)
    sample = geometry.flip(Pad([4, 6, 0, 0])(sample), 1)  # 64 wide
    (back,) = sample["meta"].boxes_back(np.array([[0, 6, 10, 46]], np.float32))
    np.testing.assert_allclose(back, [(20 + 50) * 2, 5 * 2, (20 + 60) * 2, 45 * 2])


def test_rotation_moves_a_box_to_the_box_around_it() -> None:
    sample = RandomRotation([30.0, 30.0], 1.0, expand=True)(scene(), generator())
    seen = extent(sample["image"][..., 0] > 127)
    np.testing.assert_allclose(sample["boxes"][0], seen, atol=1.5)
    assert sample["image"].shape[:2] == (130, 144)  # 80 cos 30 + 120 sin 30, 120 cos 30 + 80 sin 30
    assert (sample["mask"] == geometry.MASK_FILL).any()
    assert (sample["mask"] == 1).sum() == pytest.approx(30 * 60, rel=0.02)  # all of it visible
    assert (sample["mask"] == 0).sum() == pytest.approx(80 * 120 - 30 * 60, rel=0.02)


def test_a_box_outside_the_crop_stays_in_the_list_without_area() -> None:
    sample = scene()
    sample["boxes"] = np.array([[30, 20, 90, 50], [0, 0, 5, 5]], np.float32)
    cropped = geometry.crop(sample, 40, 30, 20, 20)
    np.testing.assert_array_equal(cropped["boxes"], [[0, 0, 20, 20], [0, 0, 0, 0]])


def test_crop_and_flip_pixels() -> None:
    cropped = CropImage([4, 2])({"image": ramp(7, 9)})["image"]
    assert cropped.shape == (2, 4, 3)
    assert cropped[0, 0].tolist() == [2, 2, 7]  # (9 - 4) // 2, (7 - 2) // 2
    assert CenterCrop([2, 4])({"image": ramp(7, 9)})["image"].shape == (2, 4, 3)
    assert CenterCrop(3)({"image": ramp(7, 9)})["image"][0, 0].tolist() == [3, 2, 7]
    flipped = geometry.flip({"image": ramp(4, 5)}, 1)["image"]
    np.testing.assert_array_equal(flipped, ramp(4, 5)[:, ::-1])


@pytest.mark.parametrize("op", [CropImage(8), RandomCropImage([8, 2]), CenterCrop(8)])
def test_a_crop_larger_than_the_image_is_an_error(op: Any) -> None:
    with pytest.raises(UserError, match="5x6 pixels is smaller than the crop"):
        op({"image": ramp(6, 5)}, generator())


def test_flip_happens_half_of_the_time() -> None:
    rng, flip = generator(), RandFlipImage()
    image = ramp(2, 3)
    flipped = sum(bool(flip({"image": image}, rng)["image"][0, 0, 0]) for _ in range(1000))
    assert 440 < flipped < 560


@pytest.mark.parametrize("height, width, short, expected", [
    (375, 500, 256, (256, 341)),
    (500, 375, 256, (341, 256)),
    (333, 500, 256, (256, 384)),
    (10, 10, 7, (7, 7)),
    (100, 3, 30, (1000, 30)),
])  # fmt: skip
def test_resize_short_keeps_the_aspect(
    height: int, width: int, short: int, expected: tuple[int, int]
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    assert ResizeImage(resize_short=short)({"image": image})["image"].shape[:2] == expected
    assert Resize(short)({"image": image})["image"].shape[:2] == expected


def test_size_lists_are_width_height_except_in_resize() -> None:
    image = ramp(20, 30)
    assert ResizeImage(size=[12, 8])({"image": image})["image"].shape == (8, 12, 3)
    assert ResizeImage(size=9)({"image": image})["image"].shape == (9, 9, 3)
    assert Resize([12, 8])({"image": image})["image"].shape == (12, 8, 3)
    assert RandCropImage([12, 8])({"image": image}, generator())["image"].shape == (8, 12, 3)
    assert RandomCropImage([12, 8])({"image": image}, generator())["image"].shape == (8, 12, 3)
    assert Padv2([40, 25])({"image": image})["image"].shape == (25, 40, 3)


def test_a_multi_scale_size_replaces_the_recipes() -> None:
    for op in (RandCropImage(24), ResizeImage(size=24), CropImage(24)):
        sample = op({"image": ramp(64, 64), "size": (32, 48)}, generator())
        assert sample["image"].shape == (32, 48, 3), op


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize(
    "name", ["nearest", "bilinear", "bicubic", "area", "box", "lanczos", "random", None]
)
def test_every_interpolation_of_both_backends(name: str | None, backend: str) -> None:
    noise = generator().integers(0, 256, (40, 50, 3)).astype(np.uint8)
    resized = Resizer(name, backend)(noise, (30, 20), generator())
    assert resized.shape == (20, 30, 3)
    assert resized.dtype == np.uint8
    if name == "random":
        return
    if backend == "cv2":
        flags = {"nearest": cv2.INTER_NEAREST, "bicubic": cv2.INTER_CUBIC}
        flags |= {"area": cv2.INTER_AREA, "box": cv2.INTER_AREA, "lanczos": cv2.INTER_LANCZOS4}
        expected = cv2.resize(noise, (30, 20), interpolation=flags.get(name, cv2.INTER_LINEAR))
    else:
        method = {"area": "BOX", None: "BILINEAR"}.get(name) or str(name).upper()
        expected = np.asarray(Image.fromarray(noise).resize((30, 20), Image.Resampling[method]))
    np.testing.assert_array_equal(resized, expected)


def test_random_interpolation_draws_both() -> None:
    noise = generator().integers(0, 256, (40, 50, 3)).astype(np.uint8)
    rng = generator()
    results = {Resizer("random", "cv2")(noise, (30, 20), rng).tobytes() for _ in range(20)}
    assert len(results) == 2


def test_an_interpolation_the_backend_lacks_is_an_error() -> None:
    assert Resizer("hamming", "pil")(ramp(9, 9), (5, 5), None).shape == (5, 5, 3)
    with pytest.raises(UserError, match="'hamming' does not exist for backend 'cv2'"):
        ResizeImage(size=5, interpolation="hamming")


@pytest.mark.parametrize("log", [False, True])
def test_rand_crop_draws_area_and_aspect_from_their_ranges(log: bool) -> None:
    op = RandCropImage(8, scale=[0.2, 0.6], ratio=[0.5, 2.0], use_log_aspect=log)
    rng, shares, aspects = generator(), [], []
    for _ in range(4000):
        _, _, width, height = op.part(1000, 1000, rng)
        shares.append(width * height / 1e6)
        aspects.append(width / height)
    limited = np.array(shares) < 0.199  # an extreme ratio leaves room for half the area at most
    assert not limited.any()
    assert 0.199 < min(shares) < 0.21 and 0.45 < max(shares) < 0.601
    assert 0.498 < min(aspects) < 0.51 and 1.98 < max(aspects) < 2.01
    # uniform in the ratio: a third lies below 1; uniform in its logarithm: half
    assert np.mean(np.array(aspects) < 1) == pytest.approx(0.5 if log else 1 / 3, abs=0.03)


def test_rand_crop_reaches_every_edge_and_stays_inside() -> None:
    op, rng = RandCropImage(16, interpolation="nearest"), generator()
    columns = set()
    for _ in range(600):
        image = op({"image": ramp(30, 40)}, rng)["image"]
        columns |= set(np.unique(image[..., 0]).tolist())
        assert image[..., 1].max() < 30 and image[..., 0].max() < 40
    assert columns == set(range(40))


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (500, 7)])
def test_rand_crop_copes_with_tiny_and_thin_images(shape: tuple[int, int]) -> None:
    rng = generator()
    for _ in range(50):
        assert RandCropImage(8)({"image": ramp(*shape)}, rng)["image"].shape == (8, 8, 3)


def test_rand_crop_of_everything_is_the_whole_image() -> None:
    op = RandCropImage([40, 30], scale=[1.0, 1.0], ratio=[4 / 3, 4 / 3])
    np.testing.assert_array_equal(op({"image": ramp(30, 40)}, generator())["image"], ramp(30, 40))


@pytest.mark.parametrize("arguments", [
    {"scale": [0.5]}, {"scale": [0.6, 0.2]}, {"scale": [0.1, 1.5]}, {"ratio": [2.0, 1.0]},
    {"size": [1, 2, 3]}, {"interpolation": "hamming"},
])  # fmt: skip
def test_rand_crop_refuses_wrong_ranges(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        RandCropImage(**{"size": 8} | arguments)


def test_random_crop_reaches_all_places() -> None:
    op, rng = RandomCropImage(4), generator()
    corners = {tuple(op({"image": ramp(6, 7)}, rng)["image"][0, 0, :2]) for _ in range(400)}
    assert corners == {(x, y) for x in range(4) for y in range(3)}


def test_crop_at_ratio_takes_the_centre() -> None:
    image = CropImageAtRatio(8, 2)({"image": ramp(10, 20)})["image"]
    np.testing.assert_array_equal(image, ramp(10, 20)[1:9, 6:14])


@pytest.mark.parametrize("times", range(4))
def test_rot90_turns_counter_clockwise_and_notes_it(times: int) -> None:
    seed = next(s for s in range(100) if generator(s).integers(4) == times)
    sample = RandomRot90()({"image": ramp(4, 6)}, generator(seed))
    assert sample["random_rot90_orientation"] == times
    np.testing.assert_array_equal(sample["image"], np.rot90(ramp(4, 6), times))


@pytest.mark.parametrize("angle", [-75.0, -20.0, 10.0, 90.0])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_rotation_agrees_with_pillow(angle: float, method: str) -> None:
    y, x = np.mgrid[:61, :80]
    smooth = np.stack([x * 3, y * 4, 128 + 60 * np.sin(x / 9)], axis=2).astype(np.uint8)
    op = RandomRotation([angle, angle], 1.0, method, fill=[9.0, 9.0, 9.0])
    ours = op({"image": smooth}, generator())["image"].astype(int)
    resample = Image.Resampling[method.upper()]
    theirs = Image.fromarray(smooth).rotate(angle, resample, fillcolor=(9, 9, 9))
    gap = np.abs(ours - np.asarray(theirs).astype(int))
    assert np.median(gap) <= 1
    assert (gap > 8).any(axis=2).mean() < 0.1  # the two treat the image's edge differently


def test_rotation_about_a_given_centre_keeps_it() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[10, 8] = 255
    op = RandomRotation([33.0, 33.0], 1.0, "bilinear", center=[8.5, 10.5])
    assert op({"image": image}, generator())["image"][10, 8].min() > 200


def test_rotation_happens_with_its_probability() -> None:
    op, rng = RandomRotation(45.0, 0.3), generator()
    image = ramp(9, 9)
    moved = sum(op({"image": image}, rng)["image"] is not image for _ in range(1000))
    assert 250 < moved < 350


@pytest.mark.parametrize("arguments", [
    {"degrees": [5.0, 1.0]}, {"degrees": [1.0, 2.0, 3.0]}, {"center": [1.0]},
    {"center": [1.0, 2.0], "expand": True}, {"fill": [1.0, 2.0]},
])  # fmt: skip
def test_rotation_refuses_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        RandomRotation(**{"degrees": 9.0} | arguments)


@pytest.mark.parametrize("mode, row", [
    ("constant", [5, 5, 0, 1, 2, 3, 5, 5]),
    ("edge", [0, 0, 0, 1, 2, 3, 3, 3]),
    ("reflect", [2, 1, 0, 1, 2, 3, 2, 1]),
    ("symmetric", [1, 0, 0, 1, 2, 3, 3, 2]),
])  # fmt: skip
def test_pad_modes(mode: str, row: list[int]) -> None:
    image = Pad(2, fill=5, padding_mode=mode)({"image": ramp(3, 4)})["image"]
    assert image.shape == (7, 8, 3)
    assert image[3, :, 0].tolist() == row


def test_pad_takes_four_borders_and_three_colours() -> None:
    image = Pad([1, 2, 3, 4], fill=[10, 20, 30])({"image": ramp(5, 5)})["image"]
    assert image.shape == (11, 9, 3)
    assert image[0, 0].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(image[2:7, 1:6], ramp(5, 5))


@pytest.mark.parametrize("pad_mode, offsets, corner", [
    (0, None, (0, 0)), (1, None, (2, 1)), (2, None, (5, 3)), (-1, [4, 2], (4, 2)),
])  # fmt: skip
def test_padv2_places_the_image(
    pad_mode: int, offsets: list[int] | None, corner: tuple[int, int]
) -> None:
    op = Padv2([10, 8], pad_mode=pad_mode, offsets=offsets, fill_value=[99.0, 98.0, 97.0])
    image = op({"image": ramp(5, 5)})["image"]
    assert image.shape == (8, 10, 3) and image.dtype == np.uint8
    x, y = corner
    np.testing.assert_array_equal(image[y : y + 5, x : x + 5], ramp(5, 5))
    outside = np.ones((8, 10), bool)
    outside[y : y + 5, x : x + 5] = False
    assert (image[outside] == [99, 98, 97]).all()


def test_padv2_by_divisor_and_the_default_grey() -> None:
    image = Padv2(size_divisor=4)({"image": ramp(5, 8)})["image"]
    assert image.shape == (8, 8, 3)
    assert image[7, 0].tolist() == [128] * 3  # 127.5, rounded


@pytest.mark.parametrize("op", [Padv2([4, 9]), Padv2([9, 9], pad_mode=-1, offsets=[5, 0])])
def test_padv2_refuses_what_does_not_fit(op: Padv2) -> None:
    with pytest.raises(UserError, match="does not fit into"):
        op({"image": ramp(5, 5)})


@pytest.mark.parametrize("make", [
    lambda: Padv2(9, pad_mode=-1), lambda: Padv2(9, offsets=[1, 1]), lambda: Pad([1, 2]),
    lambda: Padv2(9, pad_mode=-1, offsets=[1]), lambda: ResizeImage(), lambda: CropImage([1, 2, 3]),
    lambda: Pad(1, fill=[1, 2]),
])  # fmt: skip
def test_contradictory_arguments_are_errors(make: Callable[[], Any]) -> None:
    with pytest.raises(UserError):
        make()
