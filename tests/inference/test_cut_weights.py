"""Weights that are not whole are refused before anything loads them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.distill.inference_model import InferenceModel
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import make_engine
from ppcls_lite.inference.engines.files import find_program
from ppcls_lite.inference.engines.weights_file import check_weights
from ppcls_lite.inference.onnx.export import to_onnx
from ppcls_lite.inference.predictor import Predictor


@pytest.fixture
def stock(exported: Any, tmp_path: Path) -> Path:
    """A folder as PaddleClas writes it: no check sums."""
    folder = tmp_path / "stock"
    shutil.copytree(exported.folder, folder)
    yml = folder / "inference.yml"
    kept, _, _ = yml.read_text(encoding="utf-8").partition("  sha256:")
    rest = yml.read_text(encoding="utf-8").partition("PreProcess:")[2]
    yml.write_text(f"{kept}PreProcess:{rest}", encoding="utf-8")
    return folder


def cut(folder: Path, count: int) -> None:
    weights = folder / "inference.pdiparams"
    weights.write_bytes(weights.read_bytes()[:-count])


def starts(data: bytes) -> list[int]:
    """Where each tensor begins, found by the header that all tensors of float32 have."""
    head = re.compile(re.escape(bytes(16)) + rb"[\x04-\x10]\0\0\0\x08\x05\x10", re.DOTALL)
    return [found.start() for found in head.finditer(data)]


def test_every_length_but_the_whole_is_refused(exported: Any, tmp_path: Path) -> None:
    program, weights = find_program(exported.folder)
    check_weights(program, weights)
    data = weights.read_bytes()
    last = starts(data)[-1]
    assert len(data) - last > 100
    part = tmp_path / "inference.pdiparams"
    for length in [*range(last - 40, last + 60), *range(last + 60, len(data), 997), len(data) - 1]:
        part.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut off") as caught:
            check_weights(program, part)
        assert str(part) in str(caught.value)
    part.write_bytes(data + b"\0")
    with pytest.raises(UserError, match=r"cut off or damaged"):
        check_weights(program, part)


@pytest.mark.parametrize(
    "load",
    [
        Predictor,
        make_engine,
        to_onnx,
        lambda folder: InferenceModel(str(folder)),
    ],
)
def test_nothing_loads_them(load: Callable[[Path], Any], stock: Path) -> None:
    assert Predictor(stock).spec.checksums == {}
    cut(stock, 4)
    with pytest.raises(UserError, match=r"inference.pdiparams: is cut off"):
        load(stock)


def test_weights_without_the_last_tensor_are_refused(stock: Path) -> None:
    weights = stock / "inference.pdiparams"
    data = weights.read_bytes()
    weights.write_bytes(data[: starts(data)[-1]])
    with pytest.raises(UserError, match=r"holds \d+ tensors, but inference.json reads \d+"):
        Predictor(stock)
