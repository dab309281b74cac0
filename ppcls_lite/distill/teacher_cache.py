"""The logits of frozen teachers for a fixed set of views, stored once and read in later epochs.

A view is one augmentation of every image: with `Global.teacher_cache_views: V`, epoch e augments as
epoch e % V does, so that V passes over the images fill the cache and the teachers rest from then
on. Files of the folder: `header.json` says what the logits belong to, `<teacher>.f16` holds them
(views, images, classes) in float16, `filled.u8` says which are there. A row is marked as there only
after it has reached the disk, so a run may be killed at any time. Several processes of a machine
may fill one cache: each writes the rows of its own images.
Read next: teachers.py (when it is used, and what the header is made of).
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import TEMPORARY, atomic_file, make_own, reserve, write_text

FORMAT = 2
HEADER, FILLED = "header.json", "filled.u8"
FLUSH_SECONDS = 60.0  # so much work a run that is killed does again
CHECKSUM = re.compile("[0-9a-f]{64}")
ADVICE = "name another folder as Global.teacher_cache, or delete this one to fill it anew"

Batch = Mapping[str, Tensor]
Run = Callable[[Batch], dict[str, Any]]


class TeacherCache:
    """Logits by (teacher, view, image); `open_cache` makes one.

    `folder` has the files already; `classes` are the number of each teacher's, by its name.
    """

    def __init__(self, folder: Path, views: int, images: int, classes: Mapping[str, int]) -> None:
        self.folder = folder
        self._logits = {
            name: np.memmap(folder / f"{name}.f16", np.float16, "r+", shape=(views, images, count))
            for name, count in classes.items()
        }
        self._filled = np.memmap(folder / FILLED, np.uint8, "r+", shape=(views, images))
        self._written = np.zeros((views, images), bool)  # by this process since the last flush
        self._flushed = time.monotonic()

    @property
    def share(self) -> float:
        """How much of it is filled, from 0 to 1."""
        return float(np.count_nonzero(self._filled[:] | self._written) / self._filled.size)

    def outputs(self, batch: Batch, run: Run) -> dict[str, Tensor]:
        """The teachers' logits (N, classes) float32 for a batch with `index` and `view` (N,).

        Rows that are not there yet come from `run` and are stored. What is returned has been
        rounded to float16 in either case, so that a run does not depend on who filled the cache.
        UserError where a teacher gives more than logits, or logits that float16 cannot hold.
        """
        place = batch["view"].numpy(), batch["index"].numpy()
        missing = ~(self._filled[place].astype(bool) | self._written[place])
        if missing.any():
            rows = np.flatnonzero(missing)
            images = batch["image"]
            if len(rows) < len(missing):
                images = images[paddle.to_tensor(rows, place=images.place)]
            self._store((place[0][rows], place[1][rows]), run({"image": images}))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
        device = batch["image"].place
        return {
            name: paddle.to_tensor(logits[place].astype(np.float32), place=device)  # (N, classes)
            for name, logits in self._logits.items()
        }

    def flush(self) -> None:
        """Bring what was stored to the disk: first the rows, then the marks that they are there."""
        if self._written.any():
            for logits in self._logits.values():
                logits.flush()
            self._filled[self._written] = 1
            self._filled.flush()
            self._written[:] = False
        self._flushed = time.monotonic()

    def _store(self, place: tuple[np.ndarray, np.ndarray], outputs: Mapping[str, Any]) -> None:
        for name, logits in self._logits.items():
            answer = outputs[name]
            if isinstance(answer, Mapping):
                more = ", ".join(key for key in answer if key != "logits")
                raise UserError(
                    f"Global.teacher_cache: holds logits only, but {name} gives {more} as well "
                    "(return_patterns, return_stages): remove these, or teacher_cache"
                )
            values = answer.astype("float32").numpy()
            if not np.abs(values).max() <= np.finfo(np.float16).max:
                raise UserError(
                    f"Global.teacher_cache: {name} gives logits up to {np.abs(values).max():g}, "
                    "which float16 cannot hold: look at its weights, or remove teacher_cache"
                )
            logits[place] = values
        self._written[place] = True


def open_cache(
    folder: Path, views: int, images: int, classes: Mapping[str, int], parts: Mapping[str, str]
) -> TeacherCache:
    """The cache in `folder`, which is made if there is none.

    `parts` is what the logits depend on, each as a text or check sum under a name for people.

    A cache of something else (the message names what differs), that is damaged, or does not fit
    on the disk, and a folder with other files, are a UserError.
    """
    sizes = {"views": views, "images": images, "classes": dict(classes)}
    header = {"format": FORMAT, **sizes, "parts": dict(parts)}
    sizes = {f"{name}.f16": 2 * views * images * count for name, count in classes.items()}
    sizes[FILLED] = views * images
    path = folder / HEADER
    try:
        make_own(folder)
        if path.is_file():
            _compare(path, header)
        else:
            _create(folder, header, sizes)
        return _opened(folder, sizes, views, images, classes)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}; a teacher cache needs a "
            "folder that can be written, on a disk with room: name it as Global.teacher_cache"
        ) from error


def _opened(
    folder: Path, sizes: Mapping[str, int], views: int, images: int, classes: Mapping[str, int]
) -> TeacherCache:
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            raise UserError(
                f"{folder / name}: expected {size:,} bytes, found {found or 'no such file'}; the "
                f"cache is damaged: {ADVICE}"
            )
    return TeacherCache(folder, views, images, classes)


def _compare(path: Path, header: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        current = found["format"] == FORMAT
        theirs, ours = _flat(found) if current else {}, _flat(header)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is no header of a teacher cache; {ADVICE}") from error
    if not current:
        raise UserError(f"{path}: written by another version of ppcls_lite; {ADVICE}")
    different = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
    if different:
        short = {key: [_short(side.get(key)) for side in (theirs, ours)] for key in different}
        lines = [f"{key}: {there} there, {here} here" for key, (there, here) in short.items()]
        raise UserError(
            f"{path.parent}: this cache of teacher logits is for something else, which differs in "
            + "; ".join([*lines, ADVICE])
        )


def _create(folder: Path, header: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Make empty files, and the header last: without it there is no cache. Raises OSError."""
    strange = sorted(
        p.name for p in folder.iterdir() if p.name not in sizes and not p.match(TEMPORARY)
    )
    if strange:
        raise UserError(
            f"{folder}: holds other files ({', '.join(strange[:3])}); name a folder of its own "
            "as Global.teacher_cache"
        )
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the teachers' logits need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB "
            "are free; use fewer Global.teacher_cache_views, or another disk"
        )
    for name, size in sizes.items():
        with atomic_file(folder / name) as file:
            reserve(file, size)
    write_text(folder / HEADER, json.dumps(header, indent=2) + "\n")


def _flat(header: Mapping[str, Any]) -> dict[str, Any]:
    classes = {f"classes of {name}": count for name, count in header["classes"].items()}
    numbers = {"number of views": header["views"], "number of images": header["images"]}
    return numbers | classes | header["parts"]


def _short(value: Any) -> str:
    """A value for people; a check sum by its beginning."""
    text = "nothing" if value is None else str(value)
    return text[:12] if CHECKSUM.fullmatch(text) else text
