"""The exported folder: equal to the network, complete, and whole or absent."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import TOLERANCE
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.models.create import create_model
from ppcls_lite.recipe.export import _some_real_images

OPS = [
    {"ResizeImage": {"size": [16, 16]}},
    {"NormalizeImage": {"order": ""}},
]


class Tiny(nn.Layer):
    """A 3x3 and a 1x1 branch that `reparameterize` merges, wrongly if asked to."""

    def __init__(self, class_num: int = 4, wrong: bool = False) -> None:
        super().__init__()
        self.wide = nn.Conv2D(3, 8, 3, padding=1)
        self.narrow: nn.Conv2D | None = nn.Conv2D(3, 8, 1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, class_num)
        self.wrong = wrong

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.wide(x)
        if self.narrow is not None:
            y = y + self.narrow(x)
        return 5 * self.fc(self.drop(nn.functional.relu(y).mean([2, 3])))  # (N, class_num)

    def reparameterize(self) -> int:
        kernel = nn.functional.pad(self.narrow.weight, [1, 1, 1, 1])
        self.wide.weight.set_value(self.wide.weight + (0 if self.wrong else kernel))
        self.wide.bias.set_value(self.wide.bias + self.narrow.bias)
        self.narrow = None
        return 1


class DictNet(Tiny):
    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"features": x, "logits": super().forward(x)}


def golden_weights(network: nn.Layer) -> nn.Layer:
    """The filling formula of the golden values: noise from the CRC-32 of each key."""
    for key, value in network.state_dict().items():
        noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(value.shape)
        if key.endswith("_mean"):
            noise = 0.1 * noise
        elif key.endswith("_variance"):
            noise = 1 + 0.1 * np.abs(noise)
        elif noise.ndim == 1:
            noise = 1 + 0.1 * noise if key.endswith(".weight") else 0.1 * noise
        else:
            fan_in = noise.shape[0] if noise.ndim == 2 else np.prod(noise.shape[1:])
            noise = noise * np.sqrt(2 / fan_in)
        value.set_value(noise.astype(np.float32))
    return network


def export_tiny(folder: Path, model: nn.Layer | None = None, **options: Any) -> Any:
    options = {"image_shape": (3, 16, 16), "transforms": OPS, **options}
    return export_model(Tiny() if model is None else model, folder, **options)


def inputs(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 16, 16), np.float32)


def dygraph(model: nn.Layer, x: np.ndarray) -> np.ndarray:
    model.eval()
    return model(paddle.to_tensor(x)).numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    return nn.functional.softmax(paddle.to_tensor(logits)).numpy()


def test_the_exported_model_gives_the_golden_logits(
    fixtures: Path, tmp_path: Path, chain: Any
) -> None:
    network = golden_weights(create_model("PPLCNet_x0_25"))
    export_model(network, tmp_path / "out", transforms=chain(224), add_softmax=False)
    x = np.random.RandomState(7).standard_normal((2, 3, 224, 224)).astype(np.float32)
    golden = np.load(fixtures / "PPLCNet_x0_25.npz")["logits"]
    found = Predictor(tmp_path / "out").predict_batch(x)
    assert np.abs(found - golden).max() / np.abs(golden).max() < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        *("PPLCNetV2_small", "MobileNetV1_x0_25", "MobileNetV2_x0_25"),
        *("MobileNetV3_small_x0_35", "ShuffleNetV2_swish", "ResNet18_vd"),
    ],
)
def test_a_network_of_each_family_exports(
    name: str, tmp_path: Path, network_of: Any, chain: Any
) -> None:
    options = {"image_shape": (3, 64, 64), "transforms": chain(64)}
    report = export_tiny(tmp_path / "out", network_of(name, 7), **options)
    assert report.max_difference <= TOLERANCE and report.changed == 0
    assert (report.merged_places > 0) == name.startswith("PPLCNetV2")


def test_the_folder_holds_all_that_prediction_needs(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("0 cat\n1 big dog\n2 猫\n3 no\n", encoding="utf-8")
    post = {"name": "Topk", "topk": 2, "class_id_map_file": str(labels)}
    report = export_tiny(tmp_path / "deep" / "out", postprocess=post, model_name="TinyNet")
    labels.unlink()
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "deep" / "out", moved)
    shutil.rmtree(tmp_path / "deep")

    files = {path.name: path.stat().st_size for path in moved.iterdir()}
    assert files == report.sizes
    assert set(files) == {"inference.json", "inference.pdiparams", "inference.yml"}
    tree = yaml.safe_load((moved / "inference.yml").read_text(encoding="utf-8"))
    about = tree["Global"]
    assert about["model_name"] == "TinyNet"
    assert about["image_shape"] == [3, 16, 16]
    assert about["output"] == "probabilities"
    assert about["versions"]["paddle"] == paddle.__version__
    assert [*map(list, tree["PreProcess"]["transform_ops"])] == [
        *(["ResizeImage"], ["NormalizeImage"], ["ToCHWImage"])
    ]
    assert tree["PostProcess"] == {
        "Topk": {"topk": 2, "label_list": ["cat", "big dog", "猫", "no"]}
    }
    result = Predictor(moved).predict(np.zeros((20, 20, 3), np.uint8))[0]
    assert set(result["label_names"]) < {"cat", "big dog", "猫", "no"}


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    model = Tiny()
    model.fc.eval()
    state = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    device = paddle.device.get_device()
    export_tiny(tmp_path / "out", model)
    assert model.training and model.drop.training and not model.fc.training
    assert model.narrow is not None
    assert list(state) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert np.array_equal(state[key], value.numpy())
    assert paddle.device.get_device() == device
    model(paddle.to_tensor(inputs())).sum().backward()
    assert float(model.fc.weight.grad.abs().sum()) > 0


def test_any_batch_size_and_free_edges(tmp_path: Path) -> None:
    model = Tiny()
    ops = [{"ResizeImage": {"resize_short": 16}}, {"NormalizeImage": {"order": ""}}]
    export_tiny(tmp_path / "out", model, image_shape=(3, -1, -1), transforms=ops)
    predictor = Predictor(tmp_path / "out")
    for shape in [(1, 3, 16, 16), (5, 3, 16, 40), (2, 3, 33, 16)]:
        x = np.random.default_rng(2).standard_normal(shape, np.float32)
        expected = softmax(dygraph(model, x))
        assert predictor.predict_batch(x) == pytest.approx(expected, abs=1e-5)


def test_logits_and_multilabel_probabilities(tmp_path: Path) -> None:
    model, image = Tiny(), np.full((16, 16, 3), 200, np.uint8)
    x = inputs()
    logits = dygraph(model, x)
    export_tiny(tmp_path / "soft", model)
    export_tiny(tmp_path / "raw", model, add_softmax=False)
    post = {"MultiLabelThreshOutput": {"threshold": 0.0}}
    export_tiny(tmp_path / "multi", model, postprocess=post, add_softmax=False)
    soft, raw, multi = (Predictor(tmp_path / name) for name in ("soft", "raw", "multi"))
    assert soft.predict_batch(x) == pytest.approx(softmax(logits), abs=1e-5)
    assert raw.spec.output == "logits"
    assert raw.predict_batch(x) == pytest.approx(logits, abs=1e-4)
    assert multi.predict_batch(x) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)
    ours, theirs = soft.predict(image)[0], raw.predict(image)[0]
    assert ours["class_ids"] == theirs["class_ids"]
    assert ours["scores"] == pytest.approx(theirs["scores"], abs=2e-5)


def test_of_a_dict_the_logits_are_exported(tmp_path: Path) -> None:
    model = DictNet()
    export_tiny(tmp_path / "out", model)
    model.eval()
    expected = softmax(model(paddle.to_tensor(inputs()))["logits"].numpy())
    assert Predictor(tmp_path / "out").predict_batch(inputs()) == pytest.approx(expected, abs=1e-5)


def test_reparameterisation_is_reported_and_checked(tmp_path: Path) -> None:
    model, x = Tiny(), inputs()
    report = export_tiny(tmp_path / "out", model)
    assert report.merged_places == 1
    assert "1 branches merged" in str(report)
    before = Predictor(tmp_path / "out").predict_batch(x)
    assert before == pytest.approx(softmax(dygraph(model, x)), abs=1e-5)

    with pytest.raises(UserError, match=r"differs from the network: .* nothing was written"):
        export_tiny(tmp_path / "out", Tiny(wrong=True))
    assert np.array_equal(Predictor(tmp_path / "out").predict_batch(x), before)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_export_replaces_the_last_one(tmp_path: Path) -> None:
    export_tiny(tmp_path / "out", Tiny(class_num=4))
    export_tiny(tmp_path / "out", Tiny(class_num=6))
    assert Predictor(tmp_path / "out").predict_batch(inputs()).shape == (3, 6)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_export_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(program: Any, path: str) -> None:
        Path(path + ".json").write_text("{", encoding="utf-8")
        raise error

    monkeypatch.setattr(paddle.jit, "save", half)
    with pytest.raises(UserError if error is OSError else error):
        export_tiny(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        export_tiny(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        export_tiny(tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_shape": (3, 32, 32)}, r"shape \(3, 16, 16\), but Global.image_shape is \[3, 32"),
        ({"image_shape": (16, 16)}, r"expected \[channels, height, width\], found \[16, 16\]"),
        ({"transforms": [{"ResizeImage": {"sise": 16}}]}, "no argument 'sise'"),
        ({"labels": ["only", "two"]}, "names 2 classes, the network has 4"),
        ({"postprocess": {"ThreshOutput": {}}}, "for 2 outputs, the network has 4"),
        ({"postprocess": {"Topk": {"class_id_map_file": "nowhere.txt"}}}, "'nowhere.txt' does not"),
        ({"postprocess": {"Topk": {}, "ScoreOutput": {}}}, "expected one component"),
        ({"model": nn.Conv2D(3, 4, 1)}, r"gives the shape \(4, 4, 16, 16\); expected \(N, classes"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        export_tiny(tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_network_is_refused(tmp_path: Path) -> None:
    model = Tiny()
    model.fc.bias.set_value(np.full(4, np.nan, np.float32))
    with pytest.raises(UserError, match="not finite"):
        export_tiny(tmp_path / "out", model)
    assert list(tmp_path.iterdir()) == []


def test_own_pictures_are_compared(tmp_path: Path, pictures: Path) -> None:
    sample = [pictures / "a.png", np.zeros((30, 40, 3), np.uint8)]
    assert export_tiny(tmp_path / "out", sample_images=sample).images == 2


def test_a_recipe_s_own_images_are_compared_if_they_are_there(tmp_path: Path) -> None:
    settings = SimpleNamespace(Infer=SimpleNamespace(infer_imgs=str(tmp_path / "absent")))
    assert _some_real_images(settings) is None
    settings.Infer.infer_imgs = None
    assert _some_real_images(settings) is None
    for index in range(20):
        (tmp_path / f"{index:02d}.jpg").write_bytes(b"")
    settings.Infer.infer_imgs = str(tmp_path)
    found = [Path(file).name for file in _some_real_images(settings)]
    assert found == [f"{index:02d}.jpg" for index in range(0, 16, 2)]
