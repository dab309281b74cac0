"""Loader: the same batches from any number of workers, bad files, mixing, no leaks."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import paddle
import psutil
import pytest

from ppcls_lite.data.batch_transforms import MixupOperator
from ppcls_lite.data.datasets import (
    CustomLabelDataset,
    ImageNetDataset,
    MultiLabelDataset,
    MultiScaleDataset,
)
from ppcls_lite.data.loader import Loader, normalized_on_device, usable_workers
from ppcls_lite.data.samplers import DistributedBatchSampler, MultiScaleSampler
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.orientation import RandFlipImage, RandomRot90
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.errors import UserError

COUNT = 22


def chain(size=16):
    normalize = NormalizeImage(1 / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], order="")
    return [DecodeImage(), RandCropImage(size), RandFlipImage(1), normalize]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with COUNT small noisy images of 3 classes and their list."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(COUNT):
        image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        (root / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        lines.append(f"{i}.png {i % 3}\n")
    (root / "list.txt").write_text("".join(lines))
    return root


@pytest.fixture
def with_bad_files(photos, tmp_path):
    """The same list with two files that are no images and one that is missing."""
    lines = (photos / "list.txt").read_text().splitlines()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "empty.jpg").write_bytes(b"")
    lines = [f"{photos}/{line}" for line in lines]
    lines[3:3] = ["broken.png 0"]
    lines[10:10] = ["empty.jpg 1"]
    lines += ["gone.jpg 2"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), chain(), class_num=3)


@pytest.fixture
def bad_evaluation(with_bad_files):
    """The same without chance."""
    with_bad_files.transforms = Compose([DecodeImage(), ResizeImage(16)])
    return with_bad_files


def dataset(root, cls=ImageNetDataset, seed=7):
    return cls(str(root), str(root / "list.txt"), chain(), class_num=3, seed=seed)


def loader(data, num_workers=0, batch_size=4, shuffle=True, **options):
    sampler = DistributedBatchSampler(batch_size, shuffle=shuffle, seed=7).bind(len(data))
    return Loader(data, sampler, num_workers=num_workers, **options)


def arrays(batches):
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert np.array_equal(a[name], b[name]), name


def test_batches_hold_what_the_data_set_gives(photos):
    data = dataset(photos)
    batches = arrays(loader(data).epoch(0))
    assert [len(b["image"]) for b in batches] == [4, 4, 4, 4, 4, 2]
    batch = batches[1]
    assert batch["image"].shape == (4, 3, 16, 16) and batch["image"].dtype == np.float32
    assert batch["label"].dtype == batch["index"].dtype == np.int64
    for image, label, index in zip(batch["image"], batch["label"], batch["index"]):
        sample = data[int(index)]
        assert np.array_equal(image, sample["image"]) and label == sample["label"]


@pytest.mark.parametrize("workers, shared", [(1, True), (2, True), (2, False)])
def test_any_number_of_workers_gives_the_same_batches(photos, workers, shared):
    expected = loader(dataset(photos))
    actual = loader(dataset(photos), workers, use_shared_memory=shared)
    for epoch in (0, 3):
        assert_equal(arrays(actual.epoch(epoch)), arrays(expected.epoch(epoch)))
    actual.close()


def test_epochs_differ_and_a_resume_goes_on(photos):
    one = loader(dataset(photos), 2)
    whole = arrays(one.epoch(5))
    assert not np.array_equal(whole[0]["index"], arrays(one.epoch(6))[0]["index"])
    assert_equal(arrays(one.epoch(5, start_step=2)), whole[2:])
    one.close()


def test_an_epoch_that_is_left_early_leaves_nothing(photos):
    one = loader(dataset(photos), 2)
    expected = arrays(one.epoch(2))
    process = psutil.Process()
    before = process.num_fds(), len(process.children())
    for epoch in range(3):
        for _ in one.epoch(epoch):
            break
    assert_equal(arrays(one.epoch(2)), expected)
    assert (process.num_fds(), len(process.children())) == before
    one.close()
    assert not [c for c in process.children() if c.status() != psutil.STATUS_ZOMBIE]


def test_two_epochs_at_once_are_refused(photos):
    one = loader(dataset(photos), 1)
    first = one.epoch(0)
    next(first)
    next(one.epoch(1))
    with pytest.raises(RuntimeError, match="new epoch was begun"):
        next(first)


def test_tensors_stay_valid_after_the_next_batch(photos):
    one = loader(dataset(photos), 1)
    kept = list(one.epoch(0))  # the shared buffers have been used again meanwhile
    assert_equal(arrays(kept), arrays(loader(dataset(photos)).epoch(0)))
    one.close()


def test_memory_and_files_stay_flat(photos):
    data = ImageNetDataset(str(photos), str(photos / "list.txt"), chain(64))
    one = loader(data, 2)
    process = psutil.Process()
    sizes = []
    for epoch in range(40):
        for batch in one.epoch(epoch):
            del batch
        sizes.append((process.memory_info().rss, process.num_fds()))
    assert sizes[-1][1] == sizes[2][1]
    assert sizes[-1][0] - sizes[10][0] < 8e6  # bytes; 30 epochs of batches would be 32 MB
    one.close()


def test_the_shared_memory_needs_no_room_in_dev_shm(photos):
    def mapped(name):
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(name in line for line in lines)

    before = mapped("/dev/shm")
    one = loader(dataset(photos), 1)
    list(one.epoch(0))
    assert mapped("memfd:ppcls_lite") == 2 and mapped("/dev/shm") == before
    one.close()
    gc.collect()
    assert mapped("memfd:ppcls_lite") == 0


def test_no_more_workers_than_cores(caplog):
    cores = len(os.sched_getaffinity(0))
    with caplog.at_level(logging.INFO, "ppcls_lite"):
        assert usable_workers(cores + 30) == cores
    assert f"num_workers: {cores + 30} -> {cores}" in caplog.text
    assert usable_workers(0) == 0 and usable_workers(1) == 1


def test_mixed_batches(photos):
    def mixed(workers):
        mixup = MixupOperator(3, alpha=1.0)
        one = loader(dataset(photos), workers, 11, batch_transforms=[mixup])
        result = arrays(one.epoch(1))
        one.close()
        return result

    plain, first = arrays(loader(dataset(photos), 0, 11).epoch(1)), mixed(0)
    assert_equal(mixed(2), first)
    label = first[0]["label"]
    assert label.shape == (11, 3) and label.dtype == np.float32
    weight = next(w for w in label[np.arange(11), plain[0]["label"]] if w < 1)
    images = plain[0]["image"].reshape(11, -1)
    for image, mixed_label in zip(first[0]["image"].reshape(11, -1), label):
        pairs = weight * images[:, None] + (1 - weight) * images[None]  # (11, 11, pixels)
        errors = np.abs(pairs - image).max(axis=2)
        own, other = np.unravel_index(errors.argmin(), errors.shape)
        assert errors[own, other] < 1e-5
        expected = np.zeros(3)
        expected[plain[0]["label"][own]] += weight
        expected[plain[0]["label"][other]] += 1 - weight
        assert np.allclose(mixed_label, expected, atol=1e-6)
    assert not np.array_equal(first[0]["label"], first[1]["label"])


def test_multi_scale(photos):
    data = dataset(photos, MultiScaleDataset)
    sampler = MultiScaleSampler([32, 64], first_bs=3, seed=1).bind(len(data))
    one = Loader(data, sampler, num_workers=1)
    shapes = [tuple(batch["image"].shape) for batch in one.epoch(0)]
    one.close()
    assert len(shapes) == len(one)
    assert {shape[2:] for shape in shapes} == {(32, 32), (64, 64)}  # the buffers grow


def test_multi_label_batches(photos, tmp_path):
    lines = [f"{photos}/{i}.png\t{i % 2},1" for i in range(4)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    file = str(tmp_path / "list.txt")
    data = MultiLabelDataset(str(tmp_path), file, chain(), label_ratio=True, class_num=2)
    (batch,) = arrays(loader(data, shuffle=False).epoch(0))
    assert batch["label"].shape == (4, 2, 2) and batch["label"].dtype == np.float32
    assert batch["label"][1].tolist() == [[1, 1], [0.5, 1]]


def test_without_normalize_image_the_batch_is_float(photos):
    file = str(photos / "list.txt")
    data = ImageNetDataset(str(photos), file, chain()[:3])
    image = next(loader(data).epoch(0))["image"]
    assert image.dtype == paddle.float32 and 200 < float(image.max()) <= 255


def test_normalisation_on_a_device_gives_the_same(photos):
    head, normalizer = dataset(photos).split_tail()
    images = np.stack([head[i]["image"] for i in range(4)])
    actual = normalized_on_device(images, normalizer).numpy()
    assert np.allclose(actual, normalizer.normalize_batch(images), atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_bad_files_and_reports_them(with_bad_files, workers, caplog):
    one = loader(with_bad_files, workers, max_bad_ratio=0.5)
    with caplog.at_level(logging.WARNING, "ppcls_lite"):
        batches = arrays(one.epoch(0))
    one.close()
    assert sum(len(b["image"]) for b in batches) == COUNT + 3
    bad = {3, 10, COUNT + 2}
    assert not bad & {int(i) for b in batches for i in b["index"]}
    names = {path.rsplit("/", 1)[1] for path in one.bad_files}
    assert names == {"broken.png", "empty.jpg", "gone.jpg"}
    assert "empty" in next(r for p, r in one.bad_files.items() if p.endswith("empty.jpg"))
    assert caplog.text.count("unreadable image") == 3
    reference = loader(with_bad_files, 0, max_bad_ratio=0.5)
    assert_equal(batches, arrays(reference.epoch(0)))  # the replacements are the same ones


def test_too_many_bad_files(with_bad_files):
    one = loader(with_bad_files, 2)  # 3 of 25 are more than 1 %
    with pytest.raises(UserError, match=r"2 unreadable images .*max_bad_ratio = 0.01") as caught:
        list(one.epoch(0))
    one.close()
    assert str(caught.value).count("\n") == 2
    strict = loader(with_bad_files, max_bad_ratio=0.0)
    with pytest.raises(UserError, match="1 unreadable images"):
        list(strict.epoch(0))


def test_only_bad_files(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg 0\nb.jpg 1\n")
    data = ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), chain())
    with pytest.raises(UserError, match="11 images drawn in turn cannot be used"):
        list(loader(data, max_bad_ratio=1.0).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_stops_an_evaluation(bad_evaluation, workers):
    one = loader(bad_evaluation, workers, shuffle=False, training=False)
    with pytest.raises(UserError, match=r"broken.png.*eval_skip_bad=True"):
        list(one.epoch(0))
    one.close()


def test_an_evaluation_may_leave_bad_files_out(bad_evaluation):
    one = loader(
        bad_evaluation, 1, 1, False, training=False, skip_bad=True, max_bad_ratio=0.2
    )  # batches of one image: three of them are empty
    batches = arrays(one.epoch(0))
    one.close()
    assert len(batches) == COUNT and len(one.bad_files) == 3
    one = loader(bad_evaluation, 1, 4, False, training=False, skip_bad=True, max_bad_ratio=0.2)
    assert [len(b["image"]) for b in arrays(one.epoch(0))] == [3, 4, 3, 4, 4, 4]
    one.close()


def test_images_of_different_sizes(photos):
    data = ImageNetDataset(str(photos), str(photos / "list.txt"), [DecodeImage()])
    (photos / "31.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3)))[1].tobytes())
    (photos / "uneven.txt").write_text("0.png 0\n31.png 0\n")
    data = ImageNetDataset(str(photos), str(photos / "uneven.txt"), [DecodeImage()])
    with pytest.raises(UserError, match=r"31.png: its image has the shape \(3, 9, 9\)"):
        list(loader(data, shuffle=False).epoch(0))


def test_mistakes_in_the_list_are_not_passed_over(photos):
    (photos / "wrong.txt").write_text("0.png 0\n1.png\n")
    data = ImageNetDataset(str(photos), str(photos / "wrong.txt"), chain())
    with pytest.raises(UserError, match=r"wrong.txt:2: expected a path"):
        loader(data)


FOR_TRAINING = {
    "mixes": ([DecodeImage()], DistributedBatchSampler(4), [MixupOperator(3)], "mix images"),
    "drops": ([DecodeImage()], DistributedBatchSampler(4, drop_last=True), [], "drop_last"),
    "sizes": ([DecodeImage()], MultiScaleSampler([32, 64], 8), [], "is_training"),
    "crops": ([DecodeImage(), RandCropImage(16)], DistributedBatchSampler(4), [], "random numbers"),
    "method": (
        [DecodeImage(), ResizeImage(16, interpolation="random")],
        DistributedBatchSampler(4),
        [],
        "random numbers",
    ),
}


@pytest.mark.parametrize("name", FOR_TRAINING)
def test_what_changes_the_scored_images_is_refused_in_an_evaluation(photos, name):
    ops, sampler, mixers, found = FOR_TRAINING[name]
    data = ImageNetDataset(str(photos), str(photos / "list.txt"), ops, class_num=3)
    sampler.bind(len(data), evaluation=True)
    with pytest.raises(UserError, match=found):
        next(iter(Loader(data, sampler, mixers, training=False).epoch(0)))


def test_chance_that_makes_the_labels_is_no_change(photos, tmp_path):
    (tmp_path / "paths.txt").write_text("".join(f"{i}.png\n" for i in range(6)))
    ops = [DecodeImage(), ResizeImage(16), RandomRot90()]
    listed = str(photos), str(tmp_path / "paths.txt")
    data = CustomLabelDataset(*listed, ops, label_key="random_rot90_orientation")
    one = Loader(data, DistributedBatchSampler(6).bind(6, evaluation=True), training=False)
    assert_equal(arrays(one.epoch(0)), arrays(one.epoch(0)))
