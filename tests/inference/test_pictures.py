"""`predict --draw` and `--save-png`: answers as pictures, with the photographs' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.data.mask_file import read_mask
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess.run_lengths import decode_map


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose network finds the brightest of three colours, on images of any size."""
    paddle.seed(0)
    network = nn.Conv2D(3, 3, 1, bias_attr=False)
    network.weight.set_value(paddle.eye(3).reshape([3, 3, 1, 1]))
    folder = tmp_path_factory.mktemp("segmenter") / "m"
    ops = [{"NormalizeImage": {"order": ""}}]
    export_model(network, folder, (3, -1, -1), ops, {"Segmentation": {}}, ["red", "green", "blue"])
    return folder


def call(model: Path, source: Path, *options: str) -> int:
    return run(["--model", str(model), "--threads", "1", "--input", str(source), *options])


def test_pictures_have_the_names_of_their_photographs(
    segmenter: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.jpg").write_bytes((pictures / "b.JPG").read_bytes())  # beside a.png
    (pictures / "broken.png").write_bytes(b"no picture")
    drawn, own, lines = tmp_path / "drawn", tmp_path / "own", tmp_path / "r.jsonl"
    options = "--draw", str(drawn), "--save-png", str(own), "--output", str(lines)
    assert call(segmenter, pictures, *options) == 1
    for folder, suffix in ((drawn, ".jpg"), (own, ".png")):
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
        stems = "a.png", "a.jpg", "b", "ü 1", "more of them/c"
        assert names == {f"{stem}{suffix}" for stem in stems}
    out = capsys.readouterr().out
    assert f"pictures: {drawn}" in out and f"pictures: {own}" in out
    results = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    found = next(result for result in results if result["file"].endswith("a.png"))
    image = cv2.imread(str(pictures / "a.png"))
    saved = read_mask(str(own / "a.png.png"))
    assert (saved.numbers == decode_map(found["mask"])).all()
    assert saved.numbers.shape == image.shape[:2]
    shown = cv2.imread(str(drawn / "a.png.jpg"))
    high, wide = image.shape[:2]  # the names stand beside so small a picture
    assert shown.shape[1] > wide
    assert np.abs(shown[:high, :wide].astype(int) - image).mean() > 10


def test_answers_that_are_no_pictures(exported: Any, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--save-png: the answers of Topk are no pictures"):
        call(exported.folder, pictures, "--save-png", str(tmp_path / "own"))
    assert call(exported.folder, pictures / "a.png", "--draw", str(tmp_path / "drawn")) == 0
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["a.jpg"]


def test_photographs_are_not_overwritten(segmenter: Path, pictures: Path) -> None:
    with pytest.raises(UserError, match="holds the images to predict; name another folder"):
        call(segmenter, pictures, "--draw", str(pictures))


def test_the_service_sends_what_a_page_lays_over_the_image(segmenter: Path, pictures: Path) -> None:
    for package in ("starlette", "httpx", "prometheus_client", "python_multipart"):
        pytest.importorskip(package, reason="the service needs pip install .[serve]")
    import base64

    from starlette.testclient import TestClient

    from ppcls_lite.inference.predictor import Predictor
    from ppcls_lite.serve.app import LAYER_EDGE, Service, make_app
    from ppcls_lite.serve.options import ServeOptions

    wide = np.zeros((20, 3 * LAYER_EDGE, 3), np.uint8)
    wide[:, 100:] = 200, 0, 0
    small = cv2.imread(str(pictures / "a.png"))
    service = Service(Predictor(segmenter, threads=1), ServeOptions())
    with TestClient(make_app(service)) as client:
        for image in (small, wide):
            content = cv2.imencode(".png", image)[1].tobytes()
            answer = client.post("/predict?layer=1", content=content).json()
            layer = np.frombuffer(base64.b64decode(answer["layer"]), np.uint8)
            layer = cv2.imdecode(layer, cv2.IMREAD_UNCHANGED)
            assert layer.shape[2] == 4 and max(layer.shape[:2]) <= LAYER_EDGE
            assert len(answer["colours"]) == len(answer["class_ids"]) > 0
            if image is small:
                colours = service.predictor.postprocess.colours[decode_map(answer["mask"])]
                assert (layer[..., 2::-1] == colours).all()
        assert "layer" not in client.post("/predict", content=content).json()
        page, script = (client.get(path).text for path in ("/", "/page/page.js"))
    assert 'id="opacity"' in page and "layer=1" in script
