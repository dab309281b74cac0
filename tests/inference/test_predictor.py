"""The Predictor's answers, and what it says about a folder or an image that is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppcls_lite
from ppcls_lite.config.check import build_list
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
LABELS = ["cat", "great dog", "Vögel", "猫", "yes"]


@pytest.fixture(scope="module")
def predictor(exported: Any) -> Predictor:
    return Predictor(exported.folder, threads=1)


@pytest.fixture
def folder(exported: Any, tmp_path: Path) -> Path:
    """A copy of the exported folder, to be spoilt."""
    return Path(shutil.copytree(exported.folder, tmp_path / "model"))


def edit(folder: Path, change: Any) -> None:
    path = folder / "inference.yml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")


def picture(seed: int = 0, height: int = 90, width: int = 120) -> np.ndarray:
    tiles = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(tiles, (width, height), interpolation=cv2.INTER_NEAREST)


def test_a_prediction_equals_evaluation_by_hand(
    predictor: Predictor, exported: Any, chain: Any
) -> None:
    image = picture()
    sample = Compose(build_list(chain(64), "transform"))({"image": image.copy()}, None)
    assert np.array_equal(predictor.preprocess(image), sample["image"])
    logits = exported.network(paddle.to_tensor(sample["image"][None]))
    expected = paddle.nn.functional.softmax(logits).numpy()[0]
    (result,) = predictor.predict(image)
    order = np.argsort(-expected)[:3].tolist()
    assert result["class_ids"] == order
    assert result["scores"] == pytest.approx(expected[order], abs=2e-5)
    assert result["label_names"] == [LABELS[i] for i in order]
    assert result["file"] is None


def test_a_path_and_its_pixels_give_the_same(predictor: Predictor, pictures: Path) -> None:
    path = pictures / "ü 1.bmp"
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    from_path, from_text, from_pixels = predictor.predict([path, str(path), pixels], batch_size=3)
    assert from_path == from_text == {**from_pixels, "file": str(path)}


def test_every_form_of_input(predictor: Predictor) -> None:
    images = [picture(seed) for seed in range(5)]
    one_by_one = [predictor.predict(image)[0] for image in images]
    assert predictor.predict(images) == one_by_one
    assert predictor.predict(np.stack(images)) == one_by_one
    for size in (2, 5, 64):
        for ours, theirs in zip(predictor.predict(images, batch_size=size), one_by_one):
            assert ours["class_ids"] == theirs["class_ids"]
            assert ours["scores"] == pytest.approx(theirs["scores"], abs=2e-5)
    gray = np.full((80, 80), 77, np.uint8)
    assert predictor.predict(gray) == predictor.predict(np.repeat(gray[..., None], 3, axis=2))
    assert predictor.predict([]) == []


def test_pillow_images_are_what_their_files_are(predictor: Predictor, tmp_path: Path) -> None:
    image = Image.fromarray(picture())
    turned = image.getexif()
    turned[0x0112] = 6  # the camera was held upright
    images = {"plain.png": image, "gray.png": image.convert("L"), "palette.gif": image.convert("P")}
    images["clear.png"] = image.convert("RGBA")
    images["clear.png"].putalpha(99)
    for name, one in images.items():
        one.save(tmp_path / name)
    image.save(tmp_path / "turned.png", exif=turned)
    for path in sorted(tmp_path.iterdir()):
        (of_file,) = predictor.predict(path)
        with Image.open(path) as opened:
            assert predictor.predict(opened) == [{**of_file, "file": None}], path.name


def test_a_damaged_pillow_image_is_named(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with Image.open(path) as opened, pytest.raises(ImageError, match="Pillow cannot read it"):
        predictor.predict(opened)


def test_the_answers_depend_on_the_image(predictor: Predictor) -> None:
    scores = {tuple(r["scores"]) for r in predictor.predict([picture(s) for s in range(4)])}
    assert len(scores) == 4


def test_an_image_is_not_changed(predictor: Predictor) -> None:
    image = picture()
    before = image.copy()
    predictor.predict(image)
    assert np.array_equal(image, before)


def test_predict_batch_gives_probabilities(predictor: Predictor) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    found = predictor.predict_batch(x)
    assert found.shape == (3, 5) and found.dtype == np.float32
    assert found.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert predictor.predict_batch(x.astype(np.float64)) == pytest.approx(found, abs=1e-6)


def test_topk_can_be_chosen(exported: Any) -> None:
    assert len(Predictor(exported.folder, threads=1, topk=2).predict(picture())[0]["scores"]) == 2
    assert len(Predictor(exported.folder, threads=1, topk=9).predict(picture())[0]["scores"]) == 5


def test_bad_images_are_kept_apart_when_streaming(predictor: Predictor, pictures: Path) -> None:
    bad = pictures / "bad.jpg"
    bad.write_bytes((pictures / "b.JPG").read_bytes()[:200])
    seen: list[tuple[str, int]] = []
    images = [pictures / "a.png", bad, pictures / "gone.png", picture()]
    observe = lambda stage, seconds, count: seen.append((stage, count))  # noqa: E731
    results = list(predictor.stream(images, 3, keep_going=True, observe=observe))
    assert [r["file"] for r in results] == [*(str(p) for p in images[:3]), None]
    assert "truncated JPEG" in results[1]["error"] and str(bad) not in results[1]["error"]
    assert "No such file" in results[2]["error"]
    assert results[0] == predictor.predict(images[0])[0]
    stages = ("preprocess", "inference", "postprocess")
    assert seen == [*zip(stages, (3, 1, 1)), *zip(stages, (1, 1, 1))]
    with pytest.raises(ImageError, match=r"bad.jpg: truncated JPEG"):
        predictor.predict(images)


def test_no_kind_of_bad_image_ends_a_stream(predictor: Predictor, tmp_path: Path) -> None:
    thin, large = np.zeros((1, 60_000, 3), np.uint8), np.zeros((10_001, 10_000), np.uint8)
    files = {
        "stub.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "truncated PNG"),
        "thin.png": (cv2.imencode(".png", thin)[1].tobytes(), "would become one of"),
        "large.png": (cv2.imencode(".png", large)[1].tobytes(), "10000 x 10001 pixels"),
        "text.jpg": (b"not a picture", "not an image of a known format"),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    long = "n" * 300 + ".png"
    images = [*(tmp_path / name for name in files), tmp_path / long, picture()]
    results = list(predictor.stream(images, 4, keep_going=True))
    for result, reason in zip(results, [reason for _, reason in files.values()]):
        assert reason in result["error"] and str(tmp_path) not in result["error"]
    assert "too long" in results[4]["error"] and "class_ids" in results[5]


def test_an_image_smaller_than_the_crop_is_an_entry(folder: Path) -> None:
    def only_crop(tree: Any) -> None:
        tree["PreProcess"]["transform_ops"] = [
            op for op in tree["PreProcess"]["transform_ops"] if "ResizeImage" not in op
        ]

    edit(folder, only_crop)
    predictor = Predictor(folder, threads=1)
    small, large = predictor.stream([picture(height=40), picture()], keep_going=True)
    assert "is smaller than the crop" in small["error"] and "class_ids" in large


def test_a_stream_reads_no_further_than_a_batch(predictor: Predictor) -> None:
    taken = []

    def images() -> Any:
        for seed in range(100):
            taken.append(seed)
            yield picture(seed)

    stream = predictor.stream(images(), batch_size=4)
    next(stream)
    assert len(taken) == 4


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (np.zeros((90, 120, 3), np.float32), r"shape \(90, 120, 3\) and type float32; expected"),
        (np.zeros((90, 120, 2), np.uint8), r"\(90, 120, 2\)"),
        (np.zeros((0, 120, 3), np.uint8), "without pixels"),
        ([None], r"inputs\[0\]: expected a path, an array or a Pillow image, found NoneType"),
        (7, "expected images or paths, found int"),
    ],
)
def test_arrays_and_objects_that_are_no_images(
    inputs: Any, says: str, predictor: Predictor
) -> None:
    with pytest.raises(UserError, match=says):
        predictor.predict(inputs)


@pytest.mark.parametrize(
    "array",
    [
        *(np.zeros((1, 3, 32, 32), np.float32), np.zeros((3, 64, 64), np.float32)),
        *(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 3, 64, 64), np.int64)),
        np.zeros((0, 3, 64, 64), np.float32),
    ],
    ids=lambda a: f"{a.shape}-{a.dtype}",
)
def test_batches_of_another_shape_or_type(array: np.ndarray, predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"expected pre-processed images, \(N, 3, 64, 64\) float32"):
        predictor.predict_batch(array)


def test_a_batch_size_below_one(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="batch_size: expected a whole number from 1 on, found 0"):
        predictor.predict(picture(), batch_size=0)


def test_preprocessing_without_a_fixed_size(
    folder: Path, exported: Any, chain: Any, tmp_path: Path
) -> None:
    edit(folder, lambda tree: tree["PreProcess"]["transform_ops"].pop(1))  # CropImage
    with pytest.raises(UserError, match=r"\(3, 72, 96\), but the network takes \(3, 64, 64\)"):
        Predictor(folder, threads=1).predict(picture())
    free, ops = tmp_path / "free", chain(64)
    export_model(exported.network, free, (3, -1, -1), [*ops[:2], *ops[3:]])
    predictor = Predictor(free, threads=1)
    assert predictor.predict([picture(), picture(1, 90, 90)], batch_size=1)
    with pytest.raises(UserError, match=r"different shapes after .* use batch_size=1"):
        predictor.predict([picture(), picture(1, 90, 90)], batch_size=2)


def drop(key: str) -> Any:
    return lambda tree: tree.pop(key)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t["Global"].update(format_version=9), "has format version 9; this version"),
        (drop("PreProcess"), "PreProcess.transform_ops: expected a list, found nothing"),
        (lambda t: t["PreProcess"].update(transform_ops={}), "transform_ops: expected a list, fo"),
        (lambda t: t["PreProcess"]["transform_ops"].append("Rotate"), "no transform 'Rotate'"),
        (lambda t: t.update(PostProcess=["Topk"]), "PostProcess: expected a map"),
        (lambda t: t["PostProcess"].update(Other={}), "PostProcess: expected one component"),
        (lambda t: t.update(PostProcess={"Topkk": {}}), "did you mean 'Topk'?"),
        (lambda t: t["PostProcess"]["Topk"].update(label_list="cat"), "expected a list of"),
        (
            lambda t: t["Global"].update(output="wishes"),
            "expected probabilities, logits or classes",
        ),
        (lambda t: t["Global"].update(image_shape=[3, 64]), "expected .channels, height, width."),
    ],
)
def test_mistakes_in_inference_yml_name_the_file(change: Any, says: str, folder: Path) -> None:
    edit(folder, change)
    with pytest.raises(UserError, match=says) as caught:
        Predictor(folder)
    assert str(folder / "inference.yml") in str(caught.value)


@pytest.mark.parametrize("text", ["Global: [", "- a list", "\tx: 1", ""])
def test_an_inference_yml_that_is_no_map(text: str, folder: Path) -> None:
    (folder / "inference.yml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"inference.yml.*: (not valid YAML|expected sections)"):
        Predictor(folder)


def test_missing_folder_and_files(folder: Path) -> None:
    with pytest.raises(UserError, match=r"modl: no such folder; .* did you mean .*model\?"):
        Predictor(folder.parent / "modl")
    with pytest.raises(UserError, match="is a file, not a folder"):
        Predictor(folder / "inference.json")
    (folder / "inference.yml").rename(folder / "other.yml")
    with pytest.raises(UserError, match=r"inference.yml: no such file; .*Export the network again"):
        Predictor(folder)


def test_files_of_two_exports_are_not_mixed(folder: Path) -> None:
    weights = folder / "inference.pdiparams"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"inference.pdiparams: is not the file that"):
        Predictor(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"inference.pdiparams: no such file"):
        Predictor(folder)


def test_label_names_that_do_not_fit(folder: Path) -> None:
    edit(folder, lambda tree: tree["PostProcess"]["Topk"]["label_list"].pop())
    with pytest.raises(UserError, match="names 4 classes, the network has 5"):
        Predictor(folder, threads=1).predict(picture())


@pytest.mark.parametrize("engine", ["paddle", "onnxruntime", "openvino", "auto"])
def test_the_program_knows_its_shape(
    engine: Any, exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppcls_lite.inference.auto.choose.choose", lambda *a, **k: pytest.fail())
    folder = Path(shutil.copytree(exported_both.folder, tmp_path / "m"))
    for wrong in ([3, 96, 96], [3, -1, 64], [1, 64, 64]):
        edit(folder, lambda tree, shape=wrong: tree["Global"].update(image_shape=shape))
        with pytest.raises(
            UserError, match=r"inference.yml: Global.image_shape: says .*\[3, 64, 64"
        ):
            Predictor(folder, engine=engine)
    if engine == "auto":
        return
    pytest.importorskip("paddle" if engine == "paddle" else engine)
    edit(folder, lambda tree: tree["Global"].pop("image_shape"))
    predictor = Predictor(folder, engine=engine, threads=1)
    assert predictor.spec.image_shape == (3, 64, 64)
    edit(folder, lambda tree: tree["PreProcess"]["transform_ops"].pop(1))  # CropImage
    with pytest.raises(UserError, match=r"but the network takes \(3, 64, 64\)"):
        Predictor(folder, engine=engine, threads=1).predict(picture())


def test_two_softmaxes_or_none_are_noticed(
    folder: Path, exported: Any, chain: Any, tmp_path: Path
) -> None:
    edit(folder, lambda tree: tree["Global"].update(output="logits"))
    with pytest.raises(UserError, match=r"inference.yml: .* gives probabilities already"):
        Predictor(folder, threads=1)
    other = tmp_path / "logits"
    export_model(exported.network, other, (3, 64, 64), chain(64), add_softmax=False)
    assert Predictor(other, threads=1).spec.output == "logits"
    edit(other, lambda tree: tree["Global"].pop("output"))
    with pytest.raises(UserError, match=r"gives no probabilities: .* must say logits"):
        Predictor(other, threads=1)


def test_a_folder_of_paddleclas_is_read(folder: Path, predictor: Predictor) -> None:
    def theirs(tree: dict[str, Any]) -> None:
        tree["Global"] = {"model_name": "PP-LCNet_x0_25"}
        tree["Hpi"] = {"backend_configs": {}}

    edit(folder, theirs)
    found = Predictor(folder, threads=1)
    assert found.spec.model_name == "PP-LCNet_x0_25"
    assert found.spec.labels == LABELS
    assert found.predict(picture()) == predictor.predict(picture())


@pytest.mark.parametrize(
    "decode", [{"DecodeImage": {"to_rgb": False}}, {"name": "DecodeImage", "to_rgb": False}]
)
def test_a_bgr_network_gets_bgr(decode: dict[str, Any], folder: Path) -> None:
    rgb = Predictor(folder, threads=1).preprocess(picture())
    edit(folder, lambda tree: tree["PreProcess"]["transform_ops"].insert(0, decode))
    bgr = Predictor(folder, threads=1).preprocess(picture()[..., ::-1])
    bgr_mean = Predictor(folder, threads=1).preprocess(np.full((90, 90, 3), (255, 0, 0), np.uint8))
    assert np.array_equal(rgb, bgr)
    assert bgr_mean[2].min() > 2 > -1.7 > bgr_mean[0].max()


def test_it_is_part_of_the_public_api_and_loads_no_training_code() -> None:
    assert ppcls_lite.Predictor is Predictor
    code = (
        "import sys\n"
        "from ppcls_lite.inference.cli import predict\n"
        "assert 'paddle' not in sys.modules, 'the command line waits for paddle'\n"
        "import ppcls_lite.inference.predictor\n"
        "rooms = ('engine', 'losses', 'metrics', 'optim', 'recipe', 'models', 'distill')\n"
        "print([m for m in sys.modules if m.startswith(tuple('ppcls_lite.' + r for r in rooms))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
