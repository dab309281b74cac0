from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from ppcls_lite.errors import UserError
from ppcls_lite.report import pictures
from ppcls_lite.report.panels import panels_of
from ppcls_lite.report.pictures import read_image, write_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_grid_undoes_the_normalisation():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), np.uint8)  # (N, H, W, C)
    images = ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    grid = pictures.image_grid(images, MEAN, STD)
    assert grid.shape == (2 * (6 + 2), 3 * (4 + 2), 3) and grid.dtype == np.uint8
    np.testing.assert_array_equal(grid[1:7, 1:5], pixels[0])
    np.testing.assert_array_equal(grid[8 + 1 : 8 + 7, 6 + 1 : 6 + 5], pixels[4])
    assert (grid[8 + 1 : 8 + 7, 12 + 1 : 12 + 5] == 255).all()  # an empty place is white


def test_grid_without_statistics_limit_and_one_channel():
    images = np.linspace(-3, 5, 70 * 4).reshape(70, 1, 2, 2)
    grid = pictures.image_grid(images, limit=64)
    assert grid.shape == (8 * 4, 8 * 4, 3)
    assert pictures.image_grid(images).shape == grid.shape
    assert pictures.image_grid(np.ones((20, 3, 224, 224))).shape == (4 * 226, 4 * 226, 3)
    assert pictures.image_grid(np.ones((20, 3, 600, 600))).shape == (2 * 602, 2 * 602, 3)
    assert grid[1, 1].tolist() == [0, 0, 0] and (grid[..., 0] == grid[..., 2]).all()


def test_curves_are_drawn(tmp_path):
    values = {"top1": 0.5, "loss": 1.0}
    history = [{"epoch": e, "lr": 0.1, "train": values, "eval": values} for e in range(1, 4)]
    history[1]["eval"] = None
    pictures.curves(history, tmp_path / "curves.png")
    picture = imread(tmp_path / "curves.png")
    assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.02


def test_captions_are_below_enlarged_images(tmp_path):
    images = np.zeros((5, 3, 20, 20), np.float32)
    known = {"image": images, "label": np.arange(5)}
    drawn = pictures.RunPictures(tmp_path, caption=lambda one: f"class {one['label']}")
    grid = drawn.first_batch(known)
    assert grid.shape == (2 * (80 + pictures.LINE + 2), 3 * 82, 3)  # four times as large
    below = [grid[81 : 81 + pictures.LINE, 1 + 82 * i : 81 + 82 * i] for i in range(2)]
    assert below[0].min() < 100 and (below[0] != below[1]).any()
    assert pictures.RunPictures(tmp_path).first_batch(known).shape == (2 * 22, 3 * 22, 3)


def test_an_averaged_network_is_a_line_of_the_same_panel():
    values = [("train", "loss", 1, 2.0), ("train", "learning rate", 1, 0.1)]
    values += [("eval", "top1", 1, 0.5), ("eval", "top1_ema", 1, 0.6), ("eval", "recall", 1, 0.4)]
    values += [("train", "CELoss", 1, 2.0)]
    found = panels_of(values, "top1_ema")
    assert [panel.name for panel in found] == ["top1", "loss", "learning rate", "recall"]
    assert found[0].lines == {"eval": [(1, 0.5)], "averaged weights": [(1, 0.6)]}


def test_a_picture_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    write_image(np.full((4, 4, 3), 7, np.uint8), path)

    def full(self: Image.Image, file: IO[bytes], form: str) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"picture\.png could not be written: No space left"):
        write_image(np.zeros((4, 4, 3), np.uint8), path)
    assert (read_image(path) == 7).all() and list(tmp_path.iterdir()) == [path]
    assert read_image(tmp_path / "none.png") is None
