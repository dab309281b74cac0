"""Which images of a large pool without labels are worth distilling on.

As SSLD does (Cui et al., arXiv 2103.05959): a teacher gives each image a class and a score, images
that the validation set nearly has are left out, and the best-scored of each class are taken. Every
image is looked at once; its line goes to `scores.jsonl` and a run that is killed goes on behind the
last one. Memory holds two batches, 8 bytes for each validation image, and the selection.
Read before: ../data/near_duplicates.py. Read next: selection.py (the command).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ppcls_lite.data.files import path_in, walk_images
from ppcls_lite.data.image_list import read_lines, require_folder
from ppcls_lite.data.near_duplicates import DISTANCE, KnownImages, distances, perceptual_hash
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.engine import log
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.pipeline import ahead, batched
from ppcls_lite.system.files import atomic_text, same_file

SCORES, DUPLICATES, BAD = "scores.jsonl", "near_duplicates.txt", "bad_files.txt"


class Scorer(Protocol):
    """A teacher with its pre-processing."""

    identity: str  # a check sum, so that the scores of two teachers are not mixed

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB to the network's input (C, H, W) float32."""

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32 to (N, classes)."""


@dataclass(frozen=True)
class Pool:
    """Images in a fixed order, found anew at every walk so that none is held in memory."""

    source: Path  # a folder, or a list of paths (what follows a path is passed over)
    root: Path  # the folder that the paths start from

    def __iter__(self) -> Iterator[str]:
        if self.source.is_dir():
            return walk_images(self.source)
        return _lines_of(self.source)


def pool_at(source: str | Path, root: str | Path | None = None) -> Pool:
    """A pool from a folder or a list; `root` is the list's folder where it is not given.

    Raises UserError if there is no such file or folder.
    """
    source = Path(source)
    if source.is_dir():
        return Pool(source, source)
    if not source.is_file():
        raise UserError(f"{source}: no such folder or list (looked for {source.absolute()})")
    root = Path(root) if root else source.parent
    require_folder(str(root))
    return Pool(source, root)


def score_pool(
    pool: Pool,
    scorer: Scorer,
    output: Path,
    validation: Pool | None = None,
    distance: int = DISTANCE,
    batch_size: int = 32,
    threads: int = 2,
) -> Path:
    """Score every image of the pool; goes on where an earlier call with this output stopped.

    Args:
        output: a folder, for `scores.jsonl`; UserError if that has other scores, or if what is
            written there is the pool's or the validation's list.
        validation: images whose near-duplicates are left out; one that is unreadable is an error.
        distance: bits in which the hashes of near-duplicates may differ.
        threads: that read and decode images.
    """
    for name, given in itertools.product((SCORES, DUPLICATES, BAD), (pool, validation)):
        if given is not None and same_file(output / name, given.source):
            raise UserError(
                f"{given.source}: is read, and would be overwritten ({output / name}); give "
                "another --output"
            )
    total = sum(1 for _ in pool)
    if not total:
        raise UserError(f"{pool.source}: there are no images in this pool")
    names = list(validation) if validation else []
    header = {
        "teacher": scorer.identity,
        "pool": str(pool.source.absolute()),
        "validation": str(validation.source.absolute()) if validation else None,
        "validation_images": len(names),
        "distance": distance,
    }
    output.mkdir(parents=True, exist_ok=True)
    path = output / SCORES
    done = _resume(path, header, pool)
    if done == total:
        return path
    hashes = []
    if names:
        paths = [validation.root / name for name in names]
        with log.bar("validation set", len(names), 0) as bar:
            for found in ahead(lambda path: perceptual_hash(_image(path)), paths, threads, 128):
                hashes.append(found)
                bar.update()
    read = _Reader(pool.root, scorer, KnownImages(hashes, distance), names)
    images = ahead(read, itertools.islice(pool, done, None), threads, max(batch_size, threads))
    with path.open("a", encoding="utf-8") as file, log.bar("scoring", total, done) as bar:
        for batch in batched(images, batch_size):
            for line in _scored(batch, scorer):
                file.write(json.dumps(line) + "\n")
            file.flush()
            bar.update(len(batch))
    return path


def select(
    output: Path, top: int, distance: int = DISTANCE, keep_twins: bool = False
) -> tuple[Path, Counter[str]]:
    """Write the list of the `top` best-scored images of each class from the scores in `output`.

    Of pictures that nearly equal each other within a class only the best-scored is taken, unless
    `keep_twins`. A line is `path<TAB>class<TAB>score`, by class and falling score; UnlabeledDataset
    reads it. Near-duplicates of the validation set and unreadable images are listed beside it.

    Returns the list and counts: `selected`, `classes`, `near_duplicates`, `bad`, `twins`,
    `images`. Raises UserError if the list exists.
    """
    target = list_path(output, top)
    best: dict[int, _Best] = {}
    counts: Counter[str] = Counter()
    with (output / SCORES).open(encoding="utf-8") as lines, contextlib.ExitStack() as stack:
        side = {
            name: stack.enter_context(atomic_text(output / name))
            for name in (DUPLICATES, BAD)
            if not (output / name).exists()
        }
        next(lines)  # the header
        for line in lines:
            found = json.loads(line)
            counts["images"] += 1
            if "class" in found:
                place = best.setdefault(found["class"], _Best(top, distance, keep_twins))
                place.add(found["score"], found["path"], found["hash"])
                continue
            name, about = (BAD, "bad") if "bad" in found else (DUPLICATES, "near_duplicate_of")
            counts["bad" if name == BAD else "near_duplicates"] += 1
            if name in side:
                rest = f"\t{found['distance']} bits" if name == DUPLICATES else ""
                side[name].write(f"{found['path']}\t{found[about]}{rest}\n")
        out = stack.enter_context(atomic_text(target))
        for number, place in sorted(best.items()):
            for score, path in place.ranked():
                out.write(f"{path}\t{number}\t{score:.4f}\n")
                counts["selected"] += 1
    counts["classes"] = len(best)
    counts["twins"] = sum(place.twins for place in best.values())
    return target, counts


def list_path(output: Path, top: int) -> Path:
    """Where the list of a selection goes; UserError if it is there already."""
    target = output / f"selected_top{top}.txt"
    if target.exists():
        raise UserError(
            f"{target}: exists already, and nothing is overwritten: name another --output"
        )
    return target


class _Best:
    """The best-scored images of one class."""

    def __init__(self, top: int, distance: int, keep_twins: bool) -> None:
        self.distance, self.keep_twins, self.twins, self.count = distance, keep_twins, 0, 0
        self._top = top
        self._scores = np.zeros(16, np.float32)
        self._hashes = np.zeros(16, np.uint64)
        self._paths: list[str] = []

    def add(self, score: float, path: str, hash_: int) -> None:
        if self.count == self._top and score <= self._scores[: self.count].min():
            return
        if not self.keep_twins:
            near = distances(self._hashes[: self.count], hash_) <= self.distance
            if near.any():
                self.twins += 1
                if self._scores[: self.count][near].max() >= score:
                    return
                self.twins += int(near.sum()) - 1
                for place in np.flatnonzero(near)[::-1]:
                    self._remove(int(place))
        if self.count == self._top:
            self._remove(int(self._scores[: self.count].argmin()))
        if self.count == len(self._scores):
            self._scores = np.resize(self._scores, 2 * self.count)
            self._hashes = np.resize(self._hashes, 2 * self.count)
        self._scores[self.count], self._hashes[self.count] = score, hash_
        self._paths.append(path)
        self.count += 1

    def ranked(self) -> list[tuple[float, str]]:
        """(score, path), the best first."""
        pairs = zip(self._scores[: self.count].tolist(), self._paths)
        return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))

    def _remove(self, place: int) -> None:
        last = self.count - 1
        for column in (self._scores, self._hashes, self._paths):
            column[place] = column[last]
        self._paths.pop()
        self.count = last


class _Reader:
    """Reads one image: its hash, whether it is known, and the network's input."""

    def __init__(
        self, root: Path, scorer: Scorer, known: KnownImages, names: Sequence[str]
    ) -> None:
        self.root, self.scorer, self.known, self.names = root, scorer, known, names

    def __call__(self, name: str) -> tuple[dict[str, Any], np.ndarray | None]:
        if not _is_utf8(name):
            bad = "its name is not UTF-8, which the lists of a training must be: rename it"
            return {"path": name, "bad": bad}, None
        try:
            image = _image(self.root / name)
        except ImageError as error:
            return {"path": name, "bad": str(error)}, None
        hash_ = perceptual_hash(image)
        match = self.known.match(hash_)
        if match:
            of = self.names[match.index]
            return {"path": name, "near_duplicate_of": of, "distance": match.distance}, None
        return {"path": name, "hash": hash_}, self.scorer.prepare(image)


def _is_utf8(name: str) -> bool:
    """Whether a file name, as Python decodes it, is text."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _image(path: Path) -> np.ndarray:
    return decode_rgb(read_file(path), str(path))


def _scored(
    batch: Sequence[tuple[dict[str, Any], np.ndarray | None]], scorer: Scorer
) -> Iterator[dict[str, Any]]:
    """The finished lines of a batch, in its order."""
    inputs = [array for _, array in batch if array is not None]
    answers = iter(scorer.probabilities(np.stack(inputs)) if inputs else ())
    for line, array in batch:
        if array is None:
            yield line
        else:
            row = next(answers)
            best = int(row.argmax())
            yield {"path": line["path"], "class": best, "score": float(row[best])} | line


def _resume(path: Path, header: Mapping[str, Any], pool: Pool) -> int:
    """Prepare `scores.jsonl`; how many images it has already. A torn last line is cut off."""
    if not path.exists():
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(header) + "\n")
        return 0
    done, end, last = -1, 0, b""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            if done < 0 and json.loads(line) != header:
                found = json.loads(line)
                other = [key for key in header if found.get(key) != header[key]]
                raise UserError(
                    f"{path}: has scores that differ in "
                    + "; ".join(f"{k}: {found.get(k)} there, {header[k]} here" for k in other)
                    + "; name another --output"
                )
            done, end, last = done + 1, end + len(line), line
    if done < 0:  # killed before the header was whole
        path.unlink()
        return _resume(path, header, pool)
    os.truncate(path, end)
    here = next(itertools.islice(pool, done - 1, None), None) if done else None
    if done and json.loads(last)["path"] != here:
        raise UserError(
            f"{path}: its image number {done:,} is {json.loads(last)['path']}, the pool's is "
            f"{here}: the pool has changed; name another --output"
        )
    return done


def _lines_of(file: Path) -> Iterator[str]:
    if file.stat().st_size < 1 << 20:
        yield from (path_in(line) for _, line in read_lines(str(file)))
        return
    # line by line: the list may be long
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        yield from (path_in(line.strip()) for line in lines if line.strip())
