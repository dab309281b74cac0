"""AutoAugment, RandAugment and TimmAutoAugment: every operation, scale and option."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.transforms import augment_ops, policies
from ppcls_lite.data.transforms.autoaugment import AutoAugment, RandAugment, TimmAutoAugment
from ppcls_lite.errors import UserError

NAMES = sorted({*policies.RAND, *policies.RANDAUGMENT, *policies.AUGMIX})
SCALES = {
    name: getattr(augment_ops, name)
    for name in ("AUTOAUGMENT", "RANDAUGMENT", "TIMM", "TIMM_INCREASING", "TIMM_ORIGINAL",
                 "TIMM_RESEARCH", "AUGMIX")
}  # fmt: skip
GRAY = (128.0, 128.0, 128.0)
CONFIGS = [
    "rand-m9-mstd0.5-inc1", "rand", "rand-m7-n3", "rand-m9-w0-n4-inc1", "rand-m0-inc0",
    "original", "originalr-mstd0.5", "v0", "v0r-mstd1", "augmix", "augmix-m5-w4-d2-mstd0.5",
    "augmix-a0.5-b1",
]  # fmt: skip


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def image(height: int = 45, width: int = 63) -> np.ndarray:
    noise = generator(3).integers(30, 200, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


def test_the_policies_are_the_published_ones() -> None:
    assert len(policies.IMAGENET) == len(policies.EFFICIENTNET_V0) == 25
    assert len(policies.RANDAUGMENT) == 14 and len(policies.RAND) == 15
    for policy, highest in ((policies.IMAGENET, 9), (policies.EFFICIENTNET_V0, 10)):
        for pair in policy:
            for name, prob, level in pair:
                assert name in NAMES and 0 <= prob <= 1 and 0 <= level <= highest
    assert sum(policies.RAND_WEIGHTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(45, 63), (224, 224), (31, 1), (1, 1), (2, 97)])
def test_every_operation_keeps_shape_and_type(
    shape: tuple[int, int], scale: str, name: str
) -> None:
    for t in (0.0, 0.5, 1.0):
        value = SCALES[scale].value(name, t, generator())
        for picture in (image(*shape), np.repeat(image(*shape)[..., :1], 3, axis=2)):
            sample = augment_ops.apply({"image": picture}, name, value, None, GRAY)
            assert sample["image"].shape == picture.shape
            assert sample["image"].dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_does_something(name: str) -> None:
    value = augment_ops.TIMM_INCREASING.value(name, 0.9, generator())
    changed = augment_ops.apply({"image": image()}, name, value, cv2.INTER_LINEAR, GRAY)["image"]
    assert np.abs(changed.astype(int) - image()).mean() > 0.5


@pytest.mark.parametrize("scale, name, t, expected", [
    ("AUTOAUGMENT", "Posterize", 8 / 9, {4}),
    ("AUTOAUGMENT", "Posterize", 5 / 9, {6}),
    ("AUTOAUGMENT", "Solarize", 5 / 9, {256 * 4 / 9}),
    ("AUTOAUGMENT", "Rotate", 1.0, {-30.0, 30.0}),
    ("AUTOAUGMENT", "Color", 0.0, {1.0}),
    ("AUTOAUGMENT", "TranslateX", 1.0, {-150 / 331, 150 / 331}),
    ("RANDAUGMENT", "Posterize", 0.5, {2}),
    ("RANDAUGMENT", "Solarize", 0.5, {128.0}),
    ("RANDAUGMENT", "Contrast", 0.5, {0.55, 1.45}),
    ("TIMM", "Posterize", 0.9, {3}),
    ("TIMM", "Color", 0.9, {0.1 + 1.8 * 0.9}),
    ("TIMM_INCREASING", "Posterize", 0.9, {1}),
    ("TIMM_INCREASING", "Solarize", 0.9, {26}),
    ("TIMM_INCREASING", "Brightness", 1.0, {0.1, 1.9}),
    ("TIMM_INCREASING", "SolarizeAdd", 0.9, {99}),
    ("TIMM_INCREASING", "TranslateY", 1.0, {-0.45, 0.45}),
    ("TIMM_ORIGINAL", "Posterize", 0.8, {7}),
    ("TIMM_RESEARCH", "Posterize", 0.8, {1}),
    ("AUGMIX", "TranslateY", 1.0, {-0.3, 0.3}),
])  # fmt: skip
def test_scales(scale: str, name: str, t: float, expected: set[float]) -> None:
    rng = generator()
    drawn = {round(float(SCALES[scale].value(name, t, rng)), 9) for _ in range(40)}
    assert drawn == {round(float(v), 9) for v in expected}


@pytest.mark.parametrize("name, value, source", [
    ("ShearX", 0.3, (1, 0.3, 0, 0, 1, 0)), ("ShearX", -0.2, (1, -0.2, 0, 0, 1, 0)),
    ("ShearY", 0.25, (1, 0, 0, 0.25, 1, 0)), ("TranslateX", 0.2, (1, 0, 16, 0, 1, 0)),
    ("TranslateY", -0.3, (1, 0, 0, 0, 1, -18)), ("Rotate", 25.0, None),
])  # fmt: skip
def test_moves_agree_with_pillow(name: str, value: float, source: tuple[float, ...] | None) -> None:
    picture = cv2.GaussianBlur(image(60, 80), (9, 9), 0)
    ours = augment_ops.apply({"image": picture}, name, value, cv2.INTER_LINEAR, GRAY)["image"]
    options = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}
    if source is None:
        theirs = Image.fromarray(picture).rotate(value, **options)
    else:
        affine = Image.Transform.AFFINE
        theirs = Image.fromarray(picture).transform((80, 60), affine, source, **options)
    gap = np.abs(ours.astype(int) - np.asarray(theirs).astype(int))
    assert np.median(gap) <= 1 and (gap > 6).any(axis=2).mean() < 0.06


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_moves_take_boxes_and_mask_along(name: str) -> None:
    picture, mask = np.zeros((80, 120, 3), np.uint8), np.zeros((80, 120), np.uint8)
    picture[30:50, 50:80], mask[30:50, 50:80] = 255, 1
    sample = {"image": picture, "mask": mask, "boxes": np.array([[50, 30, 80, 50]], np.float32)}
    value = 20.0 if name == "Rotate" else 0.1
    moved = augment_ops.apply(sample, name, value, cv2.INTER_LINEAR, (0.0,) * 3)
    seen = moved["image"][..., 0] > 127
    x, y = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    assert ((moved["mask"] == 1) != seen).mean() < 0.01
    assert not np.array_equal(moved["boxes"], [[50, 30, 80, 50]])
    np.testing.assert_allclose(moved["boxes"][0], [x[0], y[0], x[-1] + 1, y[-1] + 1], atol=1.6)


@pytest.mark.parametrize(
    "op",
    [AutoAugment(), RandAugment(), RandAugment(3, 10.0)],
    ids=["auto", "rand", "rand strongest"],
)
@pytest.mark.parametrize("shape", [(45, 63), (224, 224), (7, 1)])
def test_auto_and_rand_augment(op: Any, shape: tuple[int, int]) -> None:
    picture = image(*shape)
    results = set()
    for seed in range(60):
        got = op({"image": picture}, generator(seed))["image"]
        assert got.shape == picture.shape and got.dtype == np.uint8
        again = op({"image": picture}, generator(seed))["image"]
        np.testing.assert_array_equal(got, again)
        results.add(got.tobytes())
    assert len(results) > 10
    np.testing.assert_array_equal(picture, image(*shape))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_every_timm_option(config: str, interpolation: str) -> None:
    op = TimmAutoAugment(1.0, config, interpolation, img_size=[192, 48])
    results = set()
    for seed in range(40):
        got = op({"image": image()}, generator(seed))["image"]
        assert got.shape == image().shape and got.dtype == np.uint8
        np.testing.assert_array_equal(got, op({"image": image()}, generator(seed))["image"])
        results.add(got.tobytes())
    assert len(results) > 5


def test_timm_probability_and_neutral_magnitude() -> None:
    picture, rng = image(), generator()
    assert TimmAutoAugment(0.0)({"image": picture}, rng)["image"] is picture
    op = TimmAutoAugment(0.4, "augmix")
    moved = sum(op({"image": picture}, rng)["image"] is not picture for _ in range(300))
    assert 90 < moved < 150


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operations that would have been applied."""
    names: list[str] = []

    def record(sample: dict, name: str, *rest: Any) -> dict:
        names.append(name)
        return sample

    monkeypatch.setattr("ppcls_lite.data.transforms.autoaugment.apply", record)
    return names


@pytest.mark.parametrize("op, policy", [
    (AutoAugment(), policies.IMAGENET),
    (TimmAutoAugment(1.0, "original"), policies.IMAGENET),
    (TimmAutoAugment(1.0, "v0r"), policies.EFFICIENTNET_V0),
], ids=["auto", "original", "v0r"])  # fmt: skip
def test_policies_are_drawn_with_their_probabilities(
    op: Any, policy: tuple[policies.Pair, ...], seen: list[str]
) -> None:
    rng = generator()
    for _ in range(6000):
        op({"image": image(4, 4)}, rng)
    for name in NAMES:
        expected = sum(prob for pair in policy for other, prob, _ in pair if other == name) / 25
        assert seen.count(name) / 6000 == pytest.approx(expected, abs=0.025), name


def test_weighted_operations_do_not_repeat(seen: list[str]) -> None:
    op, rng = TimmAutoAugment(1.0, "rand-n13-w0"), generator()
    for _ in range(50):
        seen.clear()
        op({"image": image(4, 4)}, rng)
        assert len(seen) == len(set(seen))


def test_rand_augment_draws_all_operations_alike(seen: list[str]) -> None:
    op, rng = RandAugment(num_layers=3), generator()
    for _ in range(2000):
        op({"image": image(4, 4)}, rng)
    assert len(seen) == 6000 and set(seen) == set(policies.RANDAUGMENT)
    assert max(seen.count(name) for name in set(seen)) < 6000 / 14 * 1.2


def test_augmix_is_a_mean_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    bright = np.full((4, 4, 3), 200, np.uint8)
    monkeypatch.setattr(
        "ppcls_lite.data.transforms.autoaugment.apply", lambda *_: {"image": bright}
    )
    op, rng, levels = TimmAutoAugment(1.0, "augmix"), generator(), []
    for _ in range(400):
        mixed = op({"image": bright // 2}, rng)["image"]
        assert len(np.unique(mixed)) == 1
        levels.append(int(mixed[0, 0, 0]))
    assert 100 <= min(levels) < 110 and 190 < max(levels) <= 200
    assert np.mean(levels) == pytest.approx(150, abs=6)  # Beta(1, 1) is uniform


def test_timm_number_of_operations_and_weights(seen: list[str]) -> None:
    rng = generator()
    op = TimmAutoAugment(1.0, "rand-n4")
    for _ in range(500):
        op({"image": image()}, rng)
    assert len(seen) == pytest.approx(4 * 500 * 0.5, rel=0.1)
    assert set(seen) == set(policies.RAND)
    seen.clear()
    op = TimmAutoAugment(1.0, "rand-n2-w0")
    for _ in range(2000):
        op({"image": image()}, rng)
    assert "Invert" not in seen and "Posterize" not in seen  # weight 0
    assert seen.count("Rotate") > 3 * seen.count("TranslateX") / 2 > 0


def test_timm_magnitude_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[float] = []
    monkeypatch.setattr(
        augment_ops.Scale, "value", lambda self, name, t, rng: values.append(t) or 1
    )
    rng = generator()
    op = TimmAutoAugment(1.0, "rand-m5-mstd0.5-n8")
    for _ in range(300):
        op({"image": image(9, 9)}, rng)
    assert np.mean(values) == pytest.approx(0.5, abs=0.01)
    assert np.std(values) == pytest.approx(0.05, rel=0.15)
    values.clear()
    op = TimmAutoAugment(1.0, "rand-m9-mstd5")
    for _ in range(300):
        op({"image": image(9, 9)}, rng)
    assert min(values) >= 0 and max(values) == 1.0  # clipped


def test_fill_is_the_mean_colour() -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    op = TimmAutoAugment(1.0, "rand-m10-n8", "nearest", mean=[0.5, 0.25, 1.0])
    colours = set()
    for seed in range(80):
        got = op({"image": black}, generator(seed))["image"].reshape(-1, 3)
        colours |= {tuple(int(v) for v in c) for c in np.unique(got, axis=0)}
    assert (128, 64, 255) in colours


@pytest.mark.parametrize("config, part", [
    ("rnd-m9", "begins with 'rnd'"), ("auto", "begins with 'auto'"), ("", "begins with ''"),
    ("rand-x3", "option 'x3'"), ("rand-m", "option 'm'"), ("rand-mstd0.5-m", "option 'm'"),
    ("rand-m11", "m is 11"), ("rand-n0", "n is 0"), ("rand-n2.5", "n is 2.5"),
    ("rand-w1", "w is 1"), ("rand-n14", "n is 14"), ("original-m9", "option 'm9'"),
    ("augmix-n2", "option 'n2'"), ("augmix-w0", "w is 0"), ("rand m9", "begins with 'rand m9'"),
])  # fmt: skip
def test_timm_refuses_wrong_configurations(config: str, part: str) -> None:
    with pytest.raises(UserError, match="config_str") as caught:
        TimmAutoAugment(1.0, config)
    assert part in str(caught.value)


def test_other_wrong_arguments() -> None:
    with pytest.raises(UserError, match="magnitude is 11"):
        RandAugment(magnitude=11.0)
    with pytest.raises(UserError, match="fillcolor has 2"):
        AutoAugment([1, 2])
    with pytest.raises(UserError, match="cannot move boxes"):
        sample = {"image": image(), "boxes": np.zeros((0, 4), np.float32)}
        TimmAutoAugment(1.0, "augmix")(sample, generator())
