"""`ppcls-lite prepare cityscapes`: masks of the 19 classes, and a look at the pairs.

Read before: ../datasets_segmentation.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.data.datasets_segmentation import (
    CITYSCAPES_LABELS,
    CITYSCAPES_TRAIN_IDS,
    CityscapesDataset,
)
from ppcls_lite.data.image_list import write_lines
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.mask_file import read_mask
from ppcls_lite.data.mask_rules import MaskRules
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_bytes
from ppcls_lite.system.machine import usable_cores

_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def prepare_cityscapes(folder: str) -> None:
    """Make the masks of trainIds that are missing of those of labelIds, and list the pairs.

    `folder` holds leftImg8bit and gtFine. Raises UserError where a pair is incomplete.
    """
    root = Path(folder)
    made = _make_train_ids(root)
    counts = []
    for split in ("train", "val"):
        data = CityscapesDataset(folder, [], split=split)
        if data.problems:
            raise UserError("\n  ".join([f"{split}:", *data.problems]))
        pairs = zip(data.paths, data.masks)
        lines = [" ".join(Path(p).relative_to(root).as_posix() for p in both) for both in pairs]
        write_lines(root / f"{split}_list.txt", lines)
        counts.append(f"{split} {len(data):,}")
    names = enumerate(read_label_file(CITYSCAPES_LABELS))
    write_lines(root / "labels.txt", [f"{i} {name}" for i, name in names])
    print(
        f"{', '.join(counts)} images with masks; {made:,} masks of the 19 classes were made; wrote "
        f"train_list.txt, val_list.txt and labels.txt in {folder}"
    )


def _make_train_ids(root: Path) -> int:
    rules = MaskRules(19, label_map={**CITYSCAPES_TRAIN_IDS, "other": 255})

    def make(source: Path) -> None:
        classes = rules.classes(read_mask(str(source)), str(source))
        data = cv2.imencode(".png", np.ascontiguousarray(classes))[1].tobytes()
        write_bytes(_target(source), data)

    sources = sorted((root / "gtFine").glob(f"*/*/*{_IDS}"))
    missing = [source for source in sources if not _target(source).exists()]
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding runs outside the interpreter's lock
        for number, _ in enumerate(pool.map(make, missing), start=1):
            if number % 500 == 0:
                print(f"  {number:,} of {len(missing):,} masks", flush=True)
    return len(missing)


def _target(source: Path) -> Path:
    return source.with_name(source.name.removesuffix(_IDS) + _TRAIN_IDS)
