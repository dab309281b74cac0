"""Segmentation: maps in the photograph's pixels, as text and pictures, equal in every engine."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from ppcls_lite.config.settings import TilingSettings
from ppcls_lite.data.mask_file import read_mask
from ppcls_lite.data.transforms.geometry import MASK_FILL, Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.postprocess.run_lengths import MAX_RUNS, decode_map, encode_map
from ppcls_lite.inference.postprocess.segment import Segmentation
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.preprocess import Preprocessor
from ppcls_lite.models.create import create_model
from ppcls_lite.ops.palettes import CITYSCAPES, colours_of, voc_colours
from ppcls_lite.ops.placing import classes_in_photograph, scores_in_photograph

NORMAL = {"NormalizeImage": {"scale": "1/255", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}


def blocks(height: int, width: int, edge: int = 8) -> np.ndarray:
    """A map of classes 0 to 4 in squares, (height, width) uint8."""
    grid = np.random.default_rng(0).integers(0, 5, (-(-height // edge), -(-width // edge)))
    grid = grid.astype(np.uint8).repeat(edge, axis=0).repeat(edge, axis=1)
    return np.ascontiguousarray(grid[:height, :width])


def seen_through(ops: list[Any], mask: np.ndarray) -> tuple[np.ndarray, Meta]:
    """What a network that answers with the picture's red channel sees of a mask, and `meta`."""
    prepare = Preprocessor([*ops, {"ToCHWImage": None}])
    array, meta = prepare(np.repeat(mask[..., None], 3, axis=2))
    return array[0], meta


@pytest.mark.parametrize("way", ["as it is", "padded", "mirrored"])
def test_a_map_comes_back_exactly(way: str) -> None:
    mask = blocks(40, 72)
    seen, meta = seen_through([{"Padv2": {"size_divisor": 32}}] if way == "padded" else [], mask)
    assert seen.shape == ((64, 96) if way == "padded" else mask.shape)
    if way == "mirrored":
        seen, meta = mask[:, ::-1], Meta(40, 72, np.array([[-1.0, 0, 72], [0, 1, 0]]))
    assert (classes_in_photograph(seen, meta) == mask).all()
    hot = (seen[None] == np.arange(5)[:, None, None]).astype(np.float32)
    found, scores = scores_in_photograph(hot, meta)
    assert (found == mask).all() and (scores == 1).all()


def test_a_resized_map_takes_the_nearest_class_and_scores_are_interpolated() -> None:
    mask = blocks(40, 72)
    half = mask[::2, ::2]
    meta = Meta(40, 72, np.array([[2.0, 0, 0], [0, 2, 0]]))
    assert (classes_in_photograph(half, meta) == mask).all()  # squares of whole pixels
    scores = np.random.default_rng(1).standard_normal((3, 20, 36)).astype(np.float32)
    x = paddle.to_tensor(scores[None])
    options = {"mode": "bilinear", "align_corners": False}
    full = paddle.nn.functional.interpolate(x, [40, 72], **options).numpy()[0]
    found, best = scores_in_photograph(scores, meta)
    assert (found == full.argmax(axis=0)).mean() > 0.999
    np.testing.assert_allclose(best, full.max(axis=0), atol=1e-5)


def test_letterboxed_scores_are_cut_off_before_they_are_resized() -> None:
    meta = Meta(20, 40, np.array([[0.5, 0, -2.0], [0, 0.5, -3.0]]))  # twice as large, 4 and 6 down
    scores = np.full((2, 60, 100), -5.0, np.float32)
    scores[0, 6:46, 4:84], scores[1, 6:46, 4:84] = 1, 0
    scores[1, :6] = scores[1, 46:] = 9  # the border must not bleed in
    found, best = scores_in_photograph(scores, meta)
    assert found.shape == (20, 40) and (found == 0).all() and (best == 1).all()


def test_what_the_network_has_not_seen_has_no_class() -> None:
    meta = Meta(40, 72, np.array([[1.0, 0, 16], [0, 1, 4]]))  # a crop of the centre
    mask = blocks(32, 40)
    for found in (
        classes_in_photograph(mask, meta),
        scores_in_photograph(np.eye(5, dtype=np.float32)[mask].transpose(2, 0, 1), meta)[0],
    ):
        assert (found[4:36, 16:56] == mask).all()
        assert (found == MASK_FILL).sum() == 40 * 72 - 32 * 40
    (result,) = Segmentation()({"classes": mask[None].astype(np.int32)}, [meta])
    assert sum(result["pixels"]) == 32 * 40 and sum(result["shares"]) == pytest.approx(1, abs=1e-5)


def test_run_lengths_and_their_bound() -> None:
    mask = blocks(40, 72)
    found = encode_map(mask)
    assert found["size"] == [40, 72] and sum(found["runs"][1::2]) == 40 * 72
    assert (decode_map(json.loads(json.dumps(found))) == mask).all()
    noise = np.random.default_rng(0).integers(0, 19, (400, 500)).astype(np.uint8)
    found = encode_map(noise)
    assert "runs" not in found and len(found["png"]) < 1.4 * noise.size < 2 * MAX_RUNS * 2
    assert (decode_map(found) == noise).all()


def answer(**options: Any) -> tuple[Segmentation, dict[str, Any], np.ndarray]:
    mask = blocks(96, 600)
    answers = Segmentation(label_list=[*"abcde"], **options)
    (result,) = answers({"classes": mask[None].astype(np.int32)}, [Meta(96, 600)])
    return answers, result, mask


def test_rows_say_what_covers_how_much() -> None:
    answers, result, mask = answer()
    counts = np.bincount(mask.reshape(-1), minlength=5)
    rows = answers.rows(json.loads(json.dumps(result)))
    assert [row[1] for row in rows] == sorted(counts[counts > 0].tolist(), reverse=True)
    for number, pixels, share, name in rows:
        assert (pixels, name) == (counts[number], "abcde"[number])
        assert share == pytest.approx(pixels / mask.size, abs=1e-6)
    assert [column.name for column in answers.columns] == [
        *("class_id", "pixels", "share", "label_name")
    ]


def test_the_png_is_a_mask_that_data_sets_read(tmp_path: Path) -> None:
    answers, result, mask = answer(palette="voc")
    path = tmp_path / "mask.png"
    path.write_bytes(answers.png(result))
    found = read_mask(str(path))
    assert (found.numbers == mask).all() and (found.shown_as[:5] == voc_colours(5)).all()


def test_a_picture_and_a_layer_show_the_classes() -> None:
    answers, result, mask = answer(opacity=1.0, palette=[[1, 2, 3], [9, 9, 9]])
    drawn = answers.draw(np.full((96, 600, 3), 128, np.uint8), result)
    assert drawn.dtype == np.uint8 and drawn.shape == (96, 600, 3)
    right = slice(200, None)  # beside the names
    assert (drawn[:, right][mask[:, right] == 0] == (1, 2, 3)).all()
    names = answers.colours_in_layer(result)
    assert names[result["class_ids"].index(0)] == "#010203" and len(names) == 5
    layer = answers.layer(result, mask.shape)
    assert layer.shape == (96, 600, 4) and (layer[..., 3] == 255).all()
    assert (layer[mask == 1][:, :3] == 9).all()
    plain = answer(opacity=0.0)[0].draw(np.full((96, 600, 3), 128, np.uint8), result)
    assert (plain[:, right] == 128).all()


def test_a_legend_does_not_cover_a_small_picture() -> None:
    mask = blocks(128, 160)
    answers = Segmentation(label_list=[*"abcde"], opacity=1.0)
    (result,) = answers({"classes": mask[None].astype(np.int32)})
    drawn = answers.draw(np.zeros((128, 160, 3), np.uint8), result)
    assert drawn.shape[0] == 128 and drawn.shape[1] > 160 + 60
    assert (drawn[:, :160] == answers.colours[mask]).all()
    for number, kind in enumerate(result["class_ids"], start=1):
        assert (drawn[number * 18 - 2, 160 + 12] == answers.colours[kind]).all()
    narrow = answers.draw(np.zeros((128, 160, 3), np.uint8)[:40, :50], result_of(mask[:40, :50]))
    assert narrow.shape[0] > 40 and (narrow[:40, :50] == answers.colours[mask[:40, :50]]).all()


def result_of(mask: np.ndarray) -> dict[str, Any]:
    return Segmentation(label_list=[*"abcde"])({"classes": mask[None].astype(np.int32)})[0]


def test_palettes() -> None:
    names = [*CITYSCAPES]
    assert len(names) == 19 and colours_of("auto", names)[0].tolist() == [128, 64, 128]
    plain = colours_of("auto", ["sky", "pole"])
    assert (plain == colours_of("plain")).all() and len(np.unique(plain[:40], axis=0)) == 40
    lab = cv2.cvtColor(plain[None, :16], cv2.COLOR_RGB2LAB)[0].astype(float)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 999 * np.eye(16)
    assert apart.min() > 25  # no two of sixteen look alike
    # The first eight differ in brightness or hue for everybody: red and green weakness included.
    gray = cv2.cvtColor(plain[None, :8], cv2.COLOR_RGB2LAB)[0].astype(int)
    blue_and_light = gray[:, [0, 2]]
    far = np.abs(blue_and_light[:, None] - blue_and_light[None]).max(axis=2) + 99 * np.eye(8)
    assert far.min() >= 8
    with pytest.raises(UserError, match=r"palette: expected \[red, green, blue\] each, found"):
        Segmentation(palette=[[1, 2]])


def test_agreement_is_the_share_of_equal_pixels() -> None:
    answers = Segmentation()
    before = np.zeros((2, 100, 200), np.int32)
    after = before.copy()
    after[0, 0, 0] = 1  # one of 20,000: rounding at a tie
    after[1, :50] = 1
    found = answers.agreement({"classes": before}, {"classes": after})
    assert found.same == pytest.approx(1 - (1 / 20_000 + 0.5) / 2)
    assert found.changed() == 1 and "changed on 1 of 2 images" in found.exported()
    assert answers.agreement({"classes": before[:1]}, {"classes": after[:1]}).exported() is None
    assert "too far from fp32" in found.computed("int8")
    scores = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    moved = {"probabilities": scores[:, ::-1]}
    assert answers.agreement({"probabilities": scores}, moved).same < 0.6


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}, r"gives a, b; Segmentation expects one"),
        ({"logits": np.zeros((1, 1000))}, r"the shape \(1, 1000\); Segmentation expects"),
        ({"logits": np.zeros((1, 300, 2, 2))}, r"of at most 255 classes"),
        ({"classes": np.full((1, 4, 4), 5)}, r"gives class 5, but there are names of 5 classes"),
    ],
)
def test_outputs_that_do_not_fit(outputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Segmentation(label_list=[*"abcde"])(outputs)


def noisy_network(**arguments: Any) -> paddle.nn.Layer:
    """A network of 5 classes with the statistics of noise, without which all fades."""
    paddle.seed(1)
    network = create_model("deeplabv3p_PPLCNet_x0_25", class_num=5, **arguments)
    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):
            layer._momentum = 0.0
    network.train()
    network(paddle.randn([4, 3, 64, 64]))
    network.eval()
    return network


def test_coarse_scores_give_the_same_classes(tmp_path: Path) -> None:
    """As those of the whole network, resized back and cut to the photograph."""
    ops = [{"ResizeImage": {"size": [61, 45]}}, {"Padv2": {"size_divisor": 10}}]
    network, picture = noisy_network(), blocks(50, 76, 4)[..., None].repeat(3, axis=2) * 50
    ask = {"Segmentation": {"output": "coarse"}}
    report = export_model(
        network, tmp_path / "m", (3, 50, 70), [*ops, NORMAL], ask, sample_images=[picture]
    )
    assert report.changed == 0 and "logits of 13 x 18 pixels x 5" in report.what
    predictor = Predictor(tmp_path / "m", threads=1)
    (result,) = predictor.predict(picture)
    found = decode_map(result["mask"])
    array, meta = Preprocessor([*ops, NORMAL])(picture)
    with paddle.no_grad():
        classes = network(paddle.to_tensor(array[None])).argmax(axis=1).numpy()
    expected = decode_map(Segmentation()({"classes": classes}, [meta])[0]["mask"])
    assert found.shape == (50, 76) and len(np.unique(found)) > 2 and (found == expected).all()


def test_what_has_no_coarse_scores_is_refused(tmp_path: Path) -> None:
    ask = {"Segmentation": {"output": "coarse"}}
    corners = create_model("deeplabv3p_PPLCNet_x0_25", class_num=5, align_corners=True)
    for network, options, message in (
        (paddle.nn.Conv2D(3, 5, 1), {}, r"asks for the scores before .* but Conv2D has none"),
        (corners, {}, "expected a network with align_corners: false"),
        (noisy_network(), {"tiling": TilingSettings([32, 32])}, "coarse is for whole images"),
    ):
        with pytest.raises(UserError, match=message):
            export_model(network, tmp_path / "m", (3, -1, -1), [NORMAL], ask, **options)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("shape", [(3, 45, 61), (3, -1, -1)], ids=["odd", "free"])
def test_a_network_is_the_same_in_every_engine(shape: tuple[int, int, int], tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    network = noisy_network()
    size = (45, 61) if shape[1] > 0 else (33, 64)  # one pixel more than a multiple of 32
    picture = np.repeat(blocks(*size, 4)[..., None] * 50, 3, axis=2)
    pictures = [picture, np.ascontiguousarray(picture[:, ::-1])]
    ask = {"Segmentation": {"output": "classes" if shape[1] > 0 else "probabilities"}}
    report = export_model(
        network, tmp_path / "m", shape, [NORMAL], ask, [*"abcde"], format="both",
        sample_images=pictures,
    )  # fmt: skip
    assert {"paddle"} < {*report.engines} and report.changed == 0 and report.max_difference < 1e-4
    predictor = Predictor(tmp_path / "m", threads=1)
    assert predictor.spec.outputs == (ask["Segmentation"]["output"],)
    network.eval()
    odd = picture if shape[1] > 0 else np.ascontiguousarray(picture[:30, :47])  # a new size
    (result,) = predictor.predict(odd)
    x = paddle.to_tensor(predictor.preprocess(odd)[None])
    with paddle.no_grad():
        expected = network(x).numpy()[0].argmax(axis=0)
    assert (decode_map(result["mask"]) == expected).mean() > 0.999
    if shape[1] > 0:  # a fixed size is one
        with pytest.raises(UserError, match=r"the shape \(3, 40, 61\), but the network takes"):
            predictor.predict(picture[:40])
    with Image.open(io.BytesIO(predictor.postprocess.png(result))) as image:
        assert image.mode == "P" and image.size == odd.shape[1::-1]
