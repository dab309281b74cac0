"""Which labels look wrong to a judge that has not seen them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppcls_lite.data.label_suspects import neighbours, out_of_fold, suspects
from ppcls_lite.data.patch_features import patch_features, small_picture


def clouds(seed: int, count: int = 300, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 8) around the centres of three classes, and their classes."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((3, 8))
    labels = np.arange(count) % 3
    return centres[labels] + noise * rng.standard_normal((count, 8)), labels


@pytest.mark.parametrize("judge", [out_of_fold, neighbours])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_errors_come_first(judge: object, seed: int) -> None:
    points, truth = clouds(seed)
    wrong = np.random.default_rng(seed).choice(300, 9, replace=False)
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + 1) % 3
    found = suspects(judge(points, labels, 3), labels)
    assert {*found.places[:9].tolist()} == {*wrong.tolist()}
    assert (found.looks_like[:9] == truth[found.places[:9]]).all()
    assert (found.certainty[:6] > 0.5).all() and 0.9 < found.right < 0.98


def test_a_label_does_not_vouch_for_itself() -> None:
    rng = np.random.default_rng(0)
    points, labels = rng.standard_normal((60, 200)), rng.integers(0, 2, 60)
    p = out_of_fold(points, labels, 2)  # noise: with the labels seen, all would be right
    assert 0.3 < (p.argmax(axis=1) == labels).mean() < 0.7


def test_images_without_a_label_are_no_suspects() -> None:
    points, labels = clouds(1)
    labels[:50] = -1
    for judge in (out_of_fold, neighbours):
        p = judge(points, labels, 3)
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-9)
        assert not {*range(50)} & {*suspects(p, labels).places.tolist()}


def test_first_comes_the_least_probable_label() -> None:
    p = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.5, 0.4], [0.6, 0.3, 0.1], [0.1, 0.6, 0.3]])
    found = suspects(p, np.array([0, 0, 0, 1, 0]))
    assert found.places.tolist() == [4, 2, 1, 3] and found.looks_like.tolist() == [1, 1, 1, 0]
    assert found.certainty.tolist() == [0.6, 0.5, 0.8, 0.6] and found.right == 0.2


def test_features_of_patches_tell_shapes_apart() -> None:
    rng = np.random.default_rng(0)
    pictures, labels = [], np.arange(60) % 2
    for label in labels:
        image = rng.integers(0, 60, (48, 40, 3), np.uint8)
        x, y = rng.integers(12, 28, 2)
        colour = rng.integers(120, 256, 3).tolist()
        if label:
            cv2.circle(image, (int(x), int(y)), 9, colour, 2)
        else:
            cv2.line(image, (int(x) - 9, int(y) - 9), (int(x) + 9, int(y) + 9), colour, 2)
        pictures.append(small_picture(image))
    features = patch_features(np.stack(pictures))
    assert features.shape == (60, 1600) and features.dtype == np.float32
    assert (out_of_fold(features, labels, 2).argmax(axis=1) == labels).mean() > 0.9
    again = patch_features(np.stack(pictures))
    np.testing.assert_array_equal(features, again)
