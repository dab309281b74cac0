"""Windows, mirrored and resized views: the golden values, any size, and one rule for all."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.config.settings import TilingSettings, TtaSettings
from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess.run_lengths import decode_map
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.inference.viewed_forward import ViewedForward
from ppcls_lite.inference.views import Views, require_seen, views_of
from ppcls_lite.models.create import create_model

MODES = {
    "flip": Views(tta=TtaSettings([1.0], True)),
    "ms_flip": Views(tta=TtaSettings([0.5, 1.0, 1.5], True)),
    "slide": Views(tiling=TilingSettings([192, 160], [128, 96])),
}
NORMAL = {"NormalizeImage": {"scale": "1/255", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}


def test_the_golden_views(
    segmentation: Path, dense_weights: Callable[..., Any], dense_input: Callable[..., np.ndarray]
) -> None:
    tag = "deeplabv3p_pplcnet_x0_5"
    network = create_model("deeplabv3p_PPLCNet_x0_5", class_num=19, aspp_ratios=[1, 3, 6, 9])
    named = json.loads((segmentation / f"{tag}_params.json").read_text())["params"]
    network.set_state_dict(dense_weights(named))
    network.eval()
    values = np.load(segmentation / f"{tag}_infer_modes.npz")
    image = dense_input("seg_a", (1, 3, 256, 384))[0]
    for mode, views in MODES.items():
        scores = views.scores(network_run(network), image)
        np.testing.assert_allclose(scores[None, :, ::15, ::15], values[f"{mode}_sub"], atol=2e-5)
        counts = np.bincount(scores.argmax(axis=0).reshape(-1), minlength=19)
        assert np.abs(counts - values[f"{mode}_argmax_hist"]).max() <= 2
        forward = ViewedForward(views, own)
        with forward(network, paddle.zeros([1, 3, 256, 384]), 1) as run:
            found = run(paddle.to_tensor(image[None]))
        np.testing.assert_array_equal(found.numpy()[0], scores)


def network_run(network: nn.Layer) -> Callable[[np.ndarray], np.ndarray]:
    def run(images: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return network(paddle.to_tensor(images)).numpy()

    return run


class own:
    """The `Forward` that is the network itself, without gradients."""

    def __init__(self, model: nn.Layer, images: Tensor, batches: int) -> None:
        self.model = model

    def __enter__(self) -> Callable[[Tensor], Tensor]:
        def run(images: Tensor) -> Tensor:
            with paddle.no_grad():
                return self.model(images)

        return run

    def __exit__(self, *_: object) -> None: ...


def pixelwise(images: np.ndarray) -> np.ndarray:
    """Scores (N, 2, h, w) that depend on a pixel alone, so that views change nothing."""
    return np.stack([images[:, 0] - images[:, 1], images[:, 2]], axis=1)


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (17, 16), (40, 23), (33, 64)])
@pytest.mark.parametrize("stride", [None, [8, 8], [5, 3]])
def test_windows_cover_images_of_any_size(size: tuple[int, int], stride: list[int] | None) -> None:
    seen: list[tuple[int, ...]] = []

    def run(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        return pixelwise(images)

    image = np.random.default_rng(0).standard_normal((3, *size)).astype(np.float32)
    views = Views(TilingSettings([16, 16], stride), TtaSettings([1.0], True, True))
    np.testing.assert_allclose(views.scores(run, image), pixelwise(image[None])[0], atol=1e-6)
    assert {*seen} == {(1, 3, 16, 16)}  # a program of one size can run them


def test_overlaps_are_means_of_the_windows() -> None:
    calls = iter(range(10))
    views = Views(TilingSettings([4, 4], [2, 4]))
    scores = views.scores(lambda x: np.full((1, 1, 4, 4), next(calls)), np.zeros((3, 4, 8)))
    assert scores[0, 0].tolist() == [0, 0, 0.5, 0.5, 1.5, 1.5, 2, 2]


def test_memory_does_not_grow_with_the_photographs_height() -> None:
    views = Views(TilingSettings([32, 32], [16, 16]))

    def peak(height: int) -> float:
        rows = 0
        tracemalloc.start()
        cut = lambda r, c: np.zeros((3, r.stop - r.start, c.stop - c.start), np.float32)  # noqa: E731
        for band in views.bands(lambda x: x.repeat(4, axis=1), cut, (height, 320)):
            rows += band.scores.shape[1]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == height
        return most

    assert peak(1600) < 1.5 * peak(64)


@pytest.mark.parametrize(
    ("views", "shape", "message"),
    [
        (Views(TilingSettings(64)), (3, 32, 32), "windows of 64 x 64 pixels .* takes 32 x 32"),
        (Views(None, TtaSettings([0.5])), (3, 32, 32), "scales: the network takes images of one"),
    ],
)
def test_programs_that_do_not_take_the_views(views: Views, shape: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_seen(views, shape)


def test_a_stride_with_gaps_is_refused() -> None:
    with pytest.raises(UserError, match=r"stride: \[17, 16\] is more than the size \[16, 16\]"):
        Views(TilingSettings([16, 16], [17, 16]))
    assert views_of(None, None) is None


class Edges(nn.Layer):
    """Scores (N, 3, H, W) that look at a pixel's neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("output", ["classes", "probabilities"])
def test_an_exported_folder_sees_as_the_evaluation_does(output: str, tmp_path: Path) -> None:
    paddle.seed(0)
    network = Edges()
    tiling, tta = TilingSettings([24, 16], [16, 12]), TtaSettings([1.0], True)
    ask = {"Segmentation": {"output": output}}
    report = export_model(
        network, tmp_path / "m", (3, 16, 24), [NORMAL], ask, tiling=tiling, tta=tta
    )
    assert report.changed == 0 and "logits of" in str(report)
    spec = InferenceSpec.read(tmp_path / "m")
    assert (spec.tiling, spec.tta, spec.output) == (tiling, tta, "logits")
    photograph = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    image = (photograph.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)
    expected = Views(tiling, tta).scores(network_run(network), image).argmax(axis=0)
    with Predictor(tmp_path / "m", threads=1) as predictor:
        first, second = predictor.predict([photograph, photograph], batch_size=2)
    assert first == second
    assert (decode_map(first["mask"]) == expected).mean() > 0.999


def test_a_folder_with_a_wrong_section_is_refused(tmp_path: Path) -> None:
    export_model(Edges(), tmp_path / "m", (3, 16, 24), [NORMAL], {"Segmentation": {}},
                 tiling=TilingSettings([24, 16]))  # fmt: skip
    path = tmp_path / "m" / "inference.yml"
    path.write_text(path.read_text().replace("tiling:\n    size:", "tiling:\n    sizes:"))
    with pytest.raises(UserError, match=r"inference.yml: Global.tiling.sizes"):
        Predictor(tmp_path / "m")


def test_scores_that_are_no_numbers_are_an_error_of_their_image(tmp_path: Path) -> None:
    network = Edges()
    export_model(network, tmp_path / "m", (3, 16, 24), [NORMAL], {"Segmentation": {}},
                 tiling=TilingSettings([24, 16]))  # fmt: skip
    predictor = Predictor(tmp_path / "m", threads=1)
    run = predictor.engine.run
    predictor.engine.run = lambda x: [run(x)[0] * np.nan]  # type: ignore[method-assign]
    (result,) = predictor.stream([np.zeros((20, 30, 3), np.uint8)], keep_going=True)
    assert "not a number" in result["error"]
