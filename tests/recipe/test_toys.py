"""Two problems beside classification: a detector and a segmenter, as plug-ins, from end to end.

They train on eight images, are exported, predict and are served by code that knows neither boxes
nor masks: whatever does is in toys/.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.benchmark.models import image_shape
from ppcls_lite.cli import main
from ppcls_lite.errors import UserError
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.models.weights.load import read_state

TOYS = Path(__file__).with_name("toys")
PACKAGE = Path(__file__).resolve().parents[2] / "ppcls_lite"
SHAPE = 80, 120  # of the photographs; the networks see 64 x 64 pixels
COLOURS = (230, 40, 40), (40, 60, 230)
COUNT = 8


@dataclass
class Toy:
    """A trained and exported toy; its recipe's paths start from `home`."""

    home: Path
    name: str
    arch: str
    score: str  # the main metric's name
    known: list[dict[str, Any]]  # what there is on each image, in the photographs' pixels

    @property
    def run(self) -> Path:
        return self.home / "output" / self.arch

    @property
    def plugin(self) -> str:
        return str(self.home / f"{self.name}.py")

    @property
    def best(self) -> str:
        return f"Global.pretrained_model={self.run / 'best_model'}"

    def call(self, command: str, *overrides: str, options: Sequence[str] = ()) -> int:
        """Run a command on the recipe."""
        pairs = [part for override in overrides for part in ("-o", override)]
        return main([command, "-c", f"{self.name}.yaml", *options, *pairs])

    def predict(self, *options: str) -> int:
        """Predict the eight images with the exported folder."""
        given = [
            "--model",
            "inference",
            "--input",
            "scenes/images",
            "--plugins",
            self.plugin,
            *options,
        ]
        return main(["predict", *given])


def write_scenes(folder: Path) -> list[dict[str, Any]]:
    """Eight images with one or two coloured rectangles; their boxes and masks beside them."""
    rng, known = np.random.default_rng(0), []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(COUNT):
        image = np.full((*SHAPE, 3), 128, np.uint8) + rng.integers(0, 20, (*SHAPE, 3), np.uint8)
        mask = np.zeros(SHAPE, np.uint8)
        boxes, kinds = [], []
        for left in (4, 64)[: 1 + number % 2]:  # apart, so that each has a cell of its own
            width, height = (int(edge) for edge in rng.integers(24, 44, 2))
            x, y = left + int(rng.integers(0, 8)), int(rng.integers(4, 32))
            kind = int(rng.integers(2))
            image[y : y + height, x : x + width] = COLOURS[kind]
            mask[y : y + height, x : x + width] = 1 + kind
            boxes.append([x, y, x + width, y + height])
            kinds.append(kind)
        pixels = np.bincount(mask.reshape(-1), minlength=3).tolist()
        known.append({"file": f"{number}.png", "boxes": boxes, "classes": kinds, "pixels": pixels})
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    (folder / "scenes.json").write_text(json.dumps(known), encoding="utf-8")
    return known


def made(home: Path, name: str, arch: str, score: str, formats: str) -> Toy:
    for file in TOYS.glob(f"{name}.*"):
        shutil.copy(file, home)
    toy = Toy(home, name, arch, score, write_scenes(home / "scenes"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert toy.call("train") == 0
        assert toy.call("export", toy.best, options=["--format", formats]) == 0
    return toy


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    home = tmp_path_factory.mktemp("detector")
    return made(home, "toy_detector", "ToyDetector", "f1", "both")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return made(
        tmp_path_factory.mktemp("segmenter"), "toy_segmenter", "ToySegmenter", "miou", "paddle"
    )


@pytest.fixture(params=["detector", "segmenter"])
def toy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Toy:
    found: Toy = request.getfixturevalue(request.param)
    monkeypatch.chdir(found.home)
    return found


def require_right(toy: Toy, results: Sequence[dict[str, Any]]) -> None:
    """Every result says what is on its image, in the pixels of the photograph."""
    assert len(results) == COUNT
    for known, result in zip(toy.known, results):
        assert Path(result["file"]).name == known["file"]
        if toy.name == "toy_segmenter":
            assert result["kinds"] == np.flatnonzero(known["pixels"]).tolist()
            wanted = [count for count in known["pixels"] if count]
            np.testing.assert_allclose(result["pixels"], wanted, rtol=0.15)
            continue
        assert sorted(result["kinds"]) == sorted(known["classes"])
        for box, kind in zip(known["boxes"], known["classes"]):
            overlaps = [
                iou(box, found)
                for found, found_kind in zip(result["boxes"], result["kinds"])
                if found_kind == kind
            ]
            assert max(overlaps) > 0.6


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Shared area over joint area of two boxes, counted on a fine raster."""
    y, x = np.mgrid[: 4 * SHAPE[0], : 4 * SHAPE[1]] / 4
    first, second = ((x >= a) & (y >= b) & (x < c) & (y < d) for a, b, c, d in (one, other))
    return float((first & second).sum() / (first | second).sum())


def test_it_learns_its_eight_images(toy: Toy) -> None:
    assert toy.call("eval", toy.best) == 0
    scores = json.loads((toy.run / "eval.json").read_text(encoding="utf-8"))
    assert list(scores)[1] == toy.score and scores[toy.score] > 0.9
    lines = [json.loads(line) for line in (toy.run / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line[toy.score] for line in lines if line["kind"] == "eval"]
    assert max(evaluated) == pytest.approx(scores[toy.score])


def test_its_metric_reports(segmenter: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(segmenter.home)
    report = segmenter.run / "eval" / "best_model" / "overlap.txt"
    assert segmenter.call("eval", segmenter.best) == 0
    rows = report.read_text(encoding="utf-8").split("\n")
    pixels = np.array([row.strip("[] ").split() for row in rows if row], int)
    assert pixels.shape == (3, 3) and pixels.sum() == COUNT * 64 * 64
    assert pixels.trace() > 0.95 * pixels.sum()


def test_a_resumed_run_ends_with_the_same_weights(toy: Toy) -> None:
    short = "Global.epochs=4", "Global.save_interval=1", "Global.eval_interval=4"
    assert toy.call("train", *short, "Global.output_dir=whole") == 0
    state = Path("whole") / toy.arch / "epoch_2"
    resumed = f"Global.checkpoints={state}"
    assert toy.call("train", *short, "Global.output_dir=again", resumed) == 0
    whole, again = (read_state(Path(f) / toy.arch / "latest.pdparams") for f in ("whole", "again"))
    assert whole.keys() == again.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name], err_msg=name)


def test_the_export_names_its_outputs(detector: Toy, segmenter: Toy) -> None:
    for toy, outputs in ((detector, ("boxes", "scores")), (segmenter, ("classes",))):
        assert InferenceSpec.read(toy.home / "inference", [toy.plugin]).outputs == outputs


def test_the_network_itself_predicts(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    given = "Infer.infer_imgs=scenes/images", "Infer.save_dir=infer", toy.best
    assert toy.call("infer", *given) == 0
    lines = Path("infer/infer.jsonl").read_text(encoding="utf-8").splitlines()
    require_right(toy, [json.loads(line) for line in lines])
    assert "7.png" in capsys.readouterr().out


def test_the_exported_folder_predicts(toy: Toy) -> None:
    assert toy.predict("--output", "found.jsonl", "--batch-size", "3") == 0
    lines = Path("found.jsonl").read_text(encoding="utf-8").splitlines()
    require_right(toy, [json.loads(line) for line in lines])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_other_engines_predict_two_outputs(
    detector: Toy, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino" if engine == "auto" else engine)
    monkeypatch.setenv("PPCLS_LITE_HOME", str(detector.home / "home"))
    folder, files = detector.home / "inference", sorted(detector.home.glob("scenes/images/*"))
    predictor = Predictor(folder, engine=engine, plugins=[detector.plugin])
    require_right(detector, predictor.predict(files, batch_size=5))


def test_the_table_and_a_csv_file_have_its_columns(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.predict("--output", "found.csv") == 0
    with Path("found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    own = {"toy_detector": ["kind", "score", "left", "top", "right", "bottom"]}
    columns = own.get(toy.name, ["kind", "pixels"])
    assert list(rows[0]) == ["file", "rank", *columns, "error"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", *columns]
    kinds = [kind for known in toy.known for kind in known["classes"]]
    if toy.name == "toy_segmenter":
        kinds = [kind for known in toy.known for kind in np.flatnonzero(known["pixels"])]
    assert len(rows) == len(kinds)
    assert sorted(row["kind"] for row in rows) == sorted(map(str, kinds))
    begins = [line for line in lines if re.match(r".*scenes/images/\d.png ", line)]
    assert len(begins) == COUNT and begins[0].split()[1:3] == [rows[0][c][:6] for c in columns[:2]]


def test_it_is_served(toy: Toy) -> None:
    client = pytest.importorskip("starlette.testclient").TestClient
    pytest.importorskip("httpx")
    from ppcls_lite.serve.app import Service, make_app
    from ppcls_lite.serve.options import ServeOptions

    with Predictor("inference", plugins=[toy.plugin]) as predictor:
        files = sorted(Path("scenes/images").iterdir())
        expected = predictor.predict(files, batch_size=COUNT)
        with client(make_app(Service(predictor, ServeOptions()))) as session:
            for file, result in zip(files, expected):
                answer = session.post("/predict", content=file.read_bytes())
                assert answer.status_code == 200
                assert {"file": str(file), **answer.json()} == result
    require_right(toy, expected)


def test_a_picture_shows_the_answer(detector: Toy) -> None:
    predictor = Predictor(detector.home / "inference", plugins=[detector.plugin])
    image = np.full((*SHAPE, 3), 128, np.uint8)
    result = {"boxes": [[10.0, 20.0, 30.0, 40.0]], "kinds": [1], "scores": [0.9]}
    drawn = predictor.postprocess.draw(image, result)
    changed = (drawn != image).any(axis=2)
    assert changed[20, 10:30].all() and changed[39, 10:30].all() and changed[20:40, 29].all()
    assert not changed[:20].any() and not changed[21:39, 11:29].any()


def test_a_folder_names_the_plugin_without_which_it_does_not_run(detector: Toy) -> None:
    folder = detector.home / "inference"
    for plugins in ([], [TOYS / "toy_segmenter.py"]):
        with pytest.raises(UserError, match=r"made with the plug-in toy_detector.py; .*--plugins"):
            Predictor(folder, plugins=plugins)
    assert image_shape(folder, 32) == (3, 64, 64)  # a benchmark runs none of its parts


COMMON = "engine", "inference", "serve", "report", "system", "cli.py"
CLASSIFICATION = {  # where classes are the question
    *("inference/postprocess/classify.py", "inference/postprocess/attributes.py"),
    "inference/quantize/report.py",
}


PROBLEMS = {  # a file for each answer; detect and its neighbours say boxes, segment's say classes
    f"inference/postprocess/{name}.py"
    for name in ("segment", "detect", "detection_files", "detection_program")
} | {  # translate argmax and suppression as any other operation
    *("inference/onnx/arrays.py", "inference/onnx/suppression.py"),
}
ACTIVATION = r"'argmax'[^\n]*"  # what a program may end with, as in a softmax


def test_no_common_room_knows_a_problem() -> None:
    files = [f for room in COMMON for f in ((PACKAGE / room).rglob("*.py"), [PACKAGE / room])]
    for file in [f for some in files for f in some if f.is_file()]:
        code = re.sub(ACTIVATION, "", code_of(file))
        if file.relative_to(PACKAGE).as_posix() in PROBLEMS:
            continue
        assert not re.search("segment|detect|boxes|(?<!sig)mask", code, re.IGNORECASE), file
        if file.relative_to(PACKAGE).as_posix() not in CLASSIFICATION:
            assert not re.search("argmax|class_ids|label_names", code), file


def code_of(file: Path) -> str:
    """A module without comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant() as text):
                text.value = ""
    return ast.unparse(tree)
