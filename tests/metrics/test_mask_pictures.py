"""The pictures of an evaluation of pixels: the worst images, whatever the batches and ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppcls_lite.metrics.mask_pictures import MaskPictures
from ppcls_lite.ops.masks import MASK_FILL
from ppcls_lite.ops.palettes import over
from ppcls_lite.report.pictures import LINE, RunPictures

WRONG = [0.1, 0.9, 0.3, 0.0, 0.7, 0.5]  # share of each image's pixels


def batch(numbers: list[int], edge: int = 20) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
    """Logits and a batch of images that are wrong by `WRONG`, in their upper rows."""
    truth = np.zeros((len(numbers), edge, edge), np.uint8)
    found = truth.copy()
    for place, number in enumerate(numbers):
        found[place].reshape(-1)[: round(WRONG[number] * edge * edge)] = 1
    logits = np.stack([1.0 - found, found], axis=1).astype(np.float32)
    image = np.random.default_rng(0).standard_normal((len(numbers), 3, edge, edge))
    known = {"image": image.astype(np.float32), "mask": truth, "index": np.array(numbers)}
    return paddle.to_tensor(logits), {k: paddle.to_tensor(v) for k, v in known.items()}


def collected(*batches: list[int], worst: int = 3, first: int = 1) -> MaskPictures:
    metric = MaskPictures(worst, first)
    for numbers in batches:
        metric.update(*batch(numbers))
    return metric


def test_the_worst_and_the_first_are_kept() -> None:
    metric = collected([0, 1, 2], [3, 4, 5])
    assert metric.state()["place"].tolist() == [1, 4, 5, 0] and metric.result() == {}
    assert metric.state()["wrong"].tolist() == [0.9, 0.7, 0.5, 0.1]


def test_batches_and_ranks_change_nothing() -> None:
    whole = collected([0, 1, 2, 3, 4, 5]).state()
    merged = MaskPictures(3, 1)
    merged.merge([collected([1, 3], [5]).state(), {}, collected([0, 2, 4]).state()])
    for found in (merged.state(), collected([5], [4], [3, 2], [1], [0]).state()):
        for name in ("wrong", "place", "truth", "found"):
            assert (found[name] == whole[name]).all()
    again = MaskPictures(3, 1)
    again.load_state(whole)
    assert again.state().keys() == whole.keys()


def test_the_report_shows_image_truth_answer_and_difference(tmp_path: Path) -> None:
    metric = collected([0, 1, 2, 3, 4, 5])
    path, images = metric.report(tmp_path, ["sky", "road"])
    assert images.name == "images.json" and path.name in images.read_text(encoding="utf-8")
    with Image.open(path) as file:
        picture = np.asarray(file)
    assert path.name == "worst_images.png" and picture.shape == (3 * (162 + LINE), 4 * 162, 3)
    worst = picture[:162].reshape(162, 4, 162, 3).transpose(1, 0, 2, 3)[:, 1:-1, 1:-1]
    image, truth, answer, difference = worst
    above, below = slice(0, 140), slice(150, None)  # 0.9 of the rows are wrong
    assert (difference[above] != image[above]).any(axis=2).mean() > 0.9
    assert (difference[below] == image[below]).all()
    assert (answer[below] == truth[below]).all() and (answer[above] != truth[above]).any(
        axis=2
    ).all()
    shown = metric.pictures()["predictions"]
    assert shown.shape == (162, 4 * 162, 3)
    assert MaskPictures().pictures() == {}


@pytest.mark.parametrize("size", [(20, 20), (7, 30), (400, 100)])
def test_ignored_pixels_and_answers_that_are_no_numbers(size: tuple[int, int]) -> None:
    mask = np.full((1, *size), MASK_FILL, np.uint8)
    mask[:, : size[0] // 2] = 1
    logits = np.zeros((1, 2, *size), np.float32)
    logits[:, :, 0] = np.nan
    metric = MaskPictures()
    known = {"image": paddle.zeros([1, 1, *size]), "mask": paddle.to_tensor(mask)}
    metric.update(paddle.to_tensor(logits), known)
    assert metric.state()["wrong"].tolist() == [1.0] and metric.state()["place"].tolist() == [0]
    assert metric.state()["image"].shape == (1, 160, 160, 3)


def test_what_fills_up_a_small_copy_is_not_shown(tmp_path: Path) -> None:
    metric = MaskPictures(worst=1)
    logits = paddle.to_tensor(np.eye(2, dtype=np.float32)[[1]].reshape(1, 2, 1, 1))
    known = {
        "image": np.zeros((1, 3, 10, 40), np.float32),
        "mask": np.zeros((1, 10, 40), np.uint8),
    }
    metric.update(logits.expand([1, 2, 10, 40]), {k: paddle.to_tensor(v) for k, v in known.items()})
    path, _ = metric.report(tmp_path)
    with Image.open(path) as file:
        assert file.size == (4 * 162, 40 + 2 + LINE)
    assert metric.pictures()["predictions"].shape[:2] == (42, 4 * 162)


def test_the_first_batch_shows_what_is_known(tmp_path: Path) -> None:
    def draw(image: np.ndarray, known: dict[str, np.ndarray]) -> np.ndarray:
        colours = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
        return over(image, known["mask"], colours, 1.0)

    images, masks = np.ones((2, 3, 30, 40), np.float32), np.zeros((2, 30, 40), np.uint8)
    masks[1, :, :20] = 1
    pictures = RunPictures(tmp_path, draw=draw)
    grid = pictures.first_batch({"image": images, "mask": masks})
    assert grid.shape == (32, 84, 3) and (pictures.drawn_batch() == grid).all()
    inner = grid[1:-1].reshape(30, 2, 42, 3)[:, :, 1:-1]
    assert not inner[:, 0].any() and not inner[:, 1, 20:].any()
    assert (inner[:, 1, :20] == (255, 0, 0)).all()
