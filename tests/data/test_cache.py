"""The cache of decoded images: the same samples bit by bit, room, other processes, torn files."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.data import cache
from ppcls_lite.data.datasets import LabeledDataset
from ppcls_lite.data.image_list import PathList
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.photometric import RandomErasing
from ppcls_lite.errors import UserError
from ppcls_lite.recipe import parts as builders


@pytest.fixture
def paths(tmp_path):
    """JPEGs of several sizes, a grey one and a transparent PNG."""
    rng = np.random.default_rng(0)
    folder, found = tmp_path / "images", []
    folder.mkdir()
    for i in range(8):
        shape = (10 + i, 20, 1 if i == 2 else 4 if i == 5 else 3)
        image = rng.integers(0, 256, shape, np.uint8).repeat(4, 0).repeat(4, 1)
        found.append(str(folder / f"{i}.{'png' if i == 5 else 'jpg'}"))
        cv2.imwrite(found[-1], image)
    return found


def dataset(paths, **decode):
    ops = [DecodeImage(**decode), RandCropImage(16), NormalizeImage(order="")]
    # writes into its input, which must not reach the cache
    ops.insert(2, RandomErasing(EPSILON=1.0, use_log_aspect=True))
    labels = np.arange(len(paths))
    return LabeledDataset("test", PathList(paths), labels, ops, len(paths), 0, [])


def batches(data, workers=0, epochs=(1, 2)):
    loader = Loader(data, DistributedBatchSampler(3, shuffle=True).bind(len(data)), (), workers)
    try:
        return [batch["image"].numpy() for epoch in epochs for batch in loader.epoch(epoch)]
    finally:
        loader.close()


def made(kind, paths, folder):
    return (
        cache.in_memory(paths)
        if kind == "ram"
        else cache.on_disk(paths, folder / "cache", "train", "cv2")
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("to_rgb", [True, False])
def test_samples_are_the_same_bit_by_bit(kind, workers, to_rgb, paths, tmp_path):
    plain = batches(dataset(paths, to_rgb=to_rgb))
    data, kept = dataset(paths, to_rgb=to_rgb), made(kind, paths, tmp_path)
    data.keep_decoded(kept)
    for found, expected in zip(batches(data, workers), plain, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert kept.kept == len(paths)  # also what the workers have decoded
    for path in paths:
        os.truncate(path, 10)  # nobody reads them any more
    for found, expected in zip(batches(data, workers), plain, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_later_run_finds_the_file_and_changed_images_make_a_new_one(paths, tmp_path):
    def opened(names=paths):
        return made("disk", names, tmp_path)

    data = dataset(paths)
    data.keep_decoded(opened())
    batches(data)
    assert opened().kept == len(paths)
    state = Path(paths[0]).stat()
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    assert opened().kept == 0
    batches_of_new = dataset(paths)
    batches_of_new.keep_decoded(opened())
    batches(batches_of_new)
    assert opened().kept == len(paths)
    assert opened(paths[:-1]).kept == 0
    assert len(list((tmp_path / "cache").glob("*.decoded"))) == 1  # older ones have gone


def test_torn_pixels_and_torn_files_are_not_trusted(paths, tmp_path):
    data, kept = dataset(paths), made("disk", paths, tmp_path)
    data.keep_decoded(kept)
    plain = batches(data)
    (file,) = (tmp_path / "cache").glob("*.decoded")
    content = bytearray(file.read_bytes())
    whole = bytes(content)
    content[-5] ^= 1  # in the last image
    file.write_bytes(content)
    again = made("disk", paths, tmp_path)
    assert again.get(7) is None and again.get(6) is not None
    data.keep_decoded(again)
    for found, expected in zip(batches(data), plain, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert file.read_bytes() == whole  # repaired
    for damage in (whole[:-1], whole[:40], b"", whole[:70] + b"\xff" + whole[71:]):
        file.write_bytes(damage)
        assert made("disk", paths, tmp_path).kept == 0


def test_no_room(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_free_memory", lambda: 2**16)
    with pytest.raises(
        UserError, match=r"ram: 8 decoded images need 0\.1 MiB, but of memory 0\.1 MiB.*cache: disk"
    ):
        cache.in_memory(paths)
    monkeypatch.setattr(cache, "_free_memory", lambda: 2**20)
    cache.in_memory(paths)
    with pytest.raises(UserError, match=r"need 1024\.1 MiB, but of memory 1\.0 MiB"):
        cache.in_memory(paths, taken=2**30)
    with pytest.raises(UserError, match=r"need 5\.\d MiB"):
        cache.in_memory(paths, copies=50)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"disk: 8 decoded images need .* another cache_dir"):
        made("disk", paths, tmp_path)
    assert not list((tmp_path / "cache").glob("*decoded*"))


def test_an_image_that_is_not_readable_stays_an_error(paths):
    Path(paths[3]).write_bytes(b"no image")
    kept = cache.in_memory(paths)
    data = dataset(paths)
    data.keep_decoded(kept)
    for _ in range(2):
        with pytest.raises(UserError, match="not an image"):
            data[3]
    assert data[4]["image"].shape == (3, 16, 16) and kept.kept == 1


def _fill(paths, folder, barrier, answers):
    barrier.wait()
    data = dataset(paths)
    data.keep_decoded(cache.on_disk(paths, folder, "train", "cv2"))
    answers.put(sum(float(np.abs(b).sum()) for b in batches(data)))


def test_several_ranks_may_open_and_fill_one_at_once(paths, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.SimpleQueue()
    team = [
        context.Process(target=_fill, args=(paths, tmp_path / "cache", barrier, answers))
        for _ in range(3)
    ]
    for process in team:
        process.start()
    for process in team:
        process.join(60)
        assert process.exitcode == 0
    expected = sum(float(np.abs(b).sum()) for b in batches(dataset(paths)))
    assert {answers.get() for _ in team} == {expected}
    assert made("disk", paths, tmp_path).kept == len(paths)


def recipe(paths, folder, **changes):
    (folder / "list.txt").write_text("".join(f"{p} 0\n" for p in paths), encoding="utf-8")
    ops = changes.pop("transform_ops", ["DecodeImage", {"RandCropImage": {"size": 16}}])
    source = {"name": "ImageNetDataset", "image_root": "", "transform_ops": ops}
    source |= {"cls_label_path": str(folder / "list.txt"), **changes}
    split = {"dataset": source, "sampler": {"name": "DistributedBatchSampler", "batch_size": 2}}
    return check(
        {"Arch": {"name": "PPLCNet_x0_25", "class_num": 2}, "DataLoader": {"Train": split}}
    )


def test_the_key_of_the_data_set(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = builders.build_datasets(recipe(paths, tmp_path), ["Train"])["Train"]
    for changes in ({"cache": "ram"}, {"cache": "disk"}, {"cache": "disk", "cache_dir": "x/y"}):
        data = builders.build_datasets(recipe(paths, tmp_path, **changes), ["Train"])["Train"]
        for _ in range(2):
            np.testing.assert_array_equal(data[1]["image"], plain[1]["image"])
        assert data._cache.kept == 1
    assert len(list(tmp_path.glob("cache/train-*.decoded"))) == 1
    assert len(list(tmp_path.glob("x/y/train-*.decoded"))) == 1
    for ops, found in (
        ([{"DecodeImage": {"reduced": True}}, {"RandCropImage": {"size": 16}}], "reduced: True"),
        ([{"ResizeImage": {"size": 16}}], "ResizeImage"),
    ):
        wrong = recipe(paths, tmp_path, cache="ram", transform_ops=ops)
        with pytest.raises(UserError, match=f"cache: keeps whole .* found {found}"):
            builders.build_datasets(wrong, ["Train"])
    Path("file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cache_dir: file: "):
        builders.build_datasets(recipe(paths, tmp_path, cache="disk", cache_dir="file"), ["Train"])
