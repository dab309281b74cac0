"""CIFAR-10 from its binary archive to PNG files in class folders: `prepare_data.py cifar10`.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". A record is one byte of
label, then 1,024 bytes each of red, green and blue.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.data.image_list import write_lines
from ppcls_lite.errors import UserError

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
EDGE = 32
RECORD = 1 + 3 * EDGE * EDGE  # bytes


def prepare_cifar10(archive: str, output: str | Path, train: int | None, test: int | None) -> None:
    """Write `output`/train, test (a folder per class), train_list.txt, test_list.txt, labels.txt.

    `train` and `test` limit the images of each class to the first so many; None: all. Raises
    UserError where the archive is missing or not what it should be.
    """
    root = Path(output)
    for split, most in (("train", train), ("test", test)):
        images, labels = _read(archive, FILES[split])
        count = dict.fromkeys(CLASSES, 0)
        lines = []
        for image, label in zip(images, labels.tolist()):
            name = CLASSES[label]
            if most is not None and count[name] >= most:
                continue
            path = f"{split}/{name}/{count[name]:04d}.png"
            count[name] += 1
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
            lines.append(f"{path} {label}")
        write_lines(root / f"{split}_list.txt", lines)
        print(f"{root / f'{split}_list.txt'}: {len(lines):,} images of {len(CLASSES)} classes")
    write_lines(root / "labels.txt", [f"{i} {name}" for i, name in enumerate(CLASSES)])
    print("next: docs/pulc.md derives two tasks from it")


def _read(archive: str, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 RGB and labels (N,) uint8 of some of the archive's files."""
    parts = []
    try:
        with tarfile.open(archive) as files:
            members = {Path(member.name).name: member for member in files if member.isfile()}
            for name in wanted:
                stream = files.extractfile(members[name])
                parts.append(np.frombuffer(stream.read(), np.uint8).reshape(-1, RECORD))
    except (OSError, tarfile.TarError, EOFError, KeyError, ValueError) as error:
        raise UserError(
            f"{archive}: expected CIFAR-10's binary version, cifar-10-binary.tar.gz from {PAGE}: "
            f"{type(error).__name__}: {error}"
        ) from error
    records = np.concatenate(parts)  # (N, RECORD)
    labels = records[:, 0]
    if labels.max(initial=0) >= len(CLASSES):
        raise UserError(f"{archive}: label {labels.max()}; expected 0 to 9: not CIFAR-10?")
    return records[:, 1:].reshape(-1, 3, EDGE, EDGE).transpose(0, 2, 3, 1), labels
