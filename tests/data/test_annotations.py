"""Annotations beyond a class: masks and boxes from the data set to the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.data.cache import in_memory
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.data.scan import scan
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.orientation import RandFlipImage
from ppcls_lite.errors import UserError

COUNT, ROWS = 9, 4


class Scenes(ImageDataset):
    """Black images with white rectangles: image i has i % 4 of them, as boxes and as a mask."""

    batch_keys = ("image", "mask", "boxes", "classes", "count")

    def __init__(self, root: Path, ops: list[Any] | None = None) -> None:
        ops = chain() if ops is None else ops
        paths = [str(root / f"{i}.png") for i in range(COUNT)]
        super().__init__(str(root), paths, ops, class_num=2, seed=3, problems=[])
        self.fixed_rows = {"boxes": ROWS, "classes": ROWS}

    def annotate(self, index: int) -> dict[str, Any]:
        boxes = boxes_of(index)
        path = self.paths[index].replace(".png", "_mask.png")
        mask = decode_rgb(read_file(path), path)[..., 0]
        return {"mask": mask, "boxes": boxes, "classes": np.arange(len(boxes)) % 2}

    def files(self) -> list[str]:
        return [*self.paths, *(path.replace(".png", "_mask.png") for path in self.paths)]

    def gaps(self) -> list[str]:
        return ["nothing is round"]


def boxes_of(index: int) -> np.ndarray:
    corners = [(3 + 11 * i, 2 + 7 * i, 12 + 11 * i, 8 + 7 * i) for i in range(index % 4)]
    return np.array(corners, np.float32).reshape(-1, 4)  # (n, 4)


def chain() -> list[Any]:
    crop = RandCropImage(32, scale=[0.5, 1.0], interpolation="nearest")
    normalize = NormalizeImage(1 / 255, [0, 0, 0], [1, 1, 1], order="")
    return [DecodeImage(), crop, RandFlipImage(), normalize]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(COUNT):
        image, mask = np.zeros((32, 40, 3), np.uint8), np.zeros((32, 40), np.uint8)
        for x1, y1, x2, y2 in boxes_of(index).astype(int):
            image[y1:y2, x1:x2], mask[y1:y2, x1:x2] = 255, 1
        for name, picture in {f"{index}.png": image, f"{index}_mask.png": mask}.items():
            (folder / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return folder


def batches(data: ImageDataset, workers: int = 0, shared: bool = True) -> list[dict[str, Any]]:
    sampler = DistributedBatchSampler(4, shuffle=True, seed=1).bind(len(data))
    loader = Loader(data, sampler, num_workers=workers, use_shared_memory=shared)
    found = [{name: v.numpy() for name, v in batch.items()} for batch in loader.epoch(1)]
    loader.close()
    return found


def test_masks_and_boxes_of_a_batch_lie_where_the_image_shows_them(root: Path) -> None:
    seen = 0
    for batch in batches(Scenes(root)):
        assert batch["mask"].dtype == np.uint8 and batch["boxes"].dtype == np.float32
        np.testing.assert_array_equal(batch["mask"] == 1, batch["image"][:, 0] == 1)
        for mask, boxes, count in zip(batch["mask"], batch["boxes"], batch["count"]):
            drawn = np.zeros_like(mask)
            for x1, y1, x2, y2 in boxes[:count].round().astype(int):
                drawn[y1:y2, x1:x2] = 1
                seen += 1
            assert (drawn != mask).mean() < 0.06  # a box's edge may lie within a pixel
    assert seen == sum(i % 4 for i in range(COUNT))


def test_rows_are_filled_up_and_counted(root: Path) -> None:
    for batch in batches(Scenes(root)):
        assert batch["boxes"].shape[1:] == (ROWS, 4) and batch["classes"].shape[1:] == (ROWS,)
        assert batch["count"].tolist() == [i % 4 for i in batch["index"]]
        for row, count in enumerate(batch["count"]):
            assert (batch["boxes"][row, count:] == -1).all()
            assert batch["classes"][row].tolist() == [0, 1, 0][:count] + [-1] * (ROWS - count)


@pytest.mark.parametrize("workers, shared", [(2, True), (1, False)])
def test_every_way_between_processes_carries_them(root: Path, workers: int, shared: bool) -> None:
    data = Scenes(root)
    data.keep_decoded(in_memory(data.paths))
    for one, other in zip(batches(data, workers, shared), batches(Scenes(root)), strict=True):
        assert list(one) == list(other) == ["image", *Scenes.batch_keys[1:], "index"]
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_the_scan_looks_for_what_the_data_set_names(root: Path, tmp_path: Path) -> None:
    for file in root.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "4_mask.png").unlink()
    report = scan({"Train": Scenes(tmp_path)})
    assert report.errors == [
        f"Train: {tmp_path}: 1 of 18 files do not exist: {tmp_path}/4_mask.png; correct the list "
        "or image_root"
    ]
    assert report.warnings == [f"Train: {tmp_path}: nothing is round"]


def test_an_unreadable_mask_counts_as_an_unreadable_image(root: Path, tmp_path: Path) -> None:
    for file in root.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "4_mask.png").unlink()
    (tmp_path / "4_mask.png").write_bytes(b"no image")
    data = Scenes(tmp_path)
    loader = Loader(data, DistributedBatchSampler(4).bind(len(data)))
    assert all(4 not in batch["index"].numpy() for batch in loader.epoch(0))
    assert list(loader.bad_files) == [str(tmp_path / "4.png")]


def test_what_does_not_form_a_batch_is_told(root: Path) -> None:
    data = Scenes(root)
    data.fixed_rows = {"boxes": 2, "classes": 2}
    with pytest.raises(UserError, match=r"\d.png: the image has 3 boxes, .* room for 2 rows"):
        batches(data)
    data.fixed_rows = {"boxes": ROWS}
    with pytest.raises(UserError, match=r"its classes has the shape \(\d,\).*fixed_rows of Scenes"):
        batches(data)
    data.batch_keys = ("image", "depth")
    with pytest.raises(UserError, match=r"no 'depth', which batch_keys of Scenes names; it has bo"):
        batches(data)
