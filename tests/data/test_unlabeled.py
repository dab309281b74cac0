"""UnlabeledDataset: which images an epoch has, their labels, and a training that is resumed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.data.batch_transforms import MixupOperator
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler, SampleKey
from ppcls_lite.data.scan import scan
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.unlabeled import UNLABELED, UnlabeledDataset
from ppcls_lite.errors import UserError

LABELED, POOL = 6, 10


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(value).integers(0, 256, (20, 24, 3), np.uint8)
    image[0, 0] = value
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six labelled images of three classes, ten in a pool of nested folders, a hidden file."""
    for i in range(LABELED):
        write_image(tmp_path / "photos" / f"{i}.png", i)
    lines = [f"{i}.png {i % 3}" for i in range(LABELED)]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    for i in range(POOL):
        write_image(tmp_path / "pool" / ("a b" if i % 2 else "deep/er") / f"{i}.png", 100 + i)
    (tmp_path / "pool" / "._0.png").write_bytes(b"left by another system")
    (tmp_path / "pool" / "notes.txt").write_text("no image", encoding="utf-8")
    return tmp_path


def chain() -> list[object]:
    return [DecodeImage(), RandCropImage(16), NormalizeImage(order="")]


def mixed(home: Path, **arguments) -> UnlabeledDataset:
    labeled = {"image_root": str(home / "photos"), "cls_label_path": str(home / "train.txt")}
    given = labeled | {"unlabeled_root": str(home / "pool"), "class_num": 3, "seed": 7} | arguments
    return UnlabeledDataset(chain(), **given)


def located(dataset: UnlabeledDataset, epoch: int) -> list[int]:
    """The places in `paths` that an epoch has, in the order of the epoch's places."""
    return [dataset.locate(SampleKey(i, epoch)).index for i in range(len(dataset))]


def test_a_pool_beside_a_list(home):
    dataset = mixed(home)
    assert len(dataset) == len(dataset.paths) == LABELED + POOL
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 2] + [UNLABELED] * POOL
    assert dataset.class_num == 3 and dataset.problems == []
    names = [Path(path).name for path in dataset.paths]
    assert names[:LABELED] == [f"{i}.png" for i in range(LABELED)]
    assert names[LABELED:] == [f"{i}.png" for i in (1, 3, 5, 7, 9, 0, 2, 4, 6, 8)]  # a b, deep/er
    assert names == [Path(path).name for path in dataset.paths[:]]
    assert dataset.paths[-1] == dataset.paths[15]
    with pytest.raises(IndexError):
        dataset.paths[16]
    assert (dataset[2]["label"], dataset[9]["label"]) == (2, UNLABELED)
    assert dataset[9]["image"].shape == (3, 16, 16)


def test_a_pool_alone_and_as_a_list_whose_labels_do_not_count(home):
    lines = ["a b/1.png 5", "deep/er/2.png\t0.93\t4", "a b/3.png", "deep/er/4.png,7"]
    (home / "pool.txt").write_text("\n".join(lines), encoding="utf-8")
    dataset = UnlabeledDataset(chain(), str(home / "pool"), str(home / "pool.txt"), class_num=3)
    assert [Path(path).name for path in dataset.paths] == ["1.png", "2.png", "3.png", "4.png"]
    assert dataset.labels.tolist() == [UNLABELED] * 4 and dataset.class_num == 3
    assert all(Path(path).is_file() for path in dataset.paths)
    assert scan({"Train": dataset}).errors == []


def test_ratio_goes_through_the_whole_pool_before_an_image_comes_again(home):
    dataset = mixed(home, ratio=0.5)
    assert len(dataset) == LABELED + 3
    epochs = [located(dataset, epoch) for epoch in range(20)]
    assert all(places[:LABELED] == list(range(LABELED)) for places in epochs)
    drawn = [place for places in epochs for place in places[LABELED:]]
    turns = np.reshape(drawn, (6, POOL))  # 20 epochs of 3 are 6 turns of 10
    assert np.array_equal(np.sort(turns), np.tile(np.arange(LABELED, LABELED + POOL), (6, 1)))
    assert len({tuple(turn) for turn in turns.tolist()}) > 1
    again = mixed(home, ratio=0.5)
    assert located(again, 13) == epochs[13]  # without the epochs before it
    assert [located(mixed(home, ratio=0.5, seed=8), epoch) for epoch in range(20)] != epochs


def loader_of(dataset: UnlabeledDataset, workers: int = 0) -> Loader:
    sampler = DistributedBatchSampler(4, shuffle=True, seed=7).bind(len(dataset))
    return Loader(dataset, sampler, num_workers=workers)


def batches(loader: Loader, epoch: int, start: int = 0) -> list[dict[str, np.ndarray]]:
    found = [{k: v.numpy() for k, v in b.items()} for b in loader.epoch(epoch, start)]
    loader.close()
    return found


def test_batches_do_not_depend_on_workers_nor_on_where_one_starts(home):
    dataset = mixed(home, ratio=1.5)
    whole = batches(loader_of(dataset), 3)
    assert sorted(np.concatenate([b["index"] for b in whole])) == sorted(located(dataset, 3))
    for batch in whole:
        expected = [dataset.labels[i] for i in batch["index"]]
        assert batch["label"].tolist() == expected and batch["label"].dtype == np.int64
    for other in (batches(loader_of(mixed(home, ratio=1.5), 2), 3), batches(loader_of(dataset), 3)):
        assert all(np.array_equal(a[k], b[k]) for a, b in zip(whole, other, strict=True) for k in a)
    rest = batches(loader_of(dataset), 3, start=2)
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(whole[2:], rest, strict=True) for k in a)


def test_an_unreadable_image_of_the_pool_is_named_and_replaced(home):
    dataset = mixed(home, ratio=0.5)
    bad = located(dataset, 0)[LABELED]
    Path(dataset.paths[bad]).write_bytes(b"no image")
    loader = loader_of(dataset)
    loader.max_bad_ratio = 0.2
    found = batches(loader, 0)
    assert list(loader.bad_files) == [dataset.paths[bad]]
    indices = np.concatenate([b["index"] for b in found])
    assert len(indices) == len(dataset) and bad not in indices


def test_fixed_views_repeat_the_augmentation_but_not_the_order(home):
    dataset = mixed(home)
    dataset.fix_views(2)
    loader = loader_of(dataset)
    epochs = [batches(loader, epoch) for epoch in (1, 2, 3, 4)]
    for epoch, found in zip((1, 2, 3, 4), epochs):
        assert all(batch["view"].tolist() == [epoch % 2] * len(batch["view"]) for batch in found)

    def images(found: list[dict[str, np.ndarray]]) -> dict[int, bytes]:
        return {int(i): x.tobytes() for b in found for i, x in zip(b["index"], b["image"])}

    first, second, third, fourth = map(images, epochs)
    assert first == third and second == fourth and first != second
    orders = [np.concatenate([b["index"] for b in found]).tolist() for found in epochs]
    assert orders[0] != orders[2]


def test_the_scan_looks_at_the_pool(home):
    evaluated = mixed(home)
    (home / "pool.txt").write_text("a b/1.png\ngone.png\n../photos/0.png", encoding="utf-8")
    dataset = mixed(home, unlabeled_list=str(home / "pool.txt"))
    report = scan({"Train": dataset})
    assert len(report.errors) == 1 and "gone.png" in report.errors[0]
    assert len(report.warnings) == 1 and "listed more than once" in report.warnings[0]
    shared = scan({"Train": mixed(home), "Eval": evaluated}).warnings
    assert any("images are remembered" in warning for warning in shared)


def test_mistakes_are_named(home):
    with pytest.raises(UserError, match=r"asks for 12 unlabelled .* has 10: at most 1.667"):
        mixed(home, ratio=2)
    with pytest.raises(UserError, match="there is no list with labels"):
        mixed(home, ratio=1, cls_label_path=None)
    with pytest.raises(UserError, match="there is no image folder"):
        mixed(home, unlabeled_root=str(home / "nowhere"))
    (home / "empty").mkdir()
    assert "no images in the pool" in mixed(home, unlabeled_root=str(home / "empty")).problems[0]
    (home / "train.txt").write_text("0.png 3\n1.png -1\n", encoding="utf-8")
    assert "2 labels outside 0..2" in mixed(home).problems[0]


def test_mixing_labels_is_refused(home):
    dataset = mixed(home)
    sampler = DistributedBatchSampler(16).bind(len(dataset))
    with pytest.raises(UserError, match="images without labels"):
        Loader(dataset, sampler, [MixupOperator(3)])


def test_by_name_over_the_keys_of_a_labelled_recipe(home):
    node = {
        "name": "UnlabeledDataset",
        "image_root": str(home / "photos"),
        "cls_label_path": str(home / "train.txt"),
        "unlabeled_root": str(home / "pool"),
        "ratio": 1,
        "transform_ops": [{"DecodeImage": None}, {"ResizeImage": {"size": 16}}],
    }
    dataset = build(node, "dataset", class_num=3, seed=0)
    assert len(dataset) == 2 * LABELED


def test_evaluation_images_in_the_pool_are_said_by_content(tmp_path):
    for folder, names in (("pool", "abc"), ("val", "xy")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").write_bytes(f"image {name}".encode())
    (tmp_path / "val" / "x.png").write_bytes(b"image b")
    (tmp_path / "val.txt").write_text("x.png 0\ny.png 1\n")
    train = UnlabeledDataset([], str(tmp_path / "pool"))
    evaluation = ImageNetDataset(str(tmp_path / "val"), str(tmp_path / "val.txt"), [])
    (warning,) = scan({"Train": train, "Eval": evaluation}).warnings
    assert "1 images of Train are copies of images of Eval" in warning and "b.png" in warning
    (tmp_path / "val" / "x.png").write_bytes(b"image z")
    assert scan({"Train": train, "Eval": evaluation}).warnings == []
