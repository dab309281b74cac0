"""Perceptual hashes: copies are found whatever was done to them, and different pictures are not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data.near_duplicates import (
    DISTANCE,
    correlation,
    distances,
    groups_of,
    hash_of,
    near_pairs,
    perceptual_hash,
    shrunk,
)


def clouds(seed: int, edge: int = 96) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(40, 216, (7, 7, 3), np.uint8)
    return cv2.resize(rough, (edge, edge), interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "double": lambda image: cv2.resize(image, None, fx=2, fy=2),
    "squeezed": lambda image: cv2.resize(image, (96, 77), interpolation=cv2.INTER_AREA),
    "quality 90": lambda image: jpeg(image, 90),
    "quality 50": lambda image: jpeg(image, 50),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.15, beta=10),
    "darker": lambda image: cv2.convertScaleAbs(image, alpha=0.7),
    "gray": lambda image: cv2.merge([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3),
}


def pairs_of(images: list[np.ndarray]) -> list[tuple[int, int]]:
    small = np.stack([shrunk(image) for image in images])
    return list(near_pairs(np.array([hash_of(s) for s in small], np.uint64), small))


def test_the_hash_is_imagehashs() -> None:
    imagehash = pytest.importorskip("imagehash", reason="compared with imagehash")
    for seed in range(40):
        image = clouds(seed, 24 + 5 * seed)
        assert perceptual_hash(image) == int(str(imagehash.phash(Image.fromarray(image))), 16)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change: str) -> None:
    images = [clouds(seed) for seed in range(30)]
    changed = [CHANGES[change](image) for image in images]
    found = pairs_of(images + changed)
    assert len(found) >= 28 and {*found} <= {(i, 30 + i) for i in range(30)}


def test_mirrored_and_other_pictures_are_no_copies() -> None:
    images = [clouds(seed) for seed in range(200)]
    assert pairs_of(images + [image[:, ::-1] for image in images[:50]]) == []


def test_few_digits_of_8_by_8_pixels_look_alike() -> None:
    data = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    scans = np.rint(data.load_digits().images * 15.9).astype(np.uint8)  # (1797, 8, 8)
    images = [np.repeat(cv2.resize(scan, (32, 32))[..., None], 3, 2) for scan in scans]
    found = pairs_of(images)  # of 1.6 million pairs; by the hash alone hundreds
    assert len(found) <= 15
    copies = [cv2.convertScaleAbs(image, alpha=0.8) for image in images[:100]]
    assert {(i, 100 + i) for i in range(100)} <= {*pairs_of(images[:100] + copies)}


def test_distances_of_several_hashes() -> None:
    hashes = np.array([0, 1, 2**64 - 1], np.uint64)
    assert distances(hashes[None], hashes[:2, None]).tolist() == [[0, 1, 64], [1, 0, 63]]
    assert DISTANCE < 18


def test_a_single_gray_is_like_nothing() -> None:
    flat = np.full((32, 32), 7, np.uint8)
    assert correlation(flat, flat) == 0
    assert pairs_of([np.zeros((9, 9, 3), np.uint8)] * 3) == []


def test_groups() -> None:
    assert groups_of(6, [(1, 2), (4, 5), (2, 4)]).tolist() == [0, 1, 1, 3, 1, 1]
    assert groups_of(3, []).tolist() == [0, 1, 2]
