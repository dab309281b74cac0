"""deploy/quantize.py: what it writes, what it measures, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite import cli
from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import Agreement
from ppcls_lite.inference.auto import choose
from ppcls_lite.inference.auto.choose import _require_small_loss
from ppcls_lite.inference.engines import available_precisions, make_engine
from ppcls_lite.inference.onnx.metadata import QUANTIZATION_KEY, read_metadata
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.quantize import int8 as quantize
from ppcls_lite.inference.quantize import report as quantize_report
from ppcls_lite.inference.spec import InferenceSpec

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime, which quantises, is not installed")


def write_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    folder.mkdir()
    paths = []
    for index in range(count):
        colours = np.random.default_rng(seed + index).integers(0, 256, (5, 7, 3), np.uint8)
        paths.append(folder / f"{index}.png")
        picture = cv2.resize(colours, (140, 100), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(paths[-1]), picture)
    return paths


@pytest.fixture(scope="module")
def place(exported_both: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder `m`, calibration pictures and an evaluation list whose labels are what
    the float network says, but for the first, which is wrong."""
    room = tmp_path_factory.mktemp("quantize")
    shutil.copytree(exported_both.folder, room / "m")
    write_pictures(room / "calibration", 12, 0)
    paths = write_pictures(room / "evaluation", 20, 100)
    predictor = Predictor(room / "m", threads=1, topk=1)
    labels = [result["class_ids"][0] for result in predictor.predict(paths)]
    labels[0] = (labels[0] + 1) % 5
    lines = [f"evaluation/{p.name} {label}" for p, label in zip(paths, labels, strict=True)]
    (room / "list.txt").write_text("\n".join(lines))
    return room


def into(folder: Path, images: list[np.ndarray], room: Path, keep_float: str = "auto") -> list:
    """The variants that were tried, and `int8.onnx` in `room`."""
    spec = InferenceSpec.read(folder)
    file, tried = quantize.quantize(
        quantize.float_model(folder, spec, room), spec, images, room, keep_float
    )
    file.rename(room / "int8.onnx")
    return tried


def command(place: Path, model: Path, *more: str) -> list[str]:
    inputs = ["--calibration", str(place / "calibration"), "--evaluate", str(place / "list.txt")]
    return ["quantize", "--model", str(model), *inputs, "--threads", "1", *more]


@pytest.fixture(scope="module")
def quantised(place: Path) -> Path:
    assert cli.main(command(place, place / "m")) == 0
    return place / "m"


def test_the_report_is_what_the_engines_give(place: Path, quantised: Path) -> None:
    report = json.loads(read_metadata(quantised / "inference_int8.onnx")[QUANTIZATION_KEY])
    assert (report["images"], report["calibration_images"]) == (20, 12)
    assert report["metric"] == "top1" and report["higher_is_better"]
    assert report["bytes_after"] < 0.6 * report["bytes_before"]
    predictor = Predictor(quantised, threads=1, topk=1)
    lines = [line.split() for line in (place / "list.txt").read_text().splitlines()]
    arrays = [predictor.preprocess(place / path) for path, _ in lines]
    truth = [int(label) for _, label in lines]
    names = [n for n in ("openvino", "onnxruntime") if available_precisions(n)["int8"] is None]
    assert [item["engine"] for item in report["engines"]] == names
    for item in report["engines"]:
        engine = make_engine(quantised, item["engine"], "int8", 1)
        found = [int(engine.run(array[None])[0].argmax()) for array in arrays]
        assert item["score_before"] == pytest.approx(19 / 20)
        assert item["score_after"] == pytest.approx(np.mean(np.equal(found, truth)))
        # Of 20 pictures of a network that has learnt little; chance is a third.
        assert item["agreement"] > 0.5 and item["ms_before"] > 0 and item["ms_after"] > 0


def test_a_recipe_scores_by_its_metric(
    place: Path, exported_both: Any, chain: Any, tmp_path: Path, capsys: Any
) -> None:
    folder = shutil.copytree(exported_both.folder, tmp_path / "m")
    dataset = {"name": "ImageNetDataset", "image_root": str(place), "transform_ops": chain(64)}
    dataset |= {"cls_label_path": str(place / "list.txt")}
    sampler = {"name": "DistributedBatchSampler", "batch_size": 8}
    tree = {
        "Global": {"device": "cpu"},
        "Arch": {"name": "PPLCNet_x0_25", "class_num": 5},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [2, 1]}}]},
        "DataLoader": {"Eval": {"dataset": dataset, "sampler": sampler, "loader": {}}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    arguments = command(place, folder, "--keep-float", "none")
    start = arguments.index("--evaluate")
    arguments[start : start + 2] = ["-c", str(tmp_path / "recipe.yaml")]
    assert cli.main(arguments) == 0
    assert "top2 fp32" in capsys.readouterr().out
    report = json.loads(read_metadata(folder / "inference_int8.onnx")[QUANTIZATION_KEY])
    assert (report["metric"], report["images"]) == ("top2", 20)
    for item in report["engines"]:
        assert item["score_before"] >= 19 / 20  # its first class is right but for one image


def test_the_network_is_int8_and_the_folder_still_whole(quantised: Path) -> None:
    graph = onnx.load(quantised / "inference_int8.onnx").graph
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) >= 32
    weights = [w for w in graph.initializer if w.data_type == onnx.TensorProto.INT8]
    assert len(weights) >= 28  # 33 layers, of which some may stay in float
    InferenceSpec.read(quantised).check_files(quantised)  # the new check sum among them
    for engine in ("openvino", "onnxruntime"):
        if available_precisions(engine)["int8"] is None:
            predictor = Predictor(quantised, threads=1, engine=engine, precision="int8")
            assert predictor.predict(np.zeros((80, 80, 3), np.uint8))[0]["label_names"]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_precision_is_never_said_of_the_other_file(engine: Any, quantised: Path) -> None:
    if available_precisions(engine)["int8"] is not None:
        pytest.skip(f"{engine} has no int8 here")
    for name, precision, other in (
        ("inference.onnx", "fp32", "int8"),
        ("inference_int8.onnx", "int8", "fp32"),
    ):
        assert make_engine(quantised / name, engine, None, 1).precision == precision
        assert make_engine(quantised / name, engine, precision, 1).precision == precision
        with pytest.raises(UserError, match=rf"precision {other}: .*{name} is (not )?quantised"):
            make_engine(quantised / name, engine, other, 1)


def test_nothing_is_overwritten(
    place: Path, quantised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (quantised / "inference_int8.onnx").read_bytes()
    assert cli.main(command(place, quantised)) == 1
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert (quantised / "inference_int8.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("choice", "floats"), [("none", 0), ("ends", 2), ("se", 4), ("ends+se", 6)]
)
def test_layers_that_stay_in_float(
    choice: str, floats: int, exported_both: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported_both.folder, tmp_path / "m")
    images = list(np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32))
    (variant,) = into(folder, images, tmp_path, choice)
    assert (variant.name, len(variant.layers)) == (choice, floats)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    stored = {w.name: w.data_type for w in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    float_layers = [n for n in layers if stored.get(n.input[1]) == onnx.TensorProto.FLOAT]
    assert len(layers) == 33 and {n.name for n in float_layers} == set(variant.layers)


def test_more_layers_stay_in_float_only_where_that_helps(
    exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = iter([100, 7, 50, 5])  # of 1000 images, for none, ends, se, ends+se

    def agreement(*_: Any) -> Agreement:
        lost = (np.arange(1000) < next(changed)).astype(float)
        return Agreement(lost, lost, lost, lost)

    monkeypatch.setattr(Topk, "agreement", agreement)
    folder = shutil.copytree(exported_both.folder, tmp_path / "m")
    images = list(np.zeros((2, 3, 64, 64), np.float32))
    tried = into(folder, images, tmp_path)
    assert [v.name for v in tried] == ["ends", "none", "se", "ends+se"]


def test_a_folder_without_onnx_is_converted_for_it(exported: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(exported.folder, tmp_path / "m")
    images = list(np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32))
    into(folder, images, tmp_path, "none")
    assert (tmp_path / "int8.onnx").is_file()
    assert not (folder / "inference.onnx").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("calibration/0.png 1", "share 1 images"),
        ("evaluation/0.png", "expected `path class_id`"),
        ("", "the list is empty"),
        ("evaluation/0.png 1\nevaluation/none.png 1", "1 images are no files, e.g. .*none.png"),
        ("evaluation/0.png 7", "has the class id 7, but the network has 5 classes, 0 .. 4$"),
        ("evaluation/0.png 1\nevaluation/1.png 5", "seem to count from 1: subtract 1"),
        ("evaluation/0.png WRONG", "a top1 of 0.00% on the evaluation images"),
    ],
)
def test_wrong_evaluation_lists(
    content: str, says: str, place: Path, exported_both: Any, tmp_path: Path, capsys: Any
) -> None:
    label = (place / "list.txt").read_text().split()[1]  # wrong, as `place` says
    content = content.replace("WRONG", label)
    folder = shutil.copytree(exported_both.folder, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    wrong = place / "wrong.txt"
    wrong.write_text(content)
    arguments = command(place, folder, "--keep-float", "none")
    arguments[arguments.index("--evaluate") + 1] = str(wrong)
    assert cli.main(arguments) == 1
    assert re.search(says, capsys.readouterr().err.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_ids_that_count_from_one_are_noticed_without_the_last_class(
    place: Path, exported_both: Any, tmp_path: Path, capsys: Any
) -> None:
    folder = shutil.copytree(exported_both.folder, tmp_path / "m")
    pairs = [line.split() for line in (place / "list.txt").read_text().splitlines()]
    lines = [f"{path} {int(label) + 1}" for path, label in pairs if label != "4"]
    wrong = place / "from_one.txt"
    wrong.write_text("\n".join(lines))
    arguments = command(place, folder, "--keep-float", "none")
    arguments[arguments.index("--evaluate") + 1] = str(wrong)
    assert cli.main(arguments) == 1
    assert "these seem to count from 1" in capsys.readouterr().err
    # A list that happens to have no image of class 0 is none of these.
    wrong.write_text("\n".join(f"{path} {label}" for path, label in pairs if label != "0"))
    assert cli.main(arguments) == 0


@pytest.mark.parametrize("option", [["--threads", "-1"], ["--threads", "10000"], ["--images", "0"]])
def test_numbers_that_make_no_sense_are_refused_first(option: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["quantize", "--model", "m", "--calibration", "c", "--evaluate", "e", *option])
    assert caught.value.code == 2 and f"argument {option[0]}: expected" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("the disk is full")])
def test_an_end_before_the_last_write_leaves_nothing(
    error: Any, exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    folder = Path(shutil.copytree(exported_both.folder, tmp_path / "m"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    row = quantize_report.EngineReport("openvino", 0.9, 0.895, 0.99, 1.0, 0.5)
    report = quantize_report.QuantizeReport(20, 12, "none", 0, 2, 1, 1, (row,), "top1")
    monkeypatch.setattr(quantize, "write_text", fail)
    with pytest.raises((KeyboardInterrupt, UserError)):
        quantize.keep(folder, InferenceSpec.read(folder), folder / "inference.onnx", report)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_auto_refuses_an_int8_network_that_is_worse(quantised: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quantised, tmp_path / "m"))
    spec = InferenceSpec.read(copy)
    file = copy / "inference_int8.onnx"

    def note(report: quantize_report.QuantizeReport) -> None:
        file.rename(tmp_path / "int8.onnx")
        quantize.keep(copy, spec, tmp_path / "int8.onnx", report)

    row = quantize_report.EngineReport("openvino", 0.9, 0.895, 0.99, 1.0, 0.5)
    report = quantize_report.QuantizeReport(20, 12, "none", 0, 2, 1, 1, (row,), "top1")
    note(report)
    _require_small_loss(copy / "inference_int8.onnx", "openvino")
    worse = replace(report, engines=(replace(row, score_after=0.85),))
    note(worse)
    with pytest.raises(UserError, match=r"loses 5.0 points of top1"):
        _require_small_loss(copy / "inference_int8.onnx", "openvino")
    lower = replace(worse, metric="wrong", higher_is_better=False)
    note(lower)
    _require_small_loss(copy / "inference_int8.onnx", "openvino")
    with pytest.raises(UserError, match="does not say what it costs"):
        _require_small_loss(copy / "inference.onnx", "openvino")


def test_auto_reads_what_earlier_versions_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    item = {"engine": "openvino", "top1_before": 0.9, "top1_after": 0.85}
    text = json.dumps({"engines": [item]})
    monkeypatch.setattr(choose, "read_metadata", lambda path: {QUANTIZATION_KEY: text})
    _require_small_loss(Path("x.onnx"), "onnxruntime")
    with pytest.raises(UserError, match=r"loses 5.0 points of top1"):
        _require_small_loss(Path("x.onnx"), "openvino")
