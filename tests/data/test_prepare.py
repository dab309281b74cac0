"""tools/prepare_data.py: digits, folders and ImageNet."""

from __future__ import annotations

import builtins
import itertools
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.prepare.cli import run
from ppcls_lite.data.prepare.split import stratified_split
from ppcls_lite.data.scan import scan
from ppcls_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())


def read(root: Path, split: str):
    listed = read_image_list(str(root / f"{split}_list.txt"), str(root))
    assert listed.problems == []
    return list(listed.paths), np.array(listed.labels)


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_digits(tmp_path, capsys):
    sklearn = pytest.importorskip("sklearn.datasets")
    root = tmp_path / "digits"
    assert run(["digits", "--output", str(root)]) == 0
    assert "configs/quickstart/digits.yaml" in capsys.readouterr().out
    splits = {
        name: ImageNetDataset(str(root), str(root / f"{name}_list.txt"), [], class_num=10)
        for name in ("train", "val")
    }
    report = scan({"Train": splits["train"], "Eval": splits["val"]})
    assert report.errors == [] and report.warnings == []
    counts = [np.bincount(d.labels, minlength=10) for d in splits.values()]
    assert sum(counts).sum() == 1797
    assert np.all(np.abs(counts[1] / sum(counts) - 0.2) < 0.005)
    assert read_label_file(str(root / "labels.txt"))[7] == "seven"
    # Shrinking the picture again gives the scan back: a real image, of the right digit.
    path, label = splits["val"].paths[5], splits["val"].labels[5]
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 32) and path.endswith(f"_{label}.png")
    number = int(Path(path).stem.split("_")[0])
    digits = sklearn.load_digits()
    assert digits.target[number] == label
    small = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) / (255 / 16)
    assert np.corrcoef(small.ravel(), digits.images[number].ravel())[0, 1] > 0.97
    before = snapshot(root)
    run(["digits", "--output", str(root)])
    assert snapshot(root) == before


def test_digits_without_scikit_learn(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "scikit-learn>=1\.3"'):
        run(["digits", "--output", str(tmp_path)])


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "my pets"
    for name, count in (("cat", 10), ("big dog", 5), ("狐狸", 2), ("owl", 1)):
        for i in range(count):
            write_image(root / name / f"photo {i}.jpg")
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".DS_Store").write_text("x")
    write_image(root / "loose.jpg")
    return root


def test_folder(pets, capsys):
    assert run(["folder", str(pets)]) == 0
    out = capsys.readouterr().out
    assert "2 other files in the sub-folders are left out" in out
    assert "1 images lie in" in out and "class 'owl' has 1 images" in out
    assert read_label_file(str(pets / "labels.txt")) == ["big dog", "cat", "owl", "狐狸"]
    (train, train_labels), (val, val_labels) = read(pets, "train"), read(pets, "val")
    assert np.bincount(train_labels).tolist() == [4, 8, 1, 1]
    assert np.bincount(val_labels, minlength=4).tolist() == [1, 2, 0, 1]
    assert not set(train) & set(val) and all(Path(p).is_file() for p in train + val)
    assert str(pets / "big dog" / "photo 0.jpg") in train + val
    before = snapshot(pets)
    run(["folder", str(pets)])
    assert snapshot(pets) == before
    run(["folder", str(pets), "--seed", "1"])
    assert read(pets, "val")[0] != val


def test_the_command_that_folder_prints_is_a_right_one(pets, tmp_path, capsys):
    run(["folder", str(pets), "--output", str(tmp_path / "lists"), "--val", "0.5"])
    settings = printed(capsys, "next, for example:\n", "configs/quickstart/photos.yaml")
    train = settings.DataLoader.Train.dataset.build(class_num=settings.Arch.get("class_num"))
    report = scan({"Train": train})
    assert report.errors == [] and train.class_num == 4 and len(train) == 10


def printed(capsys, mark, recipe):
    """The settings of the command that is printed after `mark`."""
    words = shlex.split(capsys.readouterr().out.split(mark)[1])
    assert words[:4] == ["ppcls-lite", "train", "-c", recipe]
    overrides = [b for a, b in itertools.pairwise(words) if a == "-o"]
    return check(load_config(str(ROOT / words[3]), overrides))


def test_the_command_that_digits_prints_looks_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(["digits", "--output", "my digits"])
    settings = printed(capsys, "next: ", "configs/quickstart/digits.yaml")
    for split, count in (("Train", 1438), ("Eval", 359)):
        dataset = getattr(settings.DataLoader, split).dataset.build(class_num=10)
        assert len(dataset) == count and scan({split: dataset}).errors == []
    assert Path(settings.Infer.infer_imgs).is_dir()
    assert Path(settings.Infer.PostProcess.get("class_id_map_file")).is_file()
    run(["digits"])
    assert (
        printed(capsys, "next: ", "configs/quickstart/digits.yaml").DataLoader
        == check(load_config(ROOT / "configs/quickstart/digits.yaml")).DataLoader
    )


def test_folder_check_leaves_unreadable_images_out(pets, capsys):
    (pets / "cat" / "photo 3.jpg").write_bytes(b"")
    run(["folder", str(pets), "--check"])
    assert "1 unreadable images are left out" in capsys.readouterr().out
    paths = read(pets, "train")[0] + read(pets, "val")[0]
    assert len(paths) == 17 and str(pets / "cat" / "photo 3.jpg") not in paths


def test_folder_mistakes(tmp_path, pets):
    with pytest.raises(UserError, match="no image folder"):
        run(["folder", str(tmp_path / "gone")])
    (tmp_path / "one").mkdir()
    with pytest.raises(UserError, match="0 images in 0 sub-folders; expected at least two"):
        run(["folder", str(tmp_path / "one")])
    with pytest.raises(UserError, match="--val is 20"):
        run(["folder", str(pets), "--val", "20"])


def test_the_script_prints_a_mistake_without_a_traceback():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "prepare_data.py"), "folder", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: there is no image folder")
    assert "Traceback" not in done.stderr


def test_stratified_split():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    chosen = stratified_split(labels, 0.2, seed=0)
    assert np.bincount(labels[chosen], minlength=4).tolist() == [20, 2, 1, 0]
    assert np.array_equal(chosen, stratified_split(labels, 0.2, seed=0))
    assert not np.array_equal(chosen, stratified_split(labels, 0.2, seed=1))
    assert not stratified_split(labels, 0, seed=0).any()
    assert np.bincount(labels[stratified_split(labels, 0.99, 0)]).tolist() == [99, 9, 1]


@pytest.fixture
def imagenet(tmp_path):
    for name in ("n02", "n01"):
        for i in range(2):
            write_image(tmp_path / "train" / name / f"{name}_{i}.JPEG")
    (tmp_path / "val").mkdir()
    return tmp_path


def test_imagenet_with_class_folders(imagenet, capsys):
    write_image(imagenet / "val" / "n01" / "v1.JPEG")
    write_image(imagenet / "val" / "n02" / "v0.JPEG")
    run(["imagenet", str(imagenet)])
    assert "warning: the full ImageNet-1k has" in capsys.readouterr().out
    lines = (imagenet / "train_list.txt").read_text().splitlines()
    assert lines[0] == "train/n01/n01_0.JPEG 0" and lines[3] == "train/n02/n02_1.JPEG 1"
    assert (imagenet / "val_list.txt").read_text() == "val/n01/v1.JPEG 0\nval/n02/v0.JPEG 1\n"
    write_image(imagenet / "val" / "n03" / "v2.JPEG")
    with pytest.raises(UserError, match="class folders that train/ lacks: n03"):
        run(["imagenet", str(imagenet)])


def test_imagenet_with_a_flat_val(imagenet):
    for i in (1, 2, 3):
        write_image(imagenet / "val" / f"v{i}.JPEG")
    with pytest.raises(UserError, match="unpack ILSVRC2012_devkit_t12"):
        run(["imagenet", str(imagenet)])
    table = "ImageId,PredictionString\nv2,n01 1 2 3 4 n01 5 6 7 8\nv1,n02 0 0 1 1\nv3,n02 1 1 2 2\n"
    (imagenet / "LOC_val_solution.csv").write_text(table)
    run(["imagenet", str(imagenet)])
    expected = "val/v1.JPEG 1\nval/v2.JPEG 0\nval/v3.JPEG 1\n"
    assert (imagenet / "val_list.txt").read_text() == expected
    (imagenet / "LOC_val_solution.csv").write_text(table.replace("v3,n02", "v3,n09"))
    with pytest.raises(UserError, match=r"1 validation images .*v3.JPEG \(n09\)"):
        run(["imagenet", str(imagenet)])


def test_imagenet_with_the_devkit(imagenet):
    io = pytest.importorskip("scipy.io")
    for i in (1, 2, 3):
        write_image(imagenet / "val" / f"v{i}.JPEG")
    data = imagenet / "kit" / "data"
    data.mkdir(parents=True)
    synsets = np.array([(1, "n02"), (2, "n01")], dtype=[("ILSVRC2012_ID", "u2"), ("WNID", "O")])
    io.savemat(data / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n1\n")
    run(["imagenet", str(imagenet), "--devkit", str(imagenet / "kit")])
    expected = "val/v1.JPEG 0\nval/v2.JPEG 1\nval/v3.JPEG 1\n"
    assert (imagenet / "val_list.txt").read_text() == expected
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n")
    with pytest.raises(UserError, match=r"has 2 lines, but .* has 3 images"):
        run(["imagenet", str(imagenet), "--devkit", str(imagenet / "kit")])


def test_imagenet_elsewhere(tmp_path):
    with pytest.raises(UserError, match=r"no train/ or no val/.*image-net.org"):
        run(["imagenet", str(tmp_path)])
