"""The program of maps: what gradients say, on every engine, and its place over the photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import EngineChoice, available_engines
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.maps import Maps, over_photograph
from ppcls_lite.inference.preprocess import Preprocessor
from ppcls_lite.models.class_map import class_maps
from ppcls_lite.models.create import create_model
from ppcls_lite.models.network import Network

SIZE = 64
OPS = [
    {"DecodeImage": None},
    {"ResizeImage": {"resize_short": 80}},
    {"CropImage": {"size": SIZE}},
    {"NormalizeImage": {"order": ""}},
    {"ToCHWImage": None},
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    paddle.seed(3)
    network, folder = create_model("PPLCNet_x0_25", class_num=3), tmp_path_factory.mktemp("maps")
    network.eval()
    options = {"labels": ["a", "b", "c"], "format": "both", "programs": ["maps"]}
    export_model(network, folder / "export", (3, SIZE, SIZE), OPS, **options)
    return network, folder / "export"


@pytest.mark.parametrize("engine", ["paddle", "openvino", "onnxruntime"])
def test_every_engine_gives_what_gradients_say(engine: str, exported: tuple[Network, Path]) -> None:
    if available_engines()[engine] is not None:  # type: ignore[index]
        pytest.skip(f"{engine} is not installed")
    network, folder = exported
    image = np.random.default_rng(1).standard_normal((3, SIZE, SIZE)).astype(np.float32)
    choice = EngineChoice(engine, threads=1)  # type: ignore[arg-type]
    with Maps(folder, choice, limit=60) as maps:
        found = maps.of(image)
    assert found.shape == (3, 2, 2)
    for chosen in range(3):
        expected = class_maps(network, paddle.to_tensor(image[None]), [chosen]).maps[0]
        np.testing.assert_allclose(found[chosen], expected, atol=2e-3 * np.abs(expected).max())


def test_an_export_without_maps_has_none(exported: tuple[Network, Path], tmp_path: Path) -> None:
    network, folder = exported
    plain = tmp_path / "plain"
    export_model(network, plain, (3, SIZE, SIZE), OPS, labels=["a", "b", "c"])
    own = {file.name for file in folder.iterdir() if file.suffix != ".onnx"}
    assert {file.name for file in plain.iterdir()} == own - {"maps"}
    with pytest.raises(UserError, match="export the network with --with-maps"):
        Maps(plain, EngineChoice(), limit=60)


def test_sizes_that_maps_cannot_have_are_refused(tmp_path: Path) -> None:
    network = create_model("PPLCNet_x0_25", class_num=3)
    for edge in (-1, 672):
        with pytest.raises(UserError, match=r"images of one size .* at most 400 places; found"):
            export_model(network, tmp_path / "a", (3, edge, edge), OPS[3:], programs=["maps"])


def test_a_map_lies_where_it_was_seen() -> None:
    photograph = np.zeros((120, 240, 3), np.uint8)  # resized to 160 x 80, 48 cut off at the left
    seen = Preprocessor(OPS)(photograph)
    heat = np.zeros((4, 4), np.float32)
    heat[3, 0] = 2  # the lower left of the middle 64 x 64 of 160 x 80
    layer = over_photograph(heat, seen, longest=120)  # half the photograph's size
    assert layer.shape == (60, 120, 4)
    left, top, right, bottom = (np.array([48, 8, 112, 72]) * 0.75).astype(int)
    assert (layer[:, : left - 1] == [0, 0, 0, 192]).all()
    assert (layer[:, right + 1 :] == [0, 0, 0, 192]).all()
    inside = layer[top + 1 : bottom - 1, left + 1 : right - 1].astype(int)
    assert inside[-3, 3].sum() > inside[3, -3].sum() + 200
