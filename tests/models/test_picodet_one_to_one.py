"""PicoDet that needs no suppression: what is picked, who teaches, and what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.postprocess.detect import DetectionNMS
from ppcls_lite.inference.shipped import Shipped, save_program
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.picodet import PicoDetLoss
from ppcls_lite.models.create import create_model
from ppcls_lite.models.picodet import PicoDet
from ppcls_lite.models.picodet_one_to_one import Pick, PicoDetOneToOne


def make() -> PicoDetOneToOne:
    paddle.seed(3)
    spec = {"neck": {"name": "LCPAN", "out_channels": 16}, "head": {"name": "PicoHeadV2"}}
    spec |= {"backbone": {"name": "PPLCNet_x0_25"}}
    return build({"PicoDetOneToOne": spec}, "model", class_num=2)


def loss(topk: int, **more: Any) -> PicoDetLoss:
    assigner = {"name": "TaskAligned", "topk": topk}
    return build({"PicoDetLoss": {"assigner": assigner, **more}}, "loss")


def batch() -> dict[str, paddle.Tensor]:
    """Two images, with two objects and with one."""
    boxes = [
        [[4.0, 4.0, 40.0, 50.0], [30.0, 20.0, 62.0, 60.0]],
        [[10.0, 10.0, 50.0, 50.0], [0.0] * 4],
    ]
    found = {"image": paddle.randn([2, 3, 64, 64]), "boxes": paddle.to_tensor(boxes)}
    return found | {"classes": paddle.to_tensor([[0, 1], [1, -1]])}


def moved_by(terms: paddle.Tensor, model: PicoDetOneToOne) -> set[str]:
    """The parts of the network that a loss teaches."""
    terms.backward()
    learnt = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return {name.split(".")[0] for name, gradient in learnt if gradient.abs().max() > 0}


def test_scores_are_an_ordinary_picodets_that_a_pick_multiplies() -> None:
    model = make()
    images = paddle.randn([1, 3, 64, 96])
    both = model(images)
    assert {*both} == {"boxes", "scores", "sides", "places", "many"}
    assert {*both["many"]} == {"boxes", "scores", "sides", "places"}
    model.eval()
    found = model(images)
    assert "many" not in found
    plain = PicoDet(model.backbone, *_parts(), class_num=2)
    plain.set_state_dict({k: v for k, v in model.state_dict().items() if "pick" not in k})
    plain.eval()
    many = plain(images)
    np.testing.assert_array_equal(found["boxes"].numpy(), many["boxes"].numpy())
    share = found["scores"].numpy() / many["scores"].numpy()
    assert 0 < share.min() < share.max() < 1
    np.testing.assert_allclose(share[:, 0], share[:, 1], rtol=1e-5)  # one for all classes


def test_each_object_has_one_place_and_teaches_only_the_pick() -> None:
    model, seen = make(), batch()
    one = loss(1)
    outputs = model(seen["image"])
    truth, classes = one._truth(seen)
    rows = one._assigned(outputs, truth, classes).row.numpy()
    for image, count in ((0, 2), (1, 1)):
        taken = rows[image][rows[image] >= 0]
        assert 1 <= len(taken) <= count
        assert len({*taken.tolist()}) == len(taken)
    assert moved_by(CombinedLoss([one])(outputs, seen)["loss"], model) == {"pick"}


def test_the_ordinary_loss_teaches_everything_else_under_names_of_its_own() -> None:
    model, seen = make(), batch()
    terms = CombinedLoss([loss(13, part="many"), loss(1)])(model(seen["image"]), seen)
    names = ("loss_vfl", "loss_bbox", "loss_dfl")
    assert {*terms} == {*names, *(f"many_{name}" for name in names), "loss"}
    ordinary = sum(terms[f"many_{name}"] for name in names)
    assert moved_by(ordinary, model) == {"backbone", "neck", "head"}


def test_a_pick_learns_to_silence_doubles() -> None:
    """Of two places with the same box and score, one is left."""
    paddle.seed(0)
    pick = Pick(4)
    feature, scores = paddle.randn([1, 4, 6, 6]), paddle.zeros([1, 1, 6, 6])
    scores[0, 0, 2:4, 2:4] = 0.8
    wanted = paddle.zeros([1, 1, 6, 6])
    wanted[0, 0, 2, 3] = 1.0
    rate = paddle.optimizer.Adam(0.03, parameters=pick.parameters())
    for _ in range(60):
        found = scores * paddle.nn.functional.sigmoid(pick(feature, scores))
        (found - 0.8 * wanted).square().sum().backward()
        rate.step()
        rate.clear_grad()
    left = found.numpy()[0, 0]
    assert left[2, 3] > 0.7
    assert np.sort(left.ravel())[-2] < 0.1


def test_a_part_that_is_not_there_is_named() -> None:
    model = create_model("picodet_PPLCNet_x0_25", class_num=2)
    assert type(model) is PicoDet
    seen = batch()
    with pytest.raises(
        UserError, match=r"PicoDetLoss\.part: the network gives no 'many', but boxes"
    ):
        loss(13, part="many")(model(seen["image"]), seen)


@paddle.no_grad()
def test_the_program_picks(tmp_path: Path) -> None:
    model = make()
    model.eval()
    shipped = Shipped(model)
    shipped.eval()
    save_program(shipped, tmp_path, (3, 64, 64))
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    boxes, scores = PaddleEngine(tmp_path).run(images)
    found = model(paddle.to_tensor(images))
    np.testing.assert_allclose(boxes, found["boxes"].numpy(), atol=0.03)
    np.testing.assert_allclose(scores, found["scores"].numpy(), atol=1e-4)
    raw = model.raw(paddle.to_tensor(images))
    flat = paddle.concat([part.flatten(2) for part in raw[: len(model.strides)]], axis=2)
    np.testing.assert_array_equal(flat.numpy(), found["scores"].numpy())


def _parts() -> tuple[Any, Any]:
    spec = {"neck": {"name": "LCPAN", "out_channels": 16}, "head": {"name": "PicoHeadV2"}}
    return tuple(build({part.pop("name"): part}, kind) for kind, part in spec.items())


def test_a_threshold_of_one_suppresses_nothing() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [1, 0, 10, 10]], np.float32)
    scores = np.array([[0.9, 0.8, 0.7]], np.float32)
    assert len(DetectionNMS(nms_threshold=1.0).objects(boxes, scores)) == 3
    assert len(DetectionNMS(nms_threshold=0.6).objects(boxes, scores)) == 1
