"""The worst images of a detector: what is there beside what it answered, a row for each.

Read before: detection_report.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppcls_lite.metrics.objects import Found, Truth
from ppcls_lite.report.pictures import captioned
from ppcls_lite.system.files import write_bytes

SHOWN, HEIGHT = 6, 320  # images, and pixels of a row
Draw = Callable[..., np.ndarray]  # of an image (H, W, 3) RGB and a result


def draw_worst(
    path: Path,
    images: Sequence[tuple[int, int, int]],
    paths: Sequence[str],
    found: Found,
    truth: Truth,
    names: Sequence[str],
    draw: Draw,
) -> list[Path]:
    """Write the first of `images`; none where no file can be read.

    images: numbers of `paths`, how many objects are missed and how many answers are wrong.
    draw: of the post-processing, which puts a result on an image; `scored=False` without scores.
    """
    rows = list(_rows(images, paths, found, truth, names, draw))
    if not rows:
        return []
    width = max(row.shape[1] for row in rows)
    filled = [
        np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows
    ]
    coded = cv2.imencode(".png", np.concatenate(filled)[..., ::-1])[1]
    write_bytes(path, coded.tobytes())
    return [path]


def _rows(
    images: Sequence[tuple[int, int, int]],
    paths: Sequence[str],
    found: Found,
    truth: Truth,
    names: Sequence[str],
    draw: Draw,
) -> Iterator[np.ndarray]:
    for number, missed, wrong in [shown for shown in images if shown[0] < len(paths)][:SHOWN]:
        data = np.fromfile(paths[number], np.uint8) if Path(paths[number]).is_file() else b""
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if decoded is None:
            continue
        image = np.ascontiguousarray(decoded[..., ::-1])  # (H, W, 3) RGB
        there, shown = truth.image == number, found.image == number
        sure = _result(truth.box[there], truth.kind[there], np.ones(int(there.sum())), names)
        sides = (
            draw(image, sure, scored=False),
            draw(image, _result(found.box[shown], found.kind[shown], found.score[shown], names)),
        )
        size = max(1, round(image.shape[1] * HEIGHT / image.shape[0])), HEIGHT
        small = [cv2.resize(side, size, interpolation=cv2.INTER_AREA) for side in sides]
        gap = np.full((HEIGHT, 4, 3), 255, np.uint8)
        text = f"{Path(paths[number]).name}: {missed} missed, {wrong} wrong"
        yield captioned(np.concatenate([small[0], gap, small[1]], axis=1), text)


def _result(
    boxes: np.ndarray, kinds: np.ndarray, scores: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    return {
        "boxes": boxes.tolist(),
        "class_ids": kinds.tolist(),
        "scores": scores.tolist(),
        "label_names": [names[kind] for kind in kinds.tolist()],
    }
