"""The look into the masks before a training: each mistake that users report, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.data import kept_files, mask_census
from ppcls_lite.data.datasets_segmentation import SegDataset
from ppcls_lite.data.findings import Findings
from ppcls_lite.data.mask_census import pixels_of
from ppcls_lite.data.mask_shares import class_weights
from ppcls_lite.data.scan import scan
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.ops.palettes import voc_colours

WIDTH, HEIGHT = 12, 8


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PPCLS_LITE_HOME", str(folder))
    return folder


def mask_of(*rows: int) -> np.ndarray:
    """A mask whose rows have these values in turn."""
    values = np.array([rows[i % len(rows)] for i in range(HEIGHT)], np.uint8)
    return values[:, None].repeat(WIDTH, axis=1)


def save(pixels: np.ndarray, path: Path, exif: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    if exif:
        tags[0x0112] = exif
    Image.fromarray(pixels).save(path, exif=tags)


def data(root: Path, masks: list[np.ndarray], suffix: str = "png", **rules: Any) -> SegDataset:
    for i, mask in enumerate(masks):
        save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), root / "images" / f"{i}.png")
        save(mask, root / "masks" / f"{i}.{suffix}")
    return SegDataset(str(root), [DecodeImage()], **rules)


def found(*args: Any, **rules: Any) -> Findings:
    return data(*args, **rules).inspect()


def test_good_masks_are_described(tmp_path: Path) -> None:
    names = tmp_path / "labels.txt"
    names.write_text("ground\ncar\n", encoding="utf-8")
    masks = [mask_of(0, 1), mask_of(0), mask_of(0, 1, 255, 0)]
    good = found(tmp_path, masks, label_file=str(names))
    assert good.errors == [] and good.warnings == []
    first, _, ground, car, weights = good.facts
    assert first == ("the 3 masks (.png): values 0, 1, 255; 8.3% of the pixels count nowhere (255)")
    assert ground.split() == ["0", "ground", "72.73%", "3"]
    assert car.split() == ["1", "car", "27.27%", "2"]
    assert weights == "class weights that even out the pixels: [0.69, 1.83]"


def test_masks_of_0_and_255_of_which_nothing_remains(tmp_path: Path) -> None:
    """A loss of 0 from the first step: 255 is ignored, so that class 1 has no pixel."""
    masks = [mask_of(0, 255), mask_of(0, 255, 255)]
    (error,) = found(tmp_path, masks, class_num=2).errors
    assert "the masks hold 0 and 255, and 255 is ignored" in error
    assert "label_map: {255: 1}" in error
    said = found(tmp_path, masks, class_num=2, label_map={255: 1})
    assert said.errors == [] and said.facts[3].split()[:2] == ["1", "56.25%"]


def test_masks_of_0_and_another_value(tmp_path: Path) -> None:
    (error,) = found(tmp_path, [mask_of(0, 128)], class_num=2).errors
    assert "masks/0.png: has the value 128 (48 pixels)" in error
    assert "All masks hold 0 and 128 alone: `label_map: {128: 1}`" in error


def test_a_wrong_class_count_names_file_value_and_pixels(tmp_path: Path) -> None:
    """Labels "out of upper bound": before anything is computed, and how many files."""
    masks = [mask_of(0, 1), mask_of(1, 254), mask_of(0, 160, 254, 254)]
    (error,) = found(tmp_path, masks, class_num=2).errors
    assert "masks/2.png: has the values 160 (24 pixels), 254 (48 pixels)" in error
    assert "1 other masks have wrong values, all together 160, 254" in error
    assert "numbered in their order" not in error and "label_map" in error
    (one,) = found(tmp_path, masks[:1], class_num=1).errors[:1]
    assert "the classes are 0 to 0" in one


def test_labels_that_count_from_1(tmp_path: Path) -> None:
    (error,) = found(tmp_path, [mask_of(1, 2, 3)], class_num=3).errors
    assert "No mask has the value 0" in error and "`label_map: {3: 0}`" in error


def test_one_class_more_than_the_recipe_says(tmp_path: Path) -> None:
    (error,) = found(tmp_path, [mask_of(0, 1, 2)], class_num=2).errors
    assert "set ignore_index: 2; if it is a class, Arch.class_num is 3" in error


def test_gaps_between_the_values(tmp_path: Path) -> None:
    (error,) = found(tmp_path, [mask_of(0, 7, 19, 255)], class_num=3).errors
    assert "`label_map: {0: 0, 7: 1, 19: 2}`" in error


def test_pictures_of_colours_are_recognised(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142]], np.uint8)
    (error,) = found(tmp_path, [colours[mask_of(0, 1, 1, 2)]], class_num=3).errors
    assert "1 of 1 masks are pictures of colours" in error and "masks/0.png" in error
    assert "128 64 128 NAME  (50.0%)" in error and "0 0 142 NAME" in error
    (known,) = found(tmp_path / "voc", [voc_colours(3)[mask_of(0, 1, 2)]], class_num=3).errors
    assert "the colours are PASCAL VOC's: set palette: voc" in known
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH * 3, 3), dtype=np.uint8)
    many = found(tmp_path / "many", [noise[:, :WIDTH], noise[:, WIDTH:][:, :WIDTH]]).errors[0]
    assert "more than 100 colours" in many


def test_colours_with_a_palette_count(tmp_path: Path) -> None:
    said = found(tmp_path, [voc_colours(3)[mask_of(0, 1)]], palette="voc", class_num=2)
    assert said.errors == [] and "values 0, 1;" in said.facts[0]
    wrong = found(tmp_path, [np.full((HEIGHT, WIDTH, 3), 7, np.uint8)], palette="voc").errors
    assert "1 masks cannot be read" in wrong[0] and "[7, 7, 7]" in wrong[0]


def test_masks_of_another_size(tmp_path: Path) -> None:
    small = mask_of(0, 1)[: HEIGHT - 2]
    (error,) = found(tmp_path, [mask_of(0, 1), small], class_num=2).errors
    assert "1 masks have another size than their image" in error
    assert "masks/1.png (12x6, its image 12x8)" in error


def test_jpeg_masks(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8)
    said = found(tmp_path, [rough * 200], suffix="jpg", class_num=2)
    assert "Masks are JPEG files" in said.errors[0]
    assert "1 masks are JPEG files" in said.warnings[0]


def test_unreadable_masks(tmp_path: Path) -> None:
    broken = data(tmp_path, [mask_of(0, 1), mask_of(0, 1)], class_num=2)
    (tmp_path / "masks" / "1.png").write_bytes(b"no image")
    (error,) = broken.inspect().errors
    assert "1 masks cannot be read:" in error and "masks/1.png: not an image" in error


def test_classes_without_a_pixel_rare_ones_and_much_that_counts_nowhere(tmp_path: Path) -> None:
    one = mask_of(0)
    wide = np.zeros((80, 40), np.uint8)
    wide[0, 0] = 1
    save(np.zeros((80, 40, 3), np.uint8), tmp_path / "images" / "9.png")
    save(wide, tmp_path / "masks" / "9.png")
    warnings = found(tmp_path, [one], class_num=3).warnings
    assert "1 of 3 classes have no pixel in the 2 masks: 2" in warnings[0]
    assert "less than 0.1% of the pixels: 1 0.030%" in warnings[1]
    assert "100.0% of the pixels are of class 0" in warnings[2]
    void = found(tmp_path / "void", [mask_of(0, 255, 255, 1), mask_of(255)], class_num=2)
    assert any("in 1 masks every pixel counts nowhere" in w for w in void.warnings)
    assert any("75.0% of all pixels count nowhere" in w for w in void.warnings)


def test_only_one_class_remains(tmp_path: Path) -> None:
    (error,) = found(tmp_path, [mask_of(0, 3)], class_num=2, ignore_index=3).errors
    assert "all pixels are of class 0 or count nowhere (50.0%)" in error


@pytest.mark.parametrize("value", [3, 6])
def test_turned_images(value: int, tmp_path: Path) -> None:
    square = np.zeros((8, 8), np.uint8)
    square[:4] = 1
    for name, exif in {"a": value, "b": None}.items():
        save(np.zeros((8, 8, 3), np.uint8), tmp_path / "images" / f"{name}.jpg", exif)
        save(square, tmp_path / "masks" / f"{name}.png")
    (warning,) = SegDataset(str(tmp_path), [DecodeImage()], class_num=2).inspect().warnings
    assert "1 images are turned by their EXIF orientation" in warning and "a.png" in warning
    quiet = SegDataset(str(tmp_path), [DecodeImage()], class_num=2, mask_pixels="stored")
    assert quiet.inspect().warnings == []


def test_a_mask_that_lies_the_other_way_than_is_said(tmp_path: Path) -> None:
    save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "images" / "a.jpg", 6)
    save(mask_of(0, 1), tmp_path / "masks" / "a.png")
    assert SegDataset(str(tmp_path), [DecodeImage()]).inspect().errors == []
    upright = SegDataset(str(tmp_path), [DecodeImage()], mask_pixels="upright")
    assert "(12x8, its image 8x12)" in upright.inspect().errors[0]


def test_all_mistakes_are_in_one_report_of_bounded_length(tmp_path: Path) -> None:
    masks = [mask_of(0, 1, 9), mask_of(0, 1)[:4], voc_colours(2)[mask_of(0, 1)]]
    masks += [mask_of(*np.random.default_rng(i).integers(0, 256, 8)) for i in range(30)]
    bad = data(tmp_path, masks, class_num=2)
    (tmp_path / "images" / "lonely.png").write_bytes(b"")
    (tmp_path / "masks" / "alone.png").write_bytes(b"")
    bad = SegDataset(str(tmp_path), [DecodeImage()], class_num=2)
    report = scan({"Train": bad})
    text = "\n".join([*report.errors, *report.warnings])
    for part in (
        "no mask in",
        "have no image in",
        "pictures of colours",
        "another size",
        "has the",
    ):
        assert part in text
    assert all(line.startswith("Train: ") for line in text.splitlines())
    assert len(text) < 6000


def test_what_was_found_is_kept_until_a_file_changes(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_census, "_WORTH", 0)
    masks = data(tmp_path, [mask_of(0, 1), mask_of(0, 1)], class_num=2)
    first = masks.inspect()
    (kept,) = (home / "masks").glob("*.npz")
    monkeypatch.setattr(mask_census, "read_mask", None)  # whoever reads a mask fails
    assert masks.inspect() == first
    monkeypatch.undo()
    monkeypatch.setenv("PPCLS_LITE_HOME", str(home))
    monkeypatch.setattr(mask_census, "_WORTH", 0)
    save(mask_of(0, 1, 1, 9), tmp_path / "masks" / "1.png")
    assert "masks/1.png: has the value 9" in masks.inspect().errors[0]
    kept.write_bytes(b"damaged")
    save(mask_of(0, 1), tmp_path / "masks" / "1.png")
    assert masks.inspect().errors == []
    monkeypatch.setattr(kept_files, "KEPT", 1)
    save(mask_of(1, 0), tmp_path / "masks" / "1.png")
    masks.inspect()
    assert len([*(home / "masks").glob("*.npz")]) == 1


def test_a_start_looks_at_a_sample_and_check_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppcls_lite.data.datasets_segmentation.AT_START", 2)
    masks = data(
        tmp_path, [mask_of(0, 1), mask_of(0, 9), mask_of(0, 1), mask_of(0, 1)], class_num=2
    )
    quick = masks.inspect()
    assert quick.errors == []
    assert quick.facts[0].startswith("the 2 of 4 masks that were looked at")
    assert "masks/1.png: has the value 9" in masks.inspect(thorough=True).errors[0]


def test_counts_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_of(numbers), np.bincount(numbers.ravel(), minlength=256))
    monkeypatch.setattr(mask_census, "_FLOAT_COUNTS", 100)  # beyond what float32 counts
    np.testing.assert_array_equal(pixels_of(numbers), np.bincount(numbers.ravel(), minlength=256))


def test_weights_even_out_the_pixels() -> None:
    assert class_weights(np.array([100, 10, 0, 1])) == [0.1, 1.0, 1.0, 10.0]
    assert class_weights(np.zeros(2, np.int64)) == [1.0, 1.0]
