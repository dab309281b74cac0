"""Segmentation data sets: from files to batches of images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.config.check import build
from ppcls_lite.data.cache import in_memory
from ppcls_lite.data.datasets_segmentation import (
    ADE20KDataset,
    CityscapesDataset,
    SegDataset,
    VOCSegDataset,
)
from ppcls_lite.data.scan import scan
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.ops.palettes import voc_colours

FIXTURE = Path(__file__).parents[1] / "fixtures" / "segmentation"
PLAIN = [{"DecodeImage": {}}]


def ops() -> list[Any]:
    return [DecodeImage()]


def write(path: Path, pixels: np.ndarray, exif: int | None = None, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(voc_colours(256).ravel().tolist())
    tags = Image.Exif()
    if exif is not None:
        tags[0x0112] = exif
    image.save(path, exif=tags)


def scene(seed: int = 0, height: int = 6, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is 60 times its mask of classes 0 to 3."""
    mask = np.random.default_rng(seed).integers(0, 4, (height, width), dtype=np.uint8)
    return (mask * 60)[..., None].repeat(3, axis=2), mask


def folders(root: Path, count: int = 3) -> None:
    for i in range(count):
        image, mask = scene(i)
        write(root / "images" / f"{i}.png", image)
        write(root / "masks" / f"{i}.png", mask)


def agrees(sample: dict[str, Any]) -> bool:
    return np.array_equal(sample["image"][0], sample["mask"].astype(int) * 60)


def test_two_folders_and_lists(tmp_path: Path) -> None:
    folders(tmp_path)
    data = SegDataset(str(tmp_path), ops(), class_num=4)
    assert len(data) == 3 and not data.problems and data.class_keys is None
    assert all(agrees(data[i]) for i in range(3))
    assert data.batch_keys == ("image", "mask") and data[0]["mask"].dtype == np.uint8

    (tmp_path / "list.txt").write_text("images/2.png;masks/2.png\n", encoding="utf-8")
    listed = SegDataset(str(tmp_path), ops(), str(tmp_path / "list.txt"), separator=";")
    assert len(listed) == 1 and agrees(listed[0])
    (tmp_path / "part.txt").write_text("0\n2.png\n", encoding="utf-8")
    part = SegDataset(str(tmp_path), ops(), split_file=str(tmp_path / "part.txt"))
    assert [Path(path).stem for path in part.paths] == ["0", "2"]
    with pytest.raises(UserError, match="not both"):
        SegDataset(str(tmp_path), ops(), "list.txt", split_file="part.txt")


def test_lists_with_missing_masks_and_half_lines(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "list.txt").write_text("images/0.png masks/9.png\nimages/1.png\n", encoding="utf-8")
    report = scan({"Train": SegDataset(str(tmp_path), ops(), str(tmp_path / "list.txt"))})
    assert "list.txt:2: expected a path, a space and a label" in report.errors[0]
    assert "1 of 2 files do not exist" in report.errors[1] and "masks/9.png" in report.errors[1]


def test_names_come_from_a_file_without_what_is_ignored(tmp_path: Path) -> None:
    folders(tmp_path)
    names = tmp_path / "labels.txt"
    names.write_text("0 sky\n1 road\n2 car\n3 unlabelled\n", encoding="utf-8")
    data = SegDataset(str(tmp_path), ops(), ignore_index=3, label_file=str(names))
    assert data.class_num == 3 and data.class_keys == ["sky", "road", "car"]
    assert (data[0]["mask"] == 255).sum() == (scene(0)[1] == 3).sum() > 0
    few = SegDataset(str(tmp_path), ops(), label_file=str(names), class_num=5)
    assert "4 classes have names, but Arch.class_num is 5" in few.problems[0]


def test_a_recipe_builds_them(tmp_path: Path) -> None:
    folders(tmp_path)
    arguments = {"image_root": str(tmp_path), "transform_ops": PLAIN}
    arguments |= {"label_map": {3: 0, 1: 1, "other": 255}, "ignore_index": [7, 8]}
    data = build({"SegDataset": arguments}, "dataset", class_num=2)
    assert data.class_num == 2 and set(np.unique(data[0]["mask"])) == {0, 1, 255}


def test_masks_of_colours_and_of_a_palette(tmp_path: Path) -> None:
    for i in range(2):
        image, mask = scene(i)
        write(tmp_path / "images" / f"{i}.png", image)
        write(tmp_path / "masks" / f"{i}.png", mask, palette=True)
        write(tmp_path / "colours" / f"{i}.png", voc_colours(4)[mask])
    assert all(agrees(SegDataset(str(tmp_path), ops(), class_num=4)[i]) for i in range(2))
    coloured = SegDataset(str(tmp_path), ops(), mask_dir="colours", palette="voc")
    assert coloured.class_num == 21 and all(agrees(coloured[i]) for i in range(2))
    with pytest.raises(UserError, match=r"0.png: the mask has colours"):
        SegDataset(str(tmp_path), ops(), mask_dir="colours")[0]


@pytest.mark.parametrize("value", range(1, 9))
def test_a_mask_turns_with_its_image(value: int, tmp_path: Path) -> None:
    image, mask = scene(height=6, width=10)
    write(tmp_path / "images" / "a.png", image, exif=value)
    write(tmp_path / "masks" / "a.png", mask)
    data = SegDataset(str(tmp_path), ops(), class_num=4)
    assert agrees(data[0])
    data.keep_decoded(in_memory(data.paths))
    assert agrees(data[0]) and agrees(data[0])


@pytest.mark.parametrize("value", [3, 6])
def test_a_mask_that_is_upright_stays(value: int, tmp_path: Path) -> None:
    image, mask = scene(height=6, width=10)
    upright = {3: mask[::-1, ::-1], 6: np.rot90(mask, -1)}[value]
    write(tmp_path / "images" / "a.png", image, exif=value)
    write(tmp_path / "masks" / "a.png", np.ascontiguousarray(upright))
    assert agrees(SegDataset(str(tmp_path), ops(), mask_pixels="upright")[0])
    if value == 6:  # the sizes say it
        assert agrees(SegDataset(str(tmp_path), ops())[0])
    write(tmp_path / "masks" / "a.png", mask, exif=value)  # a mask that says it itself
    assert agrees(SegDataset(str(tmp_path), ops())[0])


def test_a_mask_of_another_size_is_an_unreadable_image(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", scene()[0])
    write(tmp_path / "masks" / "a.png", scene(height=6, width=9)[1])
    with pytest.raises(ImageError, match=r"a.png: the image has 10x6 pixels, its mask 9x6"):
        SegDataset(str(tmp_path), ops())[0]


def test_a_wrong_value_names_file_and_pixels(tmp_path: Path) -> None:
    folders(tmp_path, 1)
    with pytest.raises(UserError, match=r"masks/0.png: has the value 3 \(\d+ pixels\).*0 to 2"):
        SegDataset(str(tmp_path), ops(), class_num=3)[0]


def cityscapes(root: Path, kind: str) -> None:
    for i, city in enumerate(("aachen", "bonn")):
        mask = np.array([[7, 11, 33], [0, 26, 4]], np.uint8)
        if kind == "TrainIds":
            mask = np.array([[0, 2, 18], [255, 13, 255]], np.uint8)
        stem = f"train/{city}/{city}_00000{i}"
        write(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", np.zeros((2, 3, 3), np.uint8))
        write(root / "gtFine" / f"{stem}_gtFine_label{kind}.png", mask)
        write(root / "gtFine" / f"{stem}_gtFine_color.png", np.zeros((2, 3, 3), np.uint8))


def test_cityscapes(tmp_path: Path) -> None:
    expected = [[0, 2, 18], [255, 13, 255]]
    cityscapes(tmp_path / "one", "TrainIds")
    cityscapes(tmp_path / "other", "Ids")
    data = CityscapesDataset(str(tmp_path / "one"), ops())
    assert len(data) == 2 and not data.problems and data[1]["mask"].tolist() == expected
    assert data.class_num == 19 and data.class_keys[::9] == ["road", "terrain", "bicycle"]
    ids = CityscapesDataset(str(tmp_path / "other"), ops(), labels="labelIds")
    assert len(ids) == 2 and ids[0]["mask"].tolist() == expected
    lacking = CityscapesDataset(str(tmp_path / "other"), ops())
    assert "prepare cityscapes" in lacking.problems[-1]
    with pytest.raises(UserError, match=r"Cityscapes has 19 classes, but Arch.class_num is 20"):
        CityscapesDataset(str(tmp_path / "one"), ops(), class_num=20)


def test_voc(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "JPEGImages" / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
    mask = np.array([[0, 20], [255, 1]], np.uint8)
    for folder, name in {"SegmentationClass": "a", "SegmentationClassAug": "b"}.items():
        write(tmp_path / folder / f"{name}.png", mask, palette=True)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n", encoding="utf-8")
    (lists / "aug.txt").write_text("b\n", encoding="utf-8")
    (lists / "val.txt").write_text("c\n", encoding="utf-8")
    train = VOCSegDataset(str(tmp_path), ops())
    assert train[0]["mask"].tolist() == mask.tolist() and train.class_keys[20] == "tvmonitor"
    both = VOCSegDataset(str(tmp_path), ops(), split="trainaug")
    assert len(both) == 2 and not both.problems and both[1]["mask"].tolist() == mask.tolist()
    val = VOCSegDataset(str(tmp_path), ops(), split="val")
    assert "1 of 1 images have no mask" in val.problems[0]


def test_ade20k(tmp_path: Path) -> None:
    write(tmp_path / "images" / "validation" / "a.jpg", np.zeros((2, 2, 3), np.uint8))
    mask = np.array([[0, 1], [150, 2]], np.uint8)
    write(tmp_path / "annotations" / "validation" / "a.png", mask)
    data = ADE20KDataset(str(tmp_path), ops(), split="val")
    assert data[0]["mask"].tolist() == [[255, 0], [149, 1]] and data.class_num == 150


def test_a_resume_notices_other_masks(tmp_path: Path) -> None:
    folders(tmp_path)
    first = SegDataset(str(tmp_path), ops(), class_num=4).digests()
    assert SegDataset(str(tmp_path), ops(), class_num=4).digests() == first
    other = SegDataset(str(tmp_path), ops(), label_map={3: 0}, class_num=4).digests()
    changed = [key for key in first if first[key] != other[key]]
    assert changed == ["classes in masks"]
    (tmp_path / "masks" / "2.png").rename(tmp_path / "masks" / "2.bmp")
    renamed = SegDataset(str(tmp_path), ops(), class_num=4).digests()
    assert [key for key in first if first[key] != renamed[key]] == ["masks"]


def test_reading_and_normalising_equals_paddleseg(real_data: Path) -> None:
    """The values of the reference's pre-processing, and padding, which is 0 after normalising.

    The golden values are of a PNG, the image at hand is a JPEG of it.
    """
    golden = np.load(FIXTURE / "preprocess.npz")
    normalize = NormalizeImage(1 / 255, [0.5] * 3, [0.5] * 3, order="")
    root = real_data / "camvid"
    rules = {"list_path": str(root / "val_list.txt"), "ignore_index": 11}
    data = SegDataset(str(root), [DecodeImage(), normalize], **rules)
    index = next(i for i, path in enumerate(data.paths) if "0016E5_07959" in path)
    sample = data[index]
    apart = np.abs(sample["image"][:, ::40, ::40] - golden["seg_norm_sub"])
    assert apart.max() < 0.2 and apart.mean() < 0.02
    np.testing.assert_allclose(sample["image"].mean((1, 2)), golden["seg_norm_mean"], atol=5e-3)
    assert set(np.unique(sample["mask"])) <= {*range(11), 255}

    pad = {"Padv2": {"size": [512, 384], "fill_value": 0}}
    chain = [DecodeImage(), normalize, build(pad, "transform")]
    padded = SegDataset(str(root), chain, **rules)[index]
    assert list(padded["image"].shape) == golden["seg_pad_shape"].tolist()
    np.testing.assert_array_equal(padded["image"][:, -2:, -2:], golden["seg_pad_corner"])
    assert (padded["mask"][360:] == 255).all()
