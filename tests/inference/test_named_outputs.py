"""A network with two outputs, and a post-processing of one's own: nothing else knows of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.auto.choose import refusal
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.engines import available_engines
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec

SIZE = 32
OPS = [{"ResizeImage": {"size": SIZE}}, {"NormalizeImage": {"order": ""}}]
PARTS = '''
import numpy as np
from ppcls_lite import register
from ppcls_lite.inference.agreement import Agreement, distance, relative_difference
from ppcls_lite.inference.postprocess.base import Column, Postprocess


@register("postprocess")
class Box(Postprocess):
    """One box an image, if its score reaches the threshold."""

    columns = (Column("right", "right", 8, 1), Column("score", "score"))

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold

    def __call__(self, outputs, metas=()):
        results = []
        for box, score, meta in zip(outputs["boxes"], outputs["scores"][:, 0], metas):
            found = [box.tolist()] if score >= self.threshold else []
            boxes = [[x * meta.width, y * meta.height] for x, y in found]
            results.append({"boxes": boxes, "scores": [float(score)] * len(boxes)})
        return results

    def rows(self, result):
        return [(box[0], score) for box, score in zip(result["boxes"], result["scores"])]

    def agreement(self, reference, found, kind="probabilities"):
        moved = np.abs(reference["boxes"] - found["boxes"]).max(axis=1)
        return Agreement(
            relative_difference(reference, found), distance(reference, found),
            lost=np.where(moved > 0.01, moved, 0.0), lead=np.ones(len(moved)), answer="box",
        )
'''


class Toy(nn.Layer):
    """Where the picture's brightness lies (N, 2), and how sure that is (N, 1)."""

    outputs = ("boxes", "scores")

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.features = nn.Conv2D(3, 4, 3, stride=2)
        self.box, self.score = nn.Linear(4, 2), nn.Linear(4, 1)
        self.wrong = wrong

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        feature = nn.functional.relu(self.features(x)).mean([2, 3])  # (N, 4)
        return {"raw": self.box(feature), "score": self.score(feature)}

    def deployed(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        found = self(x)
        return [nn.functional.sigmoid(found["raw"]), nn.functional.sigmoid(found["score"])]

    def reparameterize(self) -> int:
        if self.wrong:
            self.box.bias.set_value(self.box.bias + 1)
        return int(self.wrong)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "parts.py"
    path.write_text(PARTS, encoding="utf-8")
    return path


def export(folder: Path, plugin: Path, model: nn.Layer, format: str = "paddle") -> Any:
    shape = (3, SIZE, SIZE)
    return export_model(
        model, folder, shape, OPS, {"Box": {}}, model_name="Toy", format=format, plugins=[plugin]
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> tuple[Path, Toy, Any]:
    """An exported folder, its network, and the report of the export."""
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    paddle.seed(3)
    model, folder = Toy(), tmp_path_factory.mktemp("toy") / "model"
    report = export(folder, plugin, model, "both")
    model.eval()
    return folder, model, report


def test_the_folder_names_outputs_and_plug_ins(toy: Any, plugin: Path) -> None:
    folder, _, report = toy
    about = yaml.safe_load((folder / "inference.yml").read_text())["Global"]
    assert (about["outputs"], about["plugins"]) == (["boxes", "scores"], ["parts.py"])
    assert "boxes [2] and scores [1] equal the network's on 4 images" in str(report)
    with pytest.raises(UserError, match=r"was made with the plug-in parts.py; .*--plugins FILE"):
        Predictor(folder)
    assert InferenceSpec.read(folder, [plugin]).outputs == ("boxes", "scores")
    classifier = InferenceSpec("x", OPS, {"Topk": {}}).text()
    assert "outputs" not in classifier and "plugins" not in classifier  # as before there were any


@pytest.mark.parametrize("engine", ["paddle", "openvino", "onnxruntime"])
def test_every_engine_gives_the_outputs_by_name(engine: Any, toy: Any, plugin: Path) -> None:
    if available_engines()[engine] is not None:
        pytest.skip(f"{engine} is not installed")
    folder, model, _ = toy
    predictor = Predictor(folder, engine=engine, threads=1, plugins=[plugin])
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    prepared = predictor.pipeline.prepare(picture)
    assert (prepared.meta.height, prepared.meta.width) == (90, 120)
    outputs = predictor.pipeline.run([prepared.array])
    expected = model.deployed(paddle.to_tensor(prepared.array[None]))
    for (name, found), tensor in zip(outputs.items(), expected, strict=True):
        assert found == pytest.approx(tensor.numpy(), abs=1e-5), name
    box = expected[0].numpy()[0] * [120, 90]
    (result,) = predictor.predict(picture)
    assert result["boxes"][0] == pytest.approx(box, rel=1e-4) and result["file"] is None


def test_an_export_compares_answers_as_the_post_processing_does(
    tmp_path: Path, plugin: Path
) -> None:
    with pytest.raises(UserError, match=r"box changed on 5 of 5 images; nothing was written"):
        export(tmp_path / "m", plugin, Toy(wrong=True))
    assert not (tmp_path / "m").exists()


def test_auto_asks_the_post_processing(toy: Any, plugin: Path) -> None:
    answers = build_postprocess(InferenceSpec.read(toy[0], [plugin]))
    boxes, scores = np.full((8, 2), 0.5, np.float32), np.ones((8, 1), np.float32)
    reference = {"boxes": boxes, "scores": scores}
    for moved, wrong in ((0.005, None), (0.02, "box equal on 0% of the decided images")):
        found = {"boxes": boxes + moved, "scores": scores}
        said = refusal(answers, reference, found, "bf16", "logits")
        assert said is None if wrong is None else wrong in said
    found = {"boxes": boxes, "scores": scores[:, :0]}
    said = refusal(answers, reference, found, "fp32", "logits")
    assert said == "gives the shape (8, 0) for scores instead of (8, 1)"


def test_the_command_writes_its_columns(
    toy: Any, plugin: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = toy[0]
    command = ["--model", str(folder), "--plugins", str(plugin), "--threads", "1"]
    command += ["--input", str(pictures)]
    lines, table = tmp_path / "r.jsonl", tmp_path / "r.csv"
    for out in (lines, table):
        assert run([*command, "--output", str(out)]) == 0
    results = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    shown = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(shown) if line.startswith("file"))
    assert shown[head].split() == ["file", "right", "score"]
    right, score = results[0]["boxes"][0][0], results[0]["scores"][0]
    assert shown[head + 1].endswith(f"{right:8.1f}  {score}")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "rank", "right", "score", "error"]
    assert rows[1] == [results[0]["file"], "1", str(right), str(score), ""]
    whole = table.read_bytes()
    table.write_bytes(whole[:-10])  # a torn end is done again
    assert run([*command, "--output", str(table), "--resume"]) == 0
    assert table.read_bytes() == whole


def test_an_image_without_rows_has_its_place(toy: Any, plugin: Path, pictures: Path) -> None:
    folder = toy[0]
    out, spec = folder.parent / "r.csv", folder / "inference.yml"
    text = spec.read_text()
    spec.write_text(text.replace("Box: {}", "Box: {threshold: 2.0}"))
    command = ["--model", str(folder), "--plugins", str(plugin), "--threads", "1"]
    command += ["--input", str(pictures), "--output", str(out), "--resume"]
    assert run(command) == 0
    spec.write_text(text)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and all(line.endswith(",1,,,") for line in lines[1:])


def test_the_service_answers_with_its_results(toy: Any, plugin: Path, pictures: Path) -> None:
    for package in ("starlette", "httpx", "prometheus_client", "python_multipart"):
        pytest.importorskip(package, reason="the service needs pip install .[serve]")
    from starlette.testclient import TestClient

    from ppcls_lite.serve.app import Service, make_app
    from ppcls_lite.serve.options import ServeOptions

    predictor = Predictor(toy[0], threads=1, plugins=[plugin])
    picture = pictures / "a.png"
    with TestClient(make_app(Service(predictor, ServeOptions()))) as client:
        answer = client.post("/predict", content=picture.read_bytes())
    assert answer.status_code == 200
    assert {"file": str(picture), **answer.json()} == predictor.predict(picture)[0]


def test_a_result_is_drawn(toy: Any, plugin: Path) -> None:
    predictor = Predictor(toy[0], threads=1, plugins=[plugin])
    picture = np.full((60, 160, 3), 128, np.uint8)
    drawn = predictor.postprocess.draw(picture, predictor.predict(picture)[0])
    assert drawn.shape == picture.shape and (picture == 128).all()
    assert (drawn == 255).any() and (drawn == 0).any() and (drawn[40:] == 128).all()


def test_classes_are_not_read_from_other_outputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives boxes, scores; expected one output, the scores of"):
        export_model(Toy(), tmp_path / "m", (3, SIZE, SIZE), OPS, {"Topk": {}})
    assert not (tmp_path / "m").exists()
