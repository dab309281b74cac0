"""tools/prepare_data.py relabel and cifar10: other lists for the same images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data.datasets import ImageNetDataset, MultiLabelDataset
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.prepare.cli import run
from ppcls_lite.data.scan import scan
from ppcls_lite.errors import UserError

CLASSES = "zebra: striped\nlion: plain\ntiger: striped\nmoth: null\n"
ATTRIBUTES = "zebra: [hooves, stripes]\nlion: []\ntiger: [stripes, purrs]\nmoth: null\n"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A folder with two lists and their names; the images do not matter."""
    (tmp_path / "labels.txt").write_text("0 lion\n1 moth\n2 tiger\n3 zebra\n")
    (tmp_path / "train.txt").write_text("a b.jpg 0\nm/1.jpg 1\nt.jpg 2\nz.jpg 3\n")
    (tmp_path / "test.txt").write_text("z2.jpg 3\n")
    return tmp_path


def relabel(
    zoo: Path, text: str, *options: str, lists: tuple[str, ...] = ("train", "test")
) -> Path:
    (zoo / "map.yaml").write_text(text, encoding="utf-8")
    files = [str(zoo / f"{name}.txt") for name in lists]
    output = zoo / "new"
    run(["relabel", *files, "--map", str(zoo / "map.yaml"), "--output", str(output), *options])
    return output


def test_classes(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = relabel(zoo, CLASSES)
    assert read_label_file(str(new / "labels.txt")) == ["striped", "plain"]
    assert (new / "train.txt").read_text() == "a b.jpg 1\nt.jpg 0\nz.jpg 0\n"
    assert (new / "test.txt").read_text() == "z2.jpg 0\n"
    assert "3 images: striped 2, plain 1" in capsys.readouterr().out
    dataset = ImageNetDataset(str(zoo), str(new / "train.txt"), [], class_num=2)
    assert dataset.labels.tolist() == [1, 0, 0] and dataset.problems == []


def test_attributes(zoo: Path) -> None:
    new = relabel(zoo, ATTRIBUTES)
    assert read_label_file(str(new / "labels.txt")) == ["hooves", "stripes", "purrs"]
    dataset = MultiLabelDataset(str(zoo), str(new / "train.txt"), [], True, class_num=3)
    assert dataset.problems == []
    assert dataset.labels.tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 0]]
    assert dataset.label_ratio == pytest.approx([1 / 3, 2 / 3, 1 / 3])


def test_names_from_another_file(zoo: Path) -> None:
    (zoo / "labels.txt").rename(zoo / "names.txt")
    assert relabel(zoo, CLASSES, "--labels", str(zoo / "names.txt")).is_dir()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CLASSES.replace("zebra", "zebr"), "no class 'zebr'; did you mean 'zebra'"),
        (CLASSES.replace("moth: null\n", ""), "says nothing about moth"),
        (CLASSES.replace("lion: plain", "lion: [plain]"), "lion: expected a text"),
        (CLASSES.replace("plain", "1"), "quote it"),
        (CLASSES.replace("plain", "striped"), "names 1 classes; expected 2 or more"),
        (ATTRIBUTES.replace("hooves", "2"), "zebra: expected texts"),
        ("- zebra\n", "expected lines `class: new class`"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_map_writes_nothing(zoo: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        relabel(zoo, text)
    assert says in str(caught.value)
    assert not (zoo / "new").exists()


def test_other_mistakes(zoo: Path) -> None:
    (zoo / "wrong.txt").write_text("a.jpg 9\n")
    with pytest.raises(UserError, match=r"wrong.txt:1: label 9, but there are 4 names"):
        relabel(zoo, CLASSES, lists=("wrong",))
    with pytest.raises(UserError, match="is taken"):
        relabel(zoo, CLASSES, lists=("train", "train"))
    with pytest.raises(UserError, match="would be overwritten"):
        relabel(zoo, CLASSES, "--output", str(zoo))
    with pytest.raises(UserError, match="cannot be read"):
        run(["relabel", str(zoo / "train.txt"), "--map", "gone.yaml", "--output", str(zoo)])


@pytest.mark.parametrize(
    ("target", "source"),
    [("labels.txt", "labels.txt"), ("train.txt", "train.txt"), ("test.txt", "map.yaml")],
)
def test_no_input_is_overwritten(zoo: Path, target: str, source: str) -> None:
    """Neither lists nor names nor the map, by whatever path."""
    (zoo / "map.yaml").write_text(CLASSES, encoding="utf-8")
    (zoo / "new").mkdir()
    (zoo / "new" / target).hardlink_to(zoo / source)
    before = {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is read, and would be overwritten"):
        relabel(zoo, CLASSES)
    assert {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()} == before


def archive(path: Path, records: np.ndarray) -> str:
    """A tar file as CIFAR-10's: each of the six files holds all `records`."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))
    return str(path)


def test_cifar10(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (4, 3, 32, 32), np.uint8)
    labels = np.array([[6], [0], [6], [9]], np.uint8)
    records = np.concatenate([labels, planes.reshape(4, -1)], axis=1)
    file = archive(tmp_path / "cifar-10-binary.tar.gz", records)
    root = tmp_path / "cifar10"
    assert run(["cifar10", file, "--output", str(root), "--train", "3"]) == 0
    splits = {
        split: ImageNetDataset(str(root), str(root / f"{split}_list.txt"), [], class_num=10)
        for split in ("train", "test")
    }
    assert scan({"Train": splits["train"], "Eval": splits["test"]}).errors == []
    assert splits["train"].labels.tolist() == [6, 0, 6, 9, 6, 0, 9, 0, 9]  # three of each class
    assert splits["test"].labels.tolist() == [6, 0, 6, 9]
    image = cv2.imread(splits["test"].paths[2])[:, :, ::-1]
    assert splits["test"].paths[2].endswith("test/frog/0001.png")
    assert np.array_equal(image.transpose(2, 0, 1), planes[2])
    assert read_label_file(str(root / "labels.txt"))[6] == "frog"


def test_what_is_not_cifar10_is_refused(tmp_path: Path) -> None:
    wrong = np.zeros((1, 3073), np.uint8)
    wrong[0, 0] = 77
    (tmp_path / "text.tar.gz").write_text("no archive")
    files = [
        str(tmp_path / "gone.tar.gz"),
        str(tmp_path / "text.tar.gz"),
        archive(tmp_path / "short.tar.gz", wrong[:, :100]),
        archive(tmp_path / "cifar100.tar.gz", wrong),
    ]
    for file in files:
        with pytest.raises(UserError, match="CIFAR-10"):
            run(["cifar10", file, "--output", str(tmp_path / "out")])
