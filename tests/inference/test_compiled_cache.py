"""OpenVINO's compiled networks are kept for the next start, and never stand in the way."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.inference.engines import compiled_cache, make_engine
from ppcls_lite.inference.engines.compiled_cache import CompiledCache
from ppcls_lite.system.installed import missing

pytestmark = pytest.mark.skipif(bool(missing("openvino")), reason=str(missing("openvino")))
SHAPE = (1, 3, 64, 64)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))
    return tmp_path / "openvino"


def engine(folder: Path) -> Any:
    return make_engine(folder, "openvino", threads=1, warmup_shape=SHAPE)


def answer(made: Any, count: int = 1) -> np.ndarray:
    batch = np.random.default_rng(0).standard_normal((count, *SHAPE[1:]), np.float32)
    return made.run(batch)[0]


def test_the_second_start_compiles_nothing(
    exported_both: Any, home: Path, monkeypatch: pytest.MonkeyPatch
):
    first = engine(exported_both.folder)
    (kept,) = home.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(type(first), "_compile", None)  # whoever compiles fails
        second = engine(exported_both.folder)
    assert np.array_equal(answer(second), answer(first))
    assert np.allclose(answer(second, 3), answer(first, 3))  # another shape is compiled when asked
    assert list(home.iterdir()) == [kept]


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_damaged_file_is_made_anew(exported_both: Any, home: Path, damage: bytes | None):
    expected = answer(engine(exported_both.folder))
    (kept,) = home.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100] if damage is None else damage)
    assert np.array_equal(answer(engine(exported_both.folder)), expected)
    assert CompiledCache("").read(kept) is not None


def test_what_openvino_does_not_take_is_made_anew(exported_both: Any, home: Path):
    expected = answer(engine(exported_both.folder))
    (kept,) = home.iterdir()
    CompiledCache("").write(kept, b"a compiled network of another build")
    assert np.array_equal(answer(engine(exported_both.folder)), expected)
    assert len(kept.read_bytes()) > 10_000


def test_a_folder_that_cannot_be_made_costs_only_time(
    exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "ppcls_lite"):
        assert np.isfinite(answer(engine(exported_both.folder))).all()
    assert caplog.text.count("the compiled network is not kept") == 1


@pytest.mark.skipif(os.name != "posix", reason="access rights of POSIX systems")
def test_a_folder_that_others_may_write_is_not_believed(exported_both: Any, home: Path):
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert np.isfinite(answer(engine(exported_both.folder))).all()
    assert list(home.iterdir()) == []


def test_everything_that_matters_is_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, cache = tmp_path / "a.onnx", CompiledCache("1", tmp_path / "kept")
    model.write_bytes(b"1")
    names = {cache.path(model, SHAPE, {"THREADS": 1})}
    names.add(cache.path(model, SHAPE, {"THREADS": 2}))
    names.add(cache.path(model, (2, *SHAPE[1:]), {"THREADS": 1}))
    names.add(CompiledCache("2", tmp_path / "kept").path(model, SHAPE, {"THREADS": 1}))
    model.write_bytes(b"2")  # the same path, size and perhaps time
    names.add(cache.path(model, SHAPE, {"THREADS": 1}))
    monkeypatch.setattr(compiled_cache, "cpu_identity", lambda: "another processor")
    names.add(cache.path(model, SHAPE, {"THREADS": 1}))
    assert len(names) == 6 and None not in names


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled_cache, "LIMIT", 350)
    cache, files = CompiledCache("1", tmp_path), [tmp_path / f"{i}.blob" for i in range(4)]
    for age, file in enumerate(files[:3]):
        cache.write(file, b"x" * 80)  # 112 bytes each
        os.utime(file, (1000 + age, 1000 + age))
    assert cache.read(files[0]) is not None  # the latest use
    cache.write(files[3], b"x" * 80)
    assert sorted(tmp_path.iterdir()) == [files[0], files[2], files[3]]
