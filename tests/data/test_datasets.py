"""Data sets on list files and on folders, and image lists themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data.datasets import (
    CustomLabelDataset,
    ImageNetDataset,
    MultiLabelDataset,
    MultiScaleDataset,
)
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.data.image_list import PathList, read_image_list
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.orientation import RandFlipImage
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.errors import ImageError, UserError


def write_image(path: Path, value: int = 128, shape=(20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*shape, 3), value, np.uint8)
    image[: shape[0] // 2, : shape[1] // 2] = 255 - value
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def make_list(root: Path, lines: list[str], name: str = "list.txt", **options) -> str:
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8", **options)
    return str(root / name)


def chain():
    mean, std = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
    normalize = NormalizeImage(1 / 255, mean, std, order="")
    return [DecodeImage(), RandCropImage(16), RandFlipImage(1), normalize]


@pytest.mark.parametrize(
    "text, delimiter, paths, labels",
    [
        ("a.jpg 0\nb.jpg 12\n", None, ["a.jpg", "b.jpg"], [0, 12]),
        ("my cat 1.jpg 3\n", " ", ["my cat 1.jpg"], [3]),
        ("my cat 1.jpg\t3\r\n\r\nb.jpg  4\r\n", None, ["my cat 1.jpg", "b.jpg"], [3, 4]),
        ("a,b.jpg,7\n", ",", ["a,b.jpg"], [7]),
        ("a b.jpg\t7", "\\t", ["a b.jpg"], [7]),
        ("\ufeff猫/图 片.jpg 1\nкот.png 2\n", None, ["猫/图 片.jpg", "кот.png"], [1, 2]),
        ("a\u2028b.jpg 1\n", None, ["a\u2028b.jpg"], [1]),
        ("a.jpg||5", "||", ["a.jpg"], [5]),
    ],
)
def test_read_image_list(tmp_path, text, delimiter, paths, labels):
    (tmp_path / "list.txt").write_bytes(text.encode("utf-8"))
    listed = read_image_list(str(tmp_path / "list.txt"), str(tmp_path), delimiter)
    assert list(listed.paths) == [str(tmp_path / p) for p in paths]
    assert list(listed.labels) == labels
    assert listed.problems == []


def test_absolute_paths_stay(tmp_path):
    file = make_list(tmp_path, ["/data/x.jpg 1", "y.jpg 2"])
    root = f"{tmp_path}/./"
    assert list(read_image_list(file, root).paths) == ["/data/x.jpg", f"{tmp_path}/y.jpg"]


def test_malformed_lines_are_all_reported_with_their_place(tmp_path):
    lines = ["a.jpg 0", "", "lonely.jpg", "b.jpg cat", " 3", "c.jpg 1"]
    file = make_list(tmp_path, lines)
    listed = read_image_list(file, str(tmp_path))
    assert len(listed.paths) == 2 and list(listed.lines) == [1, 6]
    assert listed.problems[0].startswith(f"{file}:3: expected a path, a space and a label")
    assert listed.problems[1].startswith(f"{file}:4: expected a whole number as the label")
    assert listed.problems[2].startswith(f"{file}:5: expected a path")


def test_many_malformed_lines_are_counted(tmp_path):
    listed = read_image_list(make_list(tmp_path, ["x"] * 30), str(tmp_path))
    assert len(listed.problems) == 6 and "25 more malformed lines" in listed.problems[-1]


def test_empty_missing_and_foreign_lists(tmp_path):
    file = make_list(tmp_path, [""])
    assert "is empty" in read_image_list(file, str(tmp_path)).problems[0]
    with pytest.raises(UserError, match=r"no file .*nowhere.txt.*looked for /.*ppcls-lite prepare"):
        read_image_list("nowhere.txt", str(tmp_path))
    with pytest.raises(UserError, match=r"ImageNet-1k .*image-net.org.*prepare imagenet"):
        read_image_list("./dataset/ILSVRC2012/train_list.txt", "./dataset/ILSVRC2012/")
    with pytest.raises(UserError, match=r"no image folder .*looked for /.*gone"):
        read_image_list(file, str(tmp_path / "gone"))
    (tmp_path / "latin.txt").write_bytes("a.jpg 1\ncafé.jpg 2\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt:2: not UTF-8"):
        read_image_list(str(tmp_path / "latin.txt"), str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_list_that_windows_calls_unicode(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("a.jpg 1\nb.jpg 2\n".encode(encoding))
    with pytest.raises(UserError, match=r"list.txt: expected UTF-8 text, found UTF-16"):
        read_image_list(str(tmp_path / "list.txt"), str(tmp_path))
    with pytest.raises(UserError, match=r"list.txt: expected UTF-8 text, found UTF-16"):
        read_label_file(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        ('"a b.jpg" 1', None),
        ('"a.jpg",1', ","),
        ('"a.jpg","1"', ","),
        ("a.jpg,1", None),
        ("a.jpg, 1", None),
        ("a.jpg;1", None),
    ],
)
def test_a_csv_file_is_told_from_a_list(tmp_path, line, delimiter):
    listed = read_image_list(make_list(tmp_path, ["b.jpg 1", line]), str(tmp_path), delimiter)
    assert len(listed.problems[-1:]) == 1
    assert ":2: expected a path" in listed.problems[-1] and "no CSV file" in listed.problems[-1]


def test_path_list():
    paths = PathList(["a.jpg", "b/猫.jpg", "", "/c"], "./root/")
    assert list(paths) == ["root/a.jpg", "root/b/猫.jpg", "root/", "/c"]
    assert paths[-1] == "/c" and paths[1:3] == ["root/b/猫.jpg", "root/"] and len(paths) == 4
    with pytest.raises(IndexError):
        paths[4]


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        write_image(tmp_path / "images" / f"图 {i}.png", 40 * i)
    return make_list(tmp_path, [f"images/图 {i}.png {i % 3}" for i in range(6)])


def test_imagenet_dataset(photos, tmp_path):
    data = ImageNetDataset(str(tmp_path), photos, chain(), class_num=3, seed=5)
    sample = data[4]
    assert len(data) == 6 and data.problems == []
    assert sample["image"].shape == (3, 16, 16) and sample["image"].dtype == np.float32
    assert sample["label"] == 1 and list(data.labels) == [0, 1, 2, 0, 1, 2]


def test_augmentation_depends_on_seed_epoch_and_index_only(photos, tmp_path):
    def image(seed, epoch, index, size=None):
        data = ImageNetDataset(str(tmp_path), photos, chain(), seed=seed)
        return data[SampleKey(index, epoch, size)]["image"]

    assert np.array_equal(image(1, 2, 3), image(1, 2, 3))
    assert not np.array_equal(image(1, 2, 3), image(1, 3, 3))
    assert not np.array_equal(image(1, 2, 3), image(2, 2, 3))


def test_split_tail_gives_the_same_images_later(photos, tmp_path):
    data = ImageNetDataset(str(tmp_path), photos, chain(), seed=5)
    head, normalizer = data.split_tail()
    raw = head[SampleKey(2, 1)]["image"]
    assert raw.shape == (16, 16, 3) and raw.dtype == np.uint8
    finished = data[SampleKey(2, 1)]["image"]  # the original is unchanged
    assert np.array_equal(normalizer.normalize_batch(raw[None])[0], finished)


def test_labels_outside_the_classes_name_the_key_to_change(photos, tmp_path):
    (problem,) = ImageNetDataset(str(tmp_path), photos, chain(), class_num=2).problems
    assert "2 labels outside 0..1" in problem and "(line 3)" in problem
    assert "Arch.class_num is 2: set it to 3" in problem
    file = make_list(tmp_path, ["a.png -1", "b.png 4"])
    (problem,) = ImageNetDataset(str(tmp_path), file, chain(), class_num=4).problems
    assert "2 labels" in problem and "relabel: True" in problem


def test_relabel(tmp_path):
    file = make_list(tmp_path, ["a.png 70", "b.png 5", "c.png 70", "d.png 12"])
    data = ImageNetDataset(str(tmp_path), file, chain(), relabel=True, class_num=3)
    assert list(data.labels) == [2, 0, 2, 1] and data.problems == [] and data.class_num == 3


def test_a_bad_image_is_an_image_error(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image at all")
    data = ImageNetDataset(str(tmp_path), make_list(tmp_path, ["bad.jpg 0", "gone.jpg 0"]), chain())
    for index in (0, 1):
        with pytest.raises(ImageError):
            data[index]
    with pytest.raises(IndexError):
        data[2]


def test_multi_scale_dataset(photos, tmp_path):
    data = MultiScaleDataset(str(tmp_path), photos, chain(), class_num=3)
    assert data[SampleKey(0, 0, (24, 32))]["image"].shape == (3, 24, 32)
    assert data[SampleKey(0, 0, (8, 8))]["image"].shape == (3, 8, 8)
    assert data[0]["image"].shape == (3, 16, 16)
    with pytest.raises(UserError, match="add RandCropImage"):
        MultiScaleDataset(str(tmp_path), photos, [DecodeImage()])


def test_multi_label_dataset(tmp_path):
    write_image(tmp_path / "a b.png")
    file = make_list(tmp_path, ["a b.png\t0,1,1", "a b.png\t0,0,1", "a b.png\t1,0,-1"])
    data = MultiLabelDataset(str(tmp_path), file, chain(), class_num=3)
    assert data.problems == [] and data.label_ratio is None
    assert data[0]["label"].tolist() == [0, 1, 1] and data[0]["label"].dtype == np.float32
    data = MultiLabelDataset(str(tmp_path), file, chain(), label_ratio=True)
    assert data.class_num == 3
    third = np.float32(1 / 3)
    assert data.label_ratio.tolist() == [third, third, 1]  # -1 is unknown and does not count
    assert data[1]["label"].tolist() == [[0, 0, 1], [third, third, 1]]


def test_multi_label_mistakes(tmp_path):
    file = make_list(tmp_path, ["a.png\t0,1", "b.png\t0,1,1", "c.png\t0,2", "d.png 0,1"])
    problems = MultiLabelDataset(str(tmp_path), file, chain(), class_num=2).problems
    assert any(":2: expected 2 attributes as in Arch.class_num, found 3" in p for p in problems)
    assert any(":3: expected 1, 0 or -1" in p for p in problems)
    assert any(":4: expected a path, '\\t' and a label" in p for p in problems)


class Turn:
    """Stands for RandomRot90: the transform makes the label."""

    def __call__(self, sample, rng):
        turns = int(rng.integers(4))
        return sample | {"image": np.rot90(sample["image"], turns).copy(), "turned": turns}


def test_custom_label_dataset(photos, tmp_path):
    file = make_list(tmp_path, [f"images/图 {i}.png" for i in range(6)], "paths.txt")
    ops = [DecodeImage(), ResizeImage(16), Turn()]
    data = CustomLabelDataset(str(tmp_path), file, ops, label_key="turned", class_num=4)
    labels = [data[SampleKey(i, e)]["label"] for i in range(6) for e in range(4)]
    assert set(labels) == {0, 1, 2, 3} and data.batch_keys == ("image", "label")
    plain = CustomLabelDataset(str(tmp_path), file, ops)
    assert plain.batch_keys == ("image",) and "label" not in plain[0]
    with pytest.raises(UserError, match="label_key: 'angle'"):
        CustomLabelDataset(str(tmp_path), file, ops, label_key="angle")[0]


@pytest.fixture
def folders(tmp_path):
    for name in ("dog", "cat", "狐狸"):
        for i in range(3):
            write_image(tmp_path / "pets" / name / f"{i}.PNG", 80 * i)
    write_image(tmp_path / "pets" / "dog" / "deeper" / "9.png")
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("x")
    (tmp_path / "pets" / "dog" / "._0.png").write_text("left by macOS")
    return tmp_path / "pets"


def test_folder_dataset(folders):
    data = FolderDataset(str(folders), chain())
    assert data.class_names == ["cat", "dog", "狐狸"] and data.class_num == 3
    assert np.bincount(data.labels).tolist() == [3, 4, 3] and data.problems == []
    assert data[0]["image"].shape == (3, 16, 16)
    assert data.paths[0] == str(folders / "cat" / "0.PNG")


def test_folder_dataset_label_and_split_files(folders, tmp_path):
    labels = make_list(tmp_path, ["0 狐狸", "1 dog", "2 cat", "3 owl"], "labels.txt")
    split = make_list(tmp_path, ["dog/1.PNG", "狐狸/0.PNG"], "split.txt")
    data = FolderDataset(str(folders), chain(), label_file=labels, split_file=split, class_num=4)
    assert list(data.labels) == [1, 0] and data.problems == []
    labels = make_list(tmp_path, ["dog", "cat"], "labels.txt")
    data = FolderDataset(str(folders), chain(), label_file=labels)
    assert "1 sub-folders are not in" in data.problems[0] and "狐狸" in data.problems[0]
    split = make_list(tmp_path, ["horse/1.PNG"], "split.txt")
    data = FolderDataset(str(folders), chain(), split_file=split)
    assert "split.txt:1: expected <class>/<image>" in data.problems[0]


def test_folder_dataset_mistakes(folders, tmp_path):
    assert "set it to 3" in FolderDataset(str(folders), chain(), class_num=2).problems[0]
    (tmp_path / "empty").mkdir()
    assert "no sub-folders" in FolderDataset(str(tmp_path / "empty"), chain()).problems[0]
    (tmp_path / "empty" / "cat").mkdir()
    assert "no images" in FolderDataset(str(tmp_path / "empty"), chain()).problems[0]
    with pytest.raises(UserError, match="no image folder"):
        FolderDataset(str(tmp_path / "gone"), chain())


def test_an_evaluation_has_the_class_numbers_of_the_training_set(folders, tmp_path):
    for name in ("dog", "狐狸"):  # no cat
        write_image(tmp_path / "val" / name / "0.png", 9)
    train, data = (
        FolderDataset(str(folders), chain()),
        FolderDataset(str(tmp_path / "val"), chain()),
    )
    assert list(data.labels) == [0, 1]
    data.number_as(train)
    assert list(data.labels) == [1, 2] and data.problems == [] and data.class_keys[2] == "狐狸"
    before = list(train.labels)
    train.number_as(train)
    assert list(train.labels) == before

    write_image(tmp_path / "val" / "owl" / "0.png", 9)
    data = FolderDataset(str(tmp_path / "val"), chain())
    data.number_as(train)
    assert "1 classes are not in the training set" in data.problems[0] and "owl" in data.problems[0]


def test_relabel_follows_the_training_list(tmp_path):
    files = make_list(tmp_path, ["a 70", "b 5", "c 12"], "t.txt"), make_list(tmp_path, ["d 70"])
    train, data = (ImageNetDataset(str(tmp_path), f, chain(), relabel=True) for f in files)
    data.number_as(train)
    assert list(data.labels) == [2] and data.problems == []
    wrong = make_list(tmp_path, ["a 5", "b -1"], "w.txt")
    wrong = ImageNetDataset(str(tmp_path), wrong, chain(), relabel=True)
    assert list(wrong.labels) == [0, -1] and "b -1 (line 2)" in wrong.problems[0]
