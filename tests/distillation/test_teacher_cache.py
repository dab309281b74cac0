"""The cache of the teachers' logits: what it returns, what it refuses, and runs that are killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite import teacher_cache
from ppcls_lite.errors import UserError
from ppcls_lite.teacher_cache import TeacherCache, open_cache

VIEWS, IMAGES, CLASSES = 2, 10, {"Teacher": 4, "Second": 3}
PARTS = {"weights of Teacher": "aa", "weights of Second": "ab", "transforms": "bb", "seed": "7"}


class Teachers:
    """Logits that are a function of an image; counts the images it is asked about."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        images = batch["image"]
        self.seen += len(images)
        return {name: images[:, 0, 0, :count] * 1.001 for name, count in CLASSES.items()}


def batch_of(view: int, index: list[int]) -> dict[str, paddle.Tensor]:
    values = [np.random.default_rng((view, i)).standard_normal((1, 1, 4)) for i in index]
    return {
        "image": paddle.to_tensor(np.array(values, np.float32)),  # (N, C, H, W)
        "index": paddle.to_tensor(np.array(index)),
        "view": paddle.to_tensor(np.full(len(index), view)),
    }


def opened(folder: Path, **changes: Any) -> TeacherCache:
    given = {"views": VIEWS, "images": IMAGES, "classes": CLASSES, "parts": PARTS} | changes
    return open_cache(folder, **given)


def arrays(outputs: dict[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    assert all(tensor.dtype == paddle.float32 for tensor in outputs.values())
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert list(first) == list(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_a_teacher_is_asked_once_for_each_image_and_view(tmp_path):
    teachers, cache = Teachers(), opened(tmp_path / "cache")
    batch = batch_of(1, [3, 0, 7])
    exact = arrays(teachers(batch))
    first = arrays(cache.outputs(batch, teachers))
    assert teachers.seen == 6
    for name, count in CLASSES.items():
        assert first[name].shape == (3, count)
        rounded = exact[name].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(first[name], rounded)
    assert_equal(arrays(cache.outputs(batch, teachers)), first)
    other_order = arrays(cache.outputs(batch_of(1, [7, 3]), teachers))
    assert_equal(other_order, {name: array[[2, 0]] for name, array in first.items()})
    assert teachers.seen == 6
    cache.outputs(batch_of(1, [3, 5]), teachers)  # asks about image 5 alone
    cache.outputs(batch_of(0, [3]), teachers)  # another view
    assert teachers.seen == 8
    assert cache.share == 5 / 20


def test_what_was_flushed_is_there_for_the_next_run(tmp_path):
    cache, teachers = opened(tmp_path), Teachers()
    kept = arrays(cache.outputs(batch_of(0, [1, 2]), teachers))
    cache.flush()
    cache.outputs(batch_of(0, [4]), teachers)  # and then the run is killed
    del cache
    again, teachers = opened(tmp_path), Teachers()
    assert_equal(arrays(again.outputs(batch_of(0, [1, 2]), teachers)), kept)
    assert teachers.seen == 0 and again.share == 2 / 20
    again.outputs(batch_of(0, [4]), teachers)
    assert teachers.seen == 1


def test_a_long_run_flushes_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "FLUSH_SECONDS", -1.0)
    opened(tmp_path).outputs(batch_of(0, [1, 2]), Teachers())
    assert opened(tmp_path).share == 2 / 20


def test_two_processes_fill_one_cache(tmp_path):
    one, two, teachers = opened(tmp_path), opened(tmp_path), Teachers()
    first = arrays(one.outputs(batch_of(0, [0, 1]), teachers))
    two.outputs(batch_of(0, [2, 3]), teachers)
    one.flush()
    two.flush()
    assert_equal(arrays(two.outputs(batch_of(0, [0, 1]), teachers)), first)
    one.outputs(batch_of(0, [3, 2]), teachers)
    assert teachers.seen == 4 and one.share == two.share == 4 / 20


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"parts": PARTS | {"weights of Second": "cd"}}, "weights of Second: ab there, cd here"),
        ({"parts": PARTS | {"transforms": "cc"}}, "transforms: bb there, cc here"),
        ({"parts": PARTS | {"seed": "8"}}, "seed: 7 there, 8 here"),
        ({"views": 3}, "number of views: 2 there, 3 here"),
        ({"images": 11}, "number of images: 10 there, 11 here"),
        ({"classes": {"Teacher": 4}}, "classes of Second: 3 there, nothing here"),
    ],
)
def test_a_stale_cache_is_refused_with_what_differs(tmp_path, changes, named):
    opened(tmp_path).outputs(batch_of(0, [1]), Teachers())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        opened(tmp_path, **changes)
    assert named in str(error.value) and "name another folder" in str(error.value)
    assert str(error.value).count(" there, ") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damage_is_noticed(tmp_path):
    opened(tmp_path)
    (tmp_path / "Second.f16").write_bytes(b"short")
    with pytest.raises(UserError, match=r"Second.f16: expected 120 bytes, found 5"):
        opened(tmp_path)
    (tmp_path / "Second.f16").unlink()
    with pytest.raises(UserError, match="found no such file"):
        opened(tmp_path)
    for text in ("{", "[]", '{"format": 1}', "{}"):
        (tmp_path / "header.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="no header of a teacher cache"):
            opened(tmp_path)
    (tmp_path / "header.json").write_text(json.dumps({"format": 2}), encoding="utf-8")
    with pytest.raises(UserError, match="another version"):
        opened(tmp_path)


def test_a_run_killed_while_the_files_are_made_leaves_no_cache(tmp_path):
    opened(tmp_path)
    (tmp_path / "header.json").rename(tmp_path / "header.tmp")
    (tmp_path / "filled.u8").write_bytes(b"\1" * 20)
    assert opened(tmp_path).share == 0


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds other files \(a.jpg\)"):
        opened(tmp_path / "photos")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        opened(tmp_path / "file")
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0.0 GB are free; use fewer Global.teacher_cache_views"):
        opened(tmp_path / "full")


def test_answers_that_cannot_be_kept(tmp_path):
    cache = opened(tmp_path, classes={"Teacher": 4})
    batch = batch_of(0, [1])
    with pytest.raises(UserError, match="Teacher gives blocks5 as well"):
        cache.outputs(batch, lambda b: {"Teacher": {"logits": b["image"], "blocks5": b["image"]}})
    for value in (1e5, -1e5, float("nan")):
        with pytest.raises(UserError, match="float16 cannot hold"):
            cache.outputs(batch, lambda b, v=value: {"Teacher": paddle.full([1, 4], v)})
    assert cache.share == 0
