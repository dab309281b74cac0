"""Mixup, CutMix and OpSampler: images, targets and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppcls_lite.data.batch_transforms import CutmixOperator, MixupOperator, OpSampler
from ppcls_lite.errors import ConfigError, UserError

LAYOUTS = {
    "uint8 NHWC": lambda x: x,
    "float32 NHWC": lambda x: x.astype(np.float32),
    "float32 NCHW": lambda x: x.transpose(0, 3, 1, 2).astype(np.float32),
}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch(layout: str = "uint8 NHWC", n: int = 6) -> dict[str, Any]:
    """Image k is filled with 10 k + 5 and has class k."""
    levels = (np.arange(n) * 10 + 5).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (n, 16, 20, 3)).copy()
    return {
        "image": LAYOUTS[layout](images), "label": np.arange(n), "index": np.arange(n)
    }  # fmt: skip


def class_of(values: np.ndarray) -> np.ndarray:
    return np.round((values - 5) / 10).astype(int)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixup_blends_images_and_labels_alike(layout: str) -> None:
    before = batch(layout)
    mixed = MixupOperator(7, 1.0)(before, generator(2))
    assert mixed["image"].dtype == np.float32 and mixed["image"].shape == before["image"].shape
    assert mixed["label"].dtype == np.float32 and mixed["label"].shape == (6, 7)
    np.testing.assert_allclose(mixed["label"].sum(axis=1), 1, atol=1e-6)
    # an image's level is the mean of the two classes' levels under its own label
    levels = mixed["label"] @ (np.arange(7) * 10 + 5)
    np.testing.assert_allclose(mixed["image"].reshape(6, -1).mean(axis=1), levels, rtol=1e-5)
    assert (mixed["image"] % 1 != 0).any()  # not rounded to 8 bits again
    np.testing.assert_array_equal(before["image"], batch(layout)["image"])
    np.testing.assert_array_equal(mixed["index"], np.arange(6))


def test_mixup_weight_follows_beta() -> None:
    rng, op = generator(), MixupOperator(2, 0.2)
    weights = []
    for _ in range(2000):
        mixed = op({"image": np.zeros((2, 2, 2, 3), np.uint8), "label": np.array([0, 1])}, rng)
        weights.append(mixed["label"][0, 0])
    # half of the permutations of two keep the image (weight 1); Beta(a, a) has variance 1/(8a+4)
    assert np.mean(weights) == pytest.approx(0.75, abs=0.03)
    changed = np.array(weights)[np.array(weights) < 1 - 1e-6]
    assert changed.var() == pytest.approx(1 / (8 * 0.2 + 4), abs=0.03)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_labels_weigh_the_real_area(layout: str, alpha: float) -> None:
    op = CutmixOperator(6, alpha)
    shares = []
    for seed in range(60):
        before = batch(layout)
        mixed = op(before, generator(seed))
        np.testing.assert_array_equal(before["image"], batch(layout)["image"])
        assert mixed["image"].dtype == before["image"].dtype
        planes = mixed["image"]
        if layout.endswith("NCHW"):
            planes = planes.transpose(0, 2, 3, 1)
        for k in range(6):
            seen = class_of(planes[k, ..., 0].astype(float))
            area = np.bincount(seen.ravel(), minlength=6) / seen.size
            np.testing.assert_allclose(mixed["label"][k], area, atol=1e-6)
            other = seen != k
            if other.any():
                rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
                assert other[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shares.append(1 - mixed["label"].max(axis=1).min())
    assert max(shares) > 0.3


def test_cutmix_box_keeps_the_image_shape_where_the_border_allows() -> None:
    sizes = set()
    for seed in range(300):
        mixed = CutmixOperator(2, 1.0)(
            {"image": batch(n=2)["image"], "label": np.array([0, 1])}, generator(seed)
        )
        other = class_of(mixed["image"][0, ..., 0].astype(float)) == 1
        sizes.add((int(other.any(axis=1).sum()), int(other.any(axis=0).sum())))
    assert (8, 10) in sizes  # half of 16x20 in the middle


def test_soft_labels_are_mixed_as_they_are() -> None:
    soft = generator().dirichlet(np.ones(5), 6).astype(np.float32)
    mixed = MixupOperator(5)(batch() | {"label": soft}, generator(3))["label"]
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(mixed, soft)
    column = batch() | {"label": np.arange(6)[:, None]}
    np.testing.assert_array_equal(
        MixupOperator(6)(column, generator(3))["label"],
        MixupOperator(6)(batch(), generator(3))["label"],
    )


@pytest.mark.parametrize("label", [
    np.array([0, 1, 2, 3, 4, 6]), np.array([0, 1, 2, 3, 4, -1]), np.zeros((6, 4), np.float32),
    np.zeros((6, 2, 6), np.float32),
], ids=["too large", "negative", "other width", "with shares"])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(label: np.ndarray) -> None:
    with pytest.raises(UserError, match="mixing labels"):
        CutmixOperator(6)(batch() | {"label": label}, generator())


@pytest.mark.parametrize("op", [
    MixupOperator(6), CutmixOperator(6, 1.0),
    OpSampler(6, MixupOperator={"prob": 0.5}, CutmixOperator={"prob": 0.5, "alpha": 1.0}),
], ids=["mixup", "cutmix", "sampler"])  # fmt: skip
def test_the_same_seed_gives_the_same_batch(op: Any) -> None:
    results = set()
    for seed in range(8):
        first, second = op(batch(), generator(seed)), op(batch(), generator(seed))
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["label"], second["label"])
        results.add(first["label"].tobytes())
    assert len(results) > 3


def test_sampler_draws_by_probability() -> None:
    op = OpSampler(6, {"alpha": 0.8, "prob": 0.5}, {"prob": 0.2})
    rng, counts = generator(), {"mixup": 0, "cutmix": 0, "none": 0}
    given = batch()
    for _ in range(1000):
        drawn = op(given, rng)
        if drawn is given:
            counts["none"] += 1
        else:
            counts["mixup" if drawn["image"].dtype == np.float32 else "cutmix"] += 1
    assert 450 < counts["mixup"] < 550
    assert 160 < counts["cutmix"] < 240
    assert op.choices[0][1].alpha == 0.8 and op.choices[1][1].alpha == 0.2


@pytest.mark.parametrize("arguments, message", [
    ({}, "expected at least one"),
    ({"MixupOperator": {"alpha": 1.0}}, r"MixupOperator\.prob: got None"),
    ({"MixupOperator": {"prob": 1.5}}, r"MixupOperator\.prob: got 1.5"),
    ({"MixupOperator": {"prob": 0.6}, "CutmixOperator": {"prob": 0.6}}, "total prob of 1.2"),
    ({"CutmixOperator": {"prob": 0.5, "alpah": 1.0}}, "no argument 'alpah'"),
    ({"CutmixOperator": {"prob": 0.5, "alpha": 0.0}}, r"alpha: got 0.0"),
])  # fmt: skip
def test_sampler_refuses_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpSampler(6, **arguments)


def test_sampler_leaves_its_settings_alone() -> None:
    settings = {"prob": 0.5, "alpha": 0.3}
    OpSampler(6, settings)
    assert settings == {"prob": 0.5, "alpha": 0.3}


@pytest.mark.parametrize("mixer", [MixupOperator(3, 1.0), CutmixOperator(3, 1.0)])
def test_what_one_of_two_images_does_not_know_is_not_known_of_their_mixture(mixer: Any) -> None:
    known = np.random.default_rng(1).integers(0, 2, (6, 3)).astype(np.float32)
    unknown = known.copy()
    unknown[[0, 3], 1] = -1
    expected = mixer(batch() | {"label": known}, generator(2))["label"]
    found = mixer(batch() | {"label": unknown}, generator(2))["label"]
    gone = found < 0
    assert 2 <= gone.sum() <= 4 and gone[[0, 3], 1].all() and (found[gone] == -1).all()
    np.testing.assert_array_equal(found[~gone], expected[~gone])
