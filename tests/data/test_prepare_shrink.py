"""`prepare shrink`: a list's images, no larger than training needs, and a list of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.prepare.cli import run
from ppcls_lite.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures whose shorter edge is 80, 80 and 30 pixels, and a broken one."""
    folder = tmp_path / "photos"
    (folder / "a b").mkdir(parents=True)
    for name, size in {"a b/x.JPG": (80, 120), "y.png": (200, 80), "a b/z.png": (30, 90)}.items():
        level = np.linspace(0, 255, size[0])[:, None, None]
        cv2.imwrite(str(folder / name), np.broadcast_to(level, (*size, 3)).astype(np.uint8))
    (folder / "broken.jpg").write_bytes(b"nothing")
    lines = ["a b/x.JPG 3", "broken.jpg 1", "y.png 0", "a b/z.png 7"]
    (folder / "train_list.txt").write_text("\n".join(lines))
    return folder


def shrink(source: Path, *more: str) -> Path:
    target = source.parent / "small"
    options = ["--images", str(source), "--output", str(target), "--size", "40", *more]
    assert run(["shrink", str(source / "train_list.txt"), *options]) == 0
    return target


def test_large_images_become_jpegs_and_others_stay(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = shrink(source)
    listed = read_image_list(str(target / "train_list.txt"), str(target))
    names = [str(Path(path).relative_to(target)) for path in listed.paths]
    assert names == ["a b/x.JPG", "y.png.jpg", "a b/z.png"]
    assert list(listed.labels) == [3, 0, 7] and not listed.problems
    images = [cv2.imread(path) for path in listed.paths]
    assert [image.shape for image in images] == [(40, 60, 3), (100, 40, 3), (30, 90, 3)]
    assert (target / "a b/z.png").read_bytes() == (source / "a b/z.png").read_bytes()
    whole = cv2.imread(str(source / "y.png"))
    assert np.abs(images[1][::10].astype(int) - whole[::20, ::2]).max() < 8
    printed = capsys.readouterr().out
    assert "3 images, " in printed and "left out, 1 unreadable images: " in printed


def test_quality_is_that_of_the_files(source: Path) -> None:
    best = shrink(source, "--quality", "100").rename(source.parent / "best")
    small = shrink(source, "--quality", "10")
    assert (small / "y.png.jpg").stat().st_size < (best / "y.png.jpg").stat().st_size


def test_mistakes_are_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, says in ((("--size", "0"), "--size is 0"), (("--quality", "0"), "--quality 0")):
        with pytest.raises(UserError, match=says):
            shrink(source, *more)
    with pytest.raises(UserError, match=r"images that are not below .*a b: .*y\.png"):
        options = ["--images", str(source / "a b"), "--output", str(source.parent / "other")]
        (source / "outside.txt").write_text("../y.png 1\n")
        run(["shrink", str(source / "outside.txt"), *options])
    small = shrink(source)
    with pytest.raises(SystemExit):
        shrink(source)
    assert "small: is not empty; give a new folder" in capsys.readouterr().err
    (source / "train_list.txt").write_text("broken.jpg 1\n")
    small.rename(source.parent / "before")
    with pytest.raises(UserError, match="no image can be read"):
        shrink(source)
    assert not (source.parent / "small").exists()
