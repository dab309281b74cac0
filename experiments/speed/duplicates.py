"""How well near-duplicates are found: changed copies of images, and images that only look alike.

For each image, the share of changed copies whose hash is within the distance, and how near the
nearest other image of the folder is. Read next: ppcls_lite/data/near_duplicates.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np

from ppcls_lite.data.near_duplicates import DISTANCE, distances, perceptual_hash
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.data.unlabeled import pool_of
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """As a JPEG of that quality gives it back."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """In another size."""
    return cv2.resize(image, (max(1, width), max(1, height)), interpolation=cv2.INTER_LINEAR)


def trimmed(image: np.ndarray, share: float) -> np.ndarray:
    """Without `share` of its height and width at each edge."""
    height, width = image.shape[:2]
    top, left = round(height * share), round(width * share)
    return np.ascontiguousarray(image[top : height - top, left : width - left])


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG quality 50": lambda image: jpeg(image, 50),
    "JPEG quality 20": lambda image: jpeg(image, 20),
    "half the size": lambda image: resized(image, image.shape[1] // 2, image.shape[0] // 2),
    "squeezed to 256x256": lambda image: resized(image, 256, 256),
    "20 % brighter": lambda image: cv2.convertScaleAbs(image, None, 1.2, 0),
    "3 % cut off at each edge": lambda image: trimmed(image, 0.03),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


def run(argv: list[str]) -> int:
    """Measure and print.

    Raises:
        UserError: the folder has fewer than two images.
    """
    parser = argparse.ArgumentParser(
        prog="benchmark.py duplicates", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder of images")
    parser.add_argument("--images", type=int, default=600, help="at most, evenly spread")
    parser.add_argument("--distance", type=positive, default=DISTANCE, help="bits")
    options = parser.parse_args(argv)
    paths = list(pool_of(options.data))
    step = max(1, -(-len(paths) // options.images))
    images = [decode_rgb(read_file(path), path) for path in paths[::step]]
    if len(images) < 2:
        raise UserError(f"--data {options.data}: expected two images at least")
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    print(f"{len(images)} images of {options.data}; copies within {options.distance} bits:")
    for name, change in CHANGES.items():
        changed = [perceptual_hash(change(image)) for image in images]
        bits = np.array([distances(own[None], other)[0] for own, other in zip(hashes, changed)])
        print(
            f"{name:26} {(bits <= options.distance).mean():7.1%}, median {np.median(bits):g} bits"
        )
    nearest = [np.delete(distances(hashes, int(h)), i).min() for i, h in enumerate(hashes)]
    near = int((np.array(nearest) <= options.distance).sum())
    print(f"other images: nearest {min(nearest)} bits; {near} images have one within the distance")
    return 0
