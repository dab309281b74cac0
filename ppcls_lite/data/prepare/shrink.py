"""Images that are no larger than training needs: a list's files, shrunk, in a folder of their own.

Read next: shards.py, which does the same on the way into tar files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from ppcls_lite.data.image_list import ImageList, read_image_list, some
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError, joined
from ppcls_lite.system.files import disk_errors, whole_folder
from ppcls_lite.system.outputs import require_new

_AHEAD = 64  # images that are read and shrunk before they are written


def prepare_shrunk(list_file: str, root: str, output: str | Path, size: int, quality: int) -> None:
    """Write the images of a list below `output` as they lie below `root`, and a list like it.

    Those whose shorter edge is above `size` become JPEGs, whose names end so; all others stay byte
    by byte. Unreadable ones are left out. UserError for a list with mistakes, images that lie
    elsewhere, or a folder that holds something already.
    """
    if size < 1:
        raise UserError(f"--size is {size}; expected 1 at least")
    listed = listed_images(list_file, root, output, size, quality)
    names = [os.path.relpath(path, root) for path in listed.paths]
    if outside := [name for name in names if name.startswith(os.pardir)]:
        raise UserError(f"{list_file}: images that are not below {root}: {some(outside)}")
    target, before, after = Path(output), 0, 0
    bad: list[str] = []
    lines: list[str] = []
    with disk_errors(target), whole_folder(target) as folder:
        for name, label, path, found in zip(
            names, listed.labels, listed.paths, shrunk(listed.paths, size, quality)
        ):
            if isinstance(found, ImageError):
                bad.append(str(found))
                continue
            suffix, data = found
            place = folder / (name if name.lower().endswith(suffix) else f"{name}{suffix}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            lines.append(f"{place.relative_to(folder).as_posix()} {label}\n")
            before, after = before + os.stat(path).st_size, after + len(data)  # noqa: PTH116
        if not lines:
            raise UserError(f"{list_file}: no image can be read: {some(bad)}")
        (folder / Path(list_file).name).write_text("".join(lines), "utf-8", "surrogateescape")
    print(f"{len(lines):,} images, {before / 1e6:.1f} -> {after / 1e6:.1f} MB: {target}")
    say_left_out(bad)


def listed_images(
    list_file: str, root: str, output: str | Path, size: int, quality: int
) -> ImageList:
    """The images that are to be shrunk into the folder `output`; UserError for any mistake."""
    if size < 0 or not 1 <= quality <= 100:
        raise UserError(f"--size is {size}, --quality {quality}; expected 0 or more, and 1 to 100")
    listed = read_image_list(list_file, root)
    if listed.problems:
        raise UserError(joined([f"{list_file}: mistakes:", *listed.problems], "\n  "))
    if not len(listed.paths):
        raise UserError(f"{list_file}: has no image")
    require_new(Path(output))
    return listed


def shrunk(
    paths: Sequence[str], size: int, quality: int
) -> Iterator[tuple[str, bytes] | ImageError]:
    """Suffix and bytes of each image, shrunk if need be; or why it cannot be read."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), _AHEAD):
            part = paths[start : start + _AHEAD]
            yield from pool.map(lambda path: _image(path, size, quality), part)


def say_left_out(bad: Sequence[str]) -> None:
    """Name images that were left out because nobody can read them."""
    if bad:
        print(f"left out, {len(bad):,} unreadable images: {some(bad)}")


def _image(path: str, size: int, quality: int) -> tuple[str, bytes] | ImageError:
    try:
        data = read_file(path)
        pixels = decode_rgb(data, path)
    except ImageError as error:
        return error
    height, width = pixels.shape[:2]
    if not size or min(height, width) <= size:
        return os.path.splitext(path)[1].lower(), data  # noqa: PTH122 (a path of a list)
    factor = size / min(height, width)
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    smaller = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(smaller, cv2.COLOR_RGB2BGR), options)
    return (".jpg", encoded.tobytes()) if done else ImageError(f"{path}: cannot be encoded")
