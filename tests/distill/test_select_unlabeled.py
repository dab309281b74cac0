"""Choosing unlabelled images: near-duplicates, the best of each class, killed and resumed runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.data import near_duplicates
from ppcls_lite.data.unlabeled import UnlabeledDataset
from ppcls_lite.distill import selection
from ppcls_lite.distill.select_unlabeled import Pool, pool_at, score_pool, select
from ppcls_lite.engine import run_folder
from ppcls_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red": 0, "green": 1, "blue": 2}


def picture(seed: int, colour: str, size: int = 64) -> np.ndarray:
    """Smooth gray clouds under a cast of one colour, (H, W, 3) uint8 RGB."""
    clouds = np.random.default_rng(seed).integers(0, 200, (6, 6), np.uint8)
    image = cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    image = np.repeat(image, 3, axis=2)
    image[..., COLOURS[colour]] = np.minimum(image[..., COLOURS[colour]].astype(int) + 55, 255)
    return image


def write(path: Path, image: np.ndarray, quality: int = 95) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, image[..., ::-1], options)[1].tobytes())


class Colour:
    """A teacher: which colour is strongest, the surer the stronger."""

    identity = "colour"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image.mean(axis=(0, 1), dtype=np.float32).reshape(3, 1, 1)

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        powers = np.exp((batch[:, :, 0, 0] - 255) / 10)
        return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two validation pictures and a pool of 18, of which two repeat them and two are unreadable."""
    write(tmp_path / "val" / "a.png", picture(0, "red"))
    write(tmp_path / "val" / "b.png", picture(1, "blue"))
    for i, colour in enumerate(["red", "green", "blue"] * 4):
        write(tmp_path / "pool" / f"{colour}s" / f"{i}.png", picture(10 + i, colour))
    write(tmp_path / "pool" / "again.jpg", picture(0, "red", 128), quality=40)
    write(
        tmp_path / "pool" / "greens" / "brighter.jpg",
        cv2.convertScaleAbs(picture(1, "blue"), None, 0.9, 20),
    )
    write(tmp_path / "pool" / "twin.jpg", picture(11, "green", 96), quality=70)
    (tmp_path / "pool" / "broken.png").write_bytes(b"no image")
    whole = (tmp_path / "pool" / "reds" / "0.png").read_bytes()
    (tmp_path / "pool" / "torn.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def scored(home: Path, name: str = "out", **options) -> Colour:
    teacher = Colour()
    options = {"batch_size": 4, "validation": pool_at(home / "val")} | options
    score_pool(pool_at(home / "pool"), teacher, home / name, **options)
    return teacher


def paths(file: Path) -> list[str]:
    return [line.split("\t")[0] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_best_of_each_class_without_near_duplicates(home):
    scored(home)
    target, counts = select(home / "out", 3)
    rows = [line.split("\t") for line in target.read_text(encoding="utf-8").splitlines()]
    assert counts["images"] == 17 and counts["bad"] == 2 and counts["near_duplicates"] == 2
    assert counts["classes"] == 3 and counts["selected"] == len(rows) == 9
    for path, number, score in rows:
        assert path.startswith(f"{list(COLOURS)[int(number)]}s/") or path == "twin.jpg"
        assert 1 / 3 < float(score) <= 1
    for number in "012":
        own = [float(score) for _, of, score in rows if of == number]
        assert own == sorted(own, reverse=True) and len(own) == 3
    duplicates = (home / "out" / "near_duplicates.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[:2] for line in duplicates] == [
        ["again.jpg", "a.png"],
        ["greens/brighter.jpg", "b.png"],
    ]
    bad = (home / "out" / "bad_files.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in bad] == ["broken.png", "torn.png"]
    assert "truncated" in bad[1]


def test_the_best_scored_are_those_of_all_scores(home):
    scored(home)
    lines = (home / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    found = [json.loads(line) for line in lines]
    target, _ = select(home / "out", 2, keep_twins=True)
    expected = []
    for number in range(3):
        own = [item for item in found if item.get("class") == number]
        own.sort(key=lambda item: -item["score"])
        expected += [item["path"] for item in own[:2]]
    assert paths(target) == expected


def test_twins_in_the_pool_are_taken_once(home):
    scored(home)
    with_twins, counts = select(home / "out", 10, keep_twins=True)
    assert {"twin.jpg", "greens/1.png"} <= set(paths(with_twins)) and counts["twins"] == 0
    with_twins.unlink()
    without, counts = select(home / "out", 10)
    assert len({"twin.jpg", "greens/1.png"} & set(paths(without))) == 1
    assert counts["twins"] == 1 and len(paths(without)) == 12


def test_a_selection_reads_as_a_pool(home):
    scored(home)
    target, counts = select(home / "out", 2)
    dataset = UnlabeledDataset([], str(home / "pool"), str(target), class_num=3)
    assert len(dataset) == counts["selected"] == 6 and dataset.problems == []
    assert all(Path(path).is_file() for path in dataset.paths)


@pytest.mark.parametrize("cut", [0, 3])
def test_a_killed_run_goes_on_behind_its_last_line(home, cut):
    scored(home, "whole")
    whole = (home / "whole" / "scores.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (home / "out").mkdir()
    torn = b"".join(lines[:8]) + lines[8][: len(lines[8]) - cut - 1]
    (home / "out" / "scores.jsonl").write_bytes(torn)
    teacher = scored(home)
    assert (home / "out" / "scores.jsonl").read_bytes() == whole
    assert sum(teacher.batches) < 13
    assert scored(home).batches == []  # nothing is left to do
    (home / "out" / "scores.jsonl").write_bytes(lines[0][:9])
    scored(home)
    assert (home / "out" / "scores.jsonl").read_bytes() == whole


def test_scores_do_not_depend_on_batches_nor_threads(home):
    scored(home, "one", batch_size=1, threads=1)
    scored(home, "many", batch_size=50, threads=4)
    one, many = ((home / n / "scores.jsonl").read_text(encoding="utf-8") for n in ("one", "many"))
    assert [json.loads(line).get("class") for line in one.splitlines()] == [
        json.loads(line).get("class") for line in many.splitlines()
    ]


def test_nothing_is_overwritten_nor_mixed(home):
    scored(home)
    target, _ = select(home / "out", 2)
    before = target.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        select(home / "out", 2)
    other, _ = select(home / "out", 1)
    assert set(paths(other)) < set(paths(target)) and target.read_bytes() == before
    with pytest.raises(UserError, match="differ in distance: 6 there, 4 here"):
        scored(home, distance=4)
    with pytest.raises(UserError, match="differ in validation"):
        scored(home, validation=None)
    write(home / "pool" / "zebra.png", picture(40, "red"))
    (home / "pool" / "again.jpg").unlink()
    (home / "pool" / "broken.png").unlink()
    with pytest.raises(UserError, match="the pool has changed"):
        scored(home)


@pytest.mark.parametrize("name", ["scores.jsonl", "near_duplicates.txt", "bad_files.txt"])
def test_no_list_is_overwritten(home, name):
    (home / "out").mkdir()
    (home / "out" / name).write_text("val/a.png\n", encoding="utf-8")
    given = pool_at(home / "out" / name, home)
    with pytest.raises(UserError, match="is read, and would be overwritten"):
        score_pool(given, Colour(), home / "out")
    with pytest.raises(UserError, match="is read, and would be overwritten"):
        scored(home, validation=given)
    assert (home / "out" / name).read_text(encoding="utf-8") == "val/a.png\n"


def test_pools(home):
    (home / "list.txt").write_text("reds/0.png 1\n\nblues/2.png\n", encoding="utf-8")
    assert list(pool_at(home / "list.txt", home / "pool")) == ["reds/0.png", "blues/2.png"]
    assert pool_at(home / "list.txt").root == home
    with pytest.raises(UserError, match="no such folder or list"):
        pool_at(home / "none")
    (home / "empty").mkdir()
    with pytest.raises(UserError, match="no images in this pool"):
        score_pool(pool_at(home / "empty"), Colour(), home / "out")


def test_a_long_pool_takes_no_memory(home, monkeypatch):
    """A hundred times the pool: at most two batches of images are held at a time."""

    class Repeated(Pool):
        def __iter__(self):
            for _ in range(100):
                yield from ("reds/0.png", "blues/2.png")

    alive = 0
    most = 0

    class Counting(Colour):
        def prepare(self, image: np.ndarray) -> np.ndarray:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().prepare(image)

        def probabilities(self, batch: np.ndarray) -> np.ndarray:
            nonlocal alive
            alive -= len(batch)
            return super().probabilities(batch)

    score_pool(Repeated(home / "pool", home / "pool"), Counting(), home / "out", batch_size=8)
    assert alive == 0 and most <= 16


def test_hash_distances_without_numpy_2(monkeypatch):
    hashes = np.array([0, 1, 2**64 - 1, 0b1011], np.uint64)
    expected = [0, 1, 64, 3]
    assert near_duplicates.distances(hashes, 0).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near_duplicates.distances(hashes, 0).tolist() == expected


def linear_onnx(path: Path) -> None:
    """A teacher of three classes that looks at the mean colour."""
    onnx = pytest.importorskip("onnx", reason="writing an ONNX file needs onnx")
    pytest.importorskip("onnxruntime", reason="running an ONNX file needs onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "colour",
        [helper.make_tensor_value_info("image", kind, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("logits", kind, ["N", 3])],
        [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32) * 5, "weights")],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def test_the_command(home):
    linear_onnx(home / "teacher.onnx")
    command = [sys.executable, str(ROOT / "tools" / "select_unlabeled.py"), "teacher.onnx", "pool"]
    options = ["--val", "val", "--output", "chosen", "--top", "2"]
    done = subprocess.run([*command, *options], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 near-duplicates of the validation set" in done.stdout
    assert len(paths(home / "chosen" / "selected_top2.txt")) == 6
    again = subprocess.run([*command, *options], cwd=home, capture_output=True, text=True)
    assert again.returncode == 1 and "exists already" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_classes_of_cifar10(real_data, home, monkeypatch):
    """On real pictures: copies of test images are found among others, nothing else is."""
    names = (real_data / "cifar10" / "test_list.txt").read_text(encoding="utf-8").split("\n")[:60]
    images = [real_data / "cifar10" / name.rpartition(" ")[0] for name in names if name]
    pool = home / "real"
    for i, source in enumerate(images):
        image = cv2.imread(str(source))
        if i < 20:
            write(home / "known" / f"{i}.png", image[..., ::-1])
            image = cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)
            write(pool / f"copy{i}.jpg", image[..., ::-1], quality=60)
        else:
            write(pool / f"other{i}.png", image[..., ::-1])
    score_pool(pool_at(pool), Colour(), home / "out", pool_at(home / "known"))
    select(home / "out", 5)
    found = paths(home / "out" / "near_duplicates.txt")
    assert sorted(found) == sorted(f"copy{i}.jpg" for i in range(20))


def test_a_second_selection_in_its_folder_is_refused(home, monkeypatch):
    linear_onnx(home / "teacher.onnx")
    monkeypatch.setattr(run_folder, "try_lock", lambda file: False)
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    command = [str(home / "teacher.onnx"), str(home / "pool"), "--output", str(home / "chosen")]
    with pytest.raises(UserError, match="chosen belongs to a selection that is running"):
        selection.run(command)
    assert not list((home / "chosen").iterdir())


def test_mistakes_of_the_command(home):
    with pytest.raises(UserError, match="has its own pre-processing"):
        selection.Teacher(str(home), config="recipe.yaml")
    with pytest.raises(UserError, match="no such file"):
        selection.run([str(home / "no.onnx"), str(home / "pool"), "--output", str(home / "o")])
    for wrong in ("-1", "65", "x"):
        with pytest.raises(SystemExit) as caught:
            selection.run(["t.onnx", "pool", "--output", "o", "--distance", wrong])
        assert caught.value.code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_a_name_that_is_no_text_is_listed_and_not_chosen(home):
    write(home / "pool" / "later.png", picture(99, "red"))
    (home / "pool" / "later.png").rename(home / "pool" / os.fsdecode(b"la\xffter.png"))
    for _ in range(2):  # a second run finds its place
        scored(home)
    target, _ = select(home / "out", 5)
    assert b"la\xffter.png\tits name is not UTF-8" in (home / "out" / "bad_files.txt").read_bytes()
    assert "ter.png" not in target.read_text(encoding="utf-8")
