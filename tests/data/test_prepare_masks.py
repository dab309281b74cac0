"""`prepare masks|camvid|cityscapes`: lists for images with masks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.data.datasets_segmentation import CityscapesDataset, SegDataset
from ppcls_lite.data.image_list import read_lines
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.prepare.cli import run
from ppcls_lite.data.prepare.masks import CAMVID_NAMES
from ppcls_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path_factory.mktemp("home")))


def save(root: Path, **pictures: np.ndarray) -> None:
    for name, pixels in pictures.items():
        path = root / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def folders(root: Path, masks: list[np.ndarray], images: str = "images", to: str = "masks") -> None:
    for i, mask in enumerate(masks):
        size = mask.shape[:2]
        save(root, **{f"{images}__{i}": np.zeros((*size, 3), np.uint8), f"{to}__{i}": mask})


def values(*numbers: int) -> np.ndarray:
    return np.array([numbers] * 4, np.uint8)


def named(out: str) -> SegDataset:
    """The training set of the command that the output ends with."""
    words = shlex.split(out[out.index("ppcls-lite train") :].replace("\\\n", " "))
    assert words[:3] == ["ppcls-lite", "train", "-c"] and words[4::2] == ["-o"] * len(words[5::2])
    settings = check(load_config(ROOT / words[3], words[5::2]))
    assert settings.DataLoader.Eval.dataset.get("list_path").endswith("val_list.txt")
    data = settings.DataLoader.Train.dataset.build(class_num=settings.Arch.get("class_num"))
    assert not data.problems
    data.class_keys = read_label_file(settings.Infer.PostProcess.get("class_id_map_file"))
    assert len(data.class_keys) == settings.Arch.get("class_num")
    return data


def test_a_folder_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path, [values(0, 1, 2)] * 10)
    (tmp_path / "masks" / "3.png").unlink()
    assert run(["masks", str(tmp_path), "--val", "0.3"]) == 0
    out = capsys.readouterr().out
    assert "warning:" in out and "1 of 10 images have no mask" in out and "3.png" in out
    lines = [
        {line for _, line in read_lines(str(tmp_path / f"{split}_list.txt"))}
        for split in ("train", "val")
    ]
    assert [len(part) for part in lines] == [6, 3] and not lines[0] & lines[1]
    assert all(re.fullmatch(r"images/(\d).png masks/\1.png", line) for line in set.union(*lines))
    data = named(out)
    assert data.class_keys == ["class_0", "class_1", "class_2"] and not data.inspect().errors
    before = (tmp_path / "val_list.txt").read_bytes()
    (tmp_path / "labels.txt").write_text("sky\nroad\ncar\n", encoding="utf-8")
    run(["masks", str(tmp_path), "--val", "0.3"])
    assert (tmp_path / "val_list.txt").read_bytes() == before
    assert named(capsys.readouterr().out).class_keys == ["sky", "road", "car"]  # the names stay


def test_masks_of_0_and_255(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path, [values(0, 255)] * 3)
    run(["masks", str(tmp_path), "--output", str(tmp_path / "lists")])
    data = named(capsys.readouterr().out)
    assert data.class_keys == ["background", "foreground"]
    assert set(np.unique(data.annotate(0)["mask"])) == {0, 1} and not data.inspect().errors


def test_masks_with_gaps_and_a_value_to_ignore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path, [values(3, 9, 77)] * 3)
    run(["masks", str(tmp_path), "--ignore", "77"])
    data = named(capsys.readouterr().out)
    assert data.annotate(0)["mask"][0].tolist() == [0, 1, 255]
    assert data.class_keys == ["value_3", "value_9"] and not data.inspect().errors


def test_masks_of_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colours = np.array([[9, 9, 9], [200, 0, 7]], np.uint8)
    folders(tmp_path, [colours[values(0, 1)]] * 3)
    with pytest.raises(UserError, match=r"200 0 7 NAME"):
        run(["masks", str(tmp_path)])
    palette = tmp_path / "colours.txt"
    palette.write_text("9 9 9 ground\n200 0 7 fire\n", encoding="utf-8")
    run(["masks", str(tmp_path), "--palette", str(palette)])
    data = named(capsys.readouterr().out)
    assert data.class_keys == ["ground", "fire"] and data.annotate(0)["mask"][0].tolist() == [0, 1]


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    folders(tmp_path, [values(0, 1)])
    with pytest.raises(UserError, match="expected two or more"):
        run(["masks", str(tmp_path)])
    with pytest.raises(UserError, match="--val is 1"):
        run(["masks", str(tmp_path), "--val", "1"])
    with pytest.raises(UserError, match="there is no image folder"):
        run(["masks", str(tmp_path), "--masks", "labels"])


@pytest.mark.parametrize("layout", ["images/{} labels/{}", "{} {}annot"])
def test_camvid(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        folders(tmp_path, [values(0, 10, 11)] * 2, *layout.format(split, split).split())
    assert run(["camvid", str(tmp_path)]) == 0
    assert "train 2, val 2 images with masks" in capsys.readouterr().out
    data = SegDataset(
        *(str(tmp_path), [], str(tmp_path / "val_list.txt")),
        ignore_index=11,
        label_file=str(tmp_path / "labels.txt"),
    )
    assert data.class_keys == list(CAMVID_NAMES) and not data.inspect().errors
    with pytest.raises(UserError, match="neither images/train with labels/train nor"):
        run(["camvid", str(tmp_path / "nowhere")])


def test_cityscapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for i in range(2):
            stem = f"{split}__bonn__bonn_{i}"
            save(tmp_path, **{f"leftImg8bit__{stem}_leftImg8bit": np.zeros((4, 3, 3), np.uint8)})
            save(tmp_path, **{f"gtFine__{stem}_gtFine_labelIds": values(7, 4, 33)})
    assert run(["cityscapes", str(tmp_path)]) == 0
    assert "train 2, val 2 images with masks; 4 masks of the 19 classes were made" in (
        capsys.readouterr().out
    )
    data = CityscapesDataset(str(tmp_path), ["DecodeImage"], split="val")
    assert data.annotate(0)["mask"][0].tolist() == [0, 255, 18]
    line = read_lines(str(tmp_path / "val_list.txt"))[1][1]
    expected = "{}/val/bonn/bonn_1_{}.png"
    assert line.split() == [
        expected.format("leftImg8bit", "leftImg8bit"),
        expected.format("gtFine", "gtFine_labelTrainIds"),
    ]
    run(["cityscapes", str(tmp_path)])
    assert "0 masks of the 19 classes were made" in capsys.readouterr().out
    (tmp_path / "gtFine" / "val" / "bonn" / "bonn_1_gtFine_labelTrainIds.png").unlink()
    (tmp_path / "gtFine" / "val" / "bonn" / "bonn_1_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match="1 of 2 images have no mask"):
        run(["cityscapes", str(tmp_path)])
