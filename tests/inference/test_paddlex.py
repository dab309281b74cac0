"""`inference.yml` in PaddleX's words, and PaddleX's own answers where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import ConfigError
from ppcls_lite.inference import paddlex
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec

PYTHON = "PPCLS_LITE_PADDLEX_PYTHON"  # an interpreter that has PaddleX, if not this one
RESIZE = {"ResizeImage": {"size": 32}}
NORMALIZE = {"NormalizeImage": {"order": ""}}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WRITTEN = {
    "NormalizeImage": {"scale": 1 / 255, **IMAGENET, "order": "", "channel_num": 3},
}
HAMMING = {"ResizeImage": {"size": 32, "backend": "pil", "interpolation": "hamming"}}
CHW = {"ToCHWImage": None}
TOPK = {"Topk": {"topk": 1}}
MANY = {"MultiLabelThreshOutput": {"label_list": ["a", "b"]}}


def text(ops: list[Any], post: dict[str, Any] = TOPK, **about: Any) -> dict[str, Any]:
    return yaml.safe_load(InferenceSpec("PPLCNet_x0_25", ops, post, **about).text())


@pytest.mark.parametrize(
    ("ops", "chain"),
    [
        ([RESIZE, NORMALIZE], [RESIZE, WRITTEN, CHW]),
        (
            [{"name": "ResizeImage", "resize_short": "40"}, {"CropImage": {"size": 32}}, NORMALIZE],
            [{"ResizeImage": {"resize_short": 40}}, {"CropImage": {"size": 32}}, WRITTEN, CHW],
        ),
        (
            [
                {"DecodeImage": {"to_rgb": True, "channel_first": False}},
                {"ResizeImage": {"size": [48, 32], "return_numpy": False}},
                {"NormalizeImage": {"scale": "1/255", "order": "hwc"}},
            ],
            None,  # it asserts that the order is ""
        ),
        (
            ["DecodeImage", RESIZE, {"NormalizeImage": {"scale": "2/4", "order": ""}}, CHW],
            [
                RESIZE,
                {"NormalizeImage": WRITTEN["NormalizeImage"] | {"scale": 0.5}},
                CHW,
            ],
        ),
        ([{"DecodeImage": {"to_rgb": False}}, RESIZE, NORMALIZE], None),
        ([{"DecodeImage": {"backend": "pil"}}, RESIZE, NORMALIZE], None),
        ([RESIZE, RESIZE, NORMALIZE], None),  # of two steps it would do the last
        ([{"CropImage": {"size": 32}}, RESIZE, NORMALIZE], None),  # and always crop later
        ([RESIZE, CHW, {"NormalizeImage": {"order": "chw"}}], None),
        ([RESIZE, {"NormalizeImage": {"order": "", "channel_num": 4}}], None),
        ([RESIZE], None),
        ([NORMALIZE], None),
        ([{"Resize": {"size": 32}}, NORMALIZE], None),
        ([HAMMING, NORMALIZE], None),
    ],
)
def test_a_chain_that_paddlex_runs_otherwise_is_one_that_it_refuses(
    ops: list[Any], chain: list[Any] | None
) -> None:
    found = text(ops)["PreProcess"]["transform_ops"]
    if chain is None:
        assert "DecodeImage" in found or "DecodeImage" in found[0]
    else:
        assert found == chain


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("name", [None, "nearest", "bilinear", "bicubic", "area", "box", "lanczos"])
def test_interpolations_keep_their_meaning(backend: str, name: str | None) -> None:
    ops = [{"ResizeImage": {"size": 32, "backend": backend, "interpolation": name}}, NORMALIZE]
    written = InferenceSpec("X", ops, TOPK)
    folder_text = written.text()
    (step, *_) = yaml.safe_load(folder_text)["PreProcess"]["transform_ops"]
    theirs = step["ResizeImage"].get("interpolation", "linear")
    known = {"cv2": "nearest linear bicubic area lanczos4", "pil": "nearest bilinear bicubic box"}
    assert theirs in [*known[backend].split(), "lanczos4"]
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    again = InferenceSpec._parse(folder_text, Path("x"), "x", ())
    arrays = [Predictor.of(spec, None).preprocess(image) for spec in (written, again)]
    np.testing.assert_array_equal(*arrays)


@pytest.mark.parametrize(
    ("post", "written"),
    [
        ({"name": "Topk"}, {"Topk": {"topk": 1}}),
        ({"Topk": {"topk": 5, "label_list": ["a"]}}, {"Topk": {"topk": 5, "label_list": ["a"]}}),
        ({"DistillationPostProcess": {"topk": 2, "func": "Topk"}}, {"Topk": {"topk": 2}}),
        (MANY, {"MultiLabelThreshOutput": {"threshold": 0.5, "label_list": ["a", "b"]}}),
    ],
)
def test_answers_that_paddlex_gives_too(post: dict[str, Any], written: dict[str, Any]) -> None:
    found = text([RESIZE, NORMALIZE], post)
    assert found["PostProcess"] == written and len(found["PreProcess"]["transform_ops"]) == 3


@pytest.mark.parametrize(
    ("ops", "post", "about"),
    [
        ([RESIZE, NORMALIZE], {"ThreshOutput": {"threshold": 0.3}}, {}),
        ([RESIZE, NORMALIZE], {"MultiLabelThreshOutput": {}}, {}),  # it asks for names
        ([RESIZE, {"CropImage": {"size": 16}}, NORMALIZE], MANY, {}),  # and does not crop
        ([RESIZE, NORMALIZE], TOPK, {"output": "logits"}),  # and has no softmax
    ],
)
def test_answers_that_it_would_not_give_are_refused_by_it(
    ops: list[Any], post: dict[str, Any], about: dict[str, Any]
) -> None:
    found = text(ops, post, **about)
    assert found["PostProcess"] == post
    assert found["PreProcess"]["transform_ops"] == [{"DecodeImage": None}, *ops]


def test_the_limit_of_megapixels_stands_elsewhere(tmp_path: Path) -> None:
    spec = InferenceSpec(
        "X", [{"DecodeImage": {"max_megapixels": 7}}, RESIZE, NORMALIZE], TOPK, (3, 32, 32)
    )
    spec.write(tmp_path)
    section = yaml.safe_load((tmp_path / FILE_NAME).read_text())["PreProcess"]
    assert section == {
        "DecodeImage": {"max_megapixels": 7},
        "transform_ops": [RESIZE, WRITTEN, CHW],
    }
    again = InferenceSpec.read(tmp_path)
    assert again.transform_ops[0] == {"DecodeImage": {"max_megapixels": 7}}
    assert again.text() == spec.text()


def test_names() -> None:
    assert paddlex.model_name("PPLCNetV2_base") == "PP-LCNetV2_base"
    assert paddlex.model_name("MobileNetV1") == "MobileNetV1_x1_0"
    assert paddlex.model_name("ResNet50_vd") == "ResNet50_vd"
    assert paddlex.model_name("PPHGNetV2_B0") == "PP-HGNetV2-B0"
    spec = InferenceSpec("PPLCNet_x1_0", [], TOPK, pdx_model_name="PP-LCNet_x1_0_doc_ori")
    about = yaml.safe_load(spec.text())["Global"]
    assert about["model_name"] == "PP-LCNet_x1_0_doc_ori" and about["network"] == "PPLCNet_x1_0"
    again = InferenceSpec._parse(spec.text(), Path("x"), "x", ())
    assert (again.model_name, again.text()) == ("PPLCNet_x1_0", spec.text())
    with pytest.raises(ConfigError, match="no transform 'Rotate'"):
        Predictor.of(InferenceSpec("X", ["Rotate"], TOPK), None)


# What follows runs PaddleX itself, in a process of its own.

THEIR_SIDE = """
import json, sys
import numpy as np
import paddlex
if sys.argv[1] == "names":
    from paddlex.modules.image_classification.model_list import MODELS
    print("RESULT", json.dumps(MODELS))
    raise SystemExit
model = paddlex.create_model(sys.argv[1], model_dir=sys.argv[2], device="cpu")
found = []
for result in model.predict(sys.argv[3:], batch_size=1):
    found.append({key: np.ravel(result[key]).tolist() for key in
                  ("class_ids", "scores", "label_names")})
print("RESULT", json.dumps(found))
"""


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`theirs(*arguments)`: what PaddleX says; the error's last line where it raises."""
    python = os.environ.get(PYTHON)
    if python is None and importlib.util.find_spec("paddlex") is None:
        pytest.skip(f"PaddleX is not installed; {PYTHON} names an interpreter that has it")

    home = tmp_path_factory.mktemp("paddlex")
    here = {"PADDLE_PDX_CACHE_HOME": str(home), "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}

    def run(*arguments: object) -> Any:
        done = subprocess.run(
            [python or sys.executable, "-c", THEIR_SIDE, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | here,
        )
        found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not found:
            return done.stderr.splitlines()[-1]
        return json.loads(found[0].removeprefix("RESULT "))

    return run


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Twenty pictures of several kinds and sizes, one of them turned by EXIF."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(20):
        colour = rng.integers(0, 256, 3)
        small = (colour + rng.integers(-60, 60, (5, 7, 3))).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(small).resize((90 + 7 * number, 120 - number), 0)
        path = tmp_path / f"{number:02}{('.jpg', '.png', '.bmp', '.webp')[number % 4]}"
        if number == 3:
            image, path = image.convert("L"), path.with_suffix(".png")
        turned = Image.Exif()
        turned[0x112] = 6
        image.save(path, **({"exif": turned.tobytes()} if number == 4 else {}))
        paths.append(path)
    return paths


def same(ours: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ours["class_ids"] == other["class_ids"] and ours["label_names"] == other["label_names"]
    return names and np.allclose(ours["scores"], other["scores"], atol=2e-5)  # of rounded ones


def test_paddlex_gives_the_same_answers(
    theirs: Any, exported: Any, photographs: list[Path], tmp_path: Path, chain: Any
) -> None:
    ours = Predictor(exported.folder, threads=1).predict(photographs)
    found = theirs("PP-LCNet_x0_25", exported.folder, *photographs)
    assert len(found) == len(ours) == 20
    wrong = [pair for pair in zip(ours, found) if not same(*pair)]
    assert not wrong
    assert len({tuple(answer["class_ids"]) for answer in ours}) > 5
    # Several labels, with the name of a network that PaddleX expects them of.
    many, labels = tmp_path / "many", ["a", "b", "c", "d", "e"]
    ops = [{"ResizeImage": {"size": 64}}, NORMALIZE]
    export_model(
        *(exported.network, many, (3, 64, 64), ops),
        *({"MultiLabelThreshOutput": {"threshold": 0.4}}, labels, "PPLCNet_x1_0"),
        pdx_model_name="PP-LCNet_x1_0_ML",
    )
    ours = Predictor(many, threads=1).predict(photographs)
    for mine, other in zip(ours, theirs("PP-LCNet_x1_0_ML", many, *photographs), strict=True):
        by_id = np.argsort(other["class_ids"])  # it has the likeliest first
        assert same(mine, {key: [value[i] for i in by_id] for key, value in other.items()})
    assert {len(answer["class_ids"]) for answer in ours} > {1, 2}
    # What it would run otherwise, it refuses.
    turned = tmp_path / "turned"
    ops = [{"CropImage": {"size": 64}}, {"ResizeImage": {"size": 64}}, NORMALIZE]
    export_model(exported.network, turned, (3, 64, 64), ops, model_name="PPLCNet_x0_25")
    assert theirs("PP-LCNet_x0_25", turned, *photographs) == "KeyError: 'DecodeImage'"


def test_paddlex_knows_the_names(theirs: Any) -> None:
    known = set(theirs("names"))
    strange = {name for name in ZOO if paddlex.model_name(name) not in known}
    it_has_not = {"ShuffleNetV2", "LeViT", "PPLCNetV3", "PPLCNetV4"}
    families = {ZOO[name].family for name in strange - {"MobileNetV2_x0_75"}}
    assert families == it_has_not
