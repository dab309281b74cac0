"""PicoDet's loss: PaddleDetection's values and gradients, batches without boxes, several ranks."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.engine.accumulate import shares
from ppcls_lite.engine.distributed import World
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.picodet import PicoDetLoss
from tests.losses.detector_outputs import (
    GOLDEN,
    batch_of,
    golden_batch,
    golden_outputs,
    outputs_of,
    places_of,
)

SECOND = {"giou_weight": 2.5, "dfl_weight": 0.5}
CASES = {
    "simota": ("legacy", {"assigner": {"name": "SimOTA"}}),
    "atss": ("v2", {"assigner": {"name": "ATSS"}, **SECOND}),
    "tal": ("v2", {"assigner": {"name": "TaskAligned"}, **SECOND}),
}


def make(epochs: int | None = None, **arguments: Any) -> PicoDetLoss:
    return build({"PicoDetLoss": arguments}, "loss", epochs=epochs)


@pytest.mark.parametrize("case", CASES)
def test_values_places_and_gradients_are_paddle_detections(case: str) -> None:
    generation, arguments = CASES[case]
    wanted = GOLDEN[generation]["results"][case]
    outputs, logits, sides = golden_outputs(legacy=generation == "legacy")
    loss, batch = make(**arguments), golden_batch()
    terms = CombinedLoss([loss])(outputs, batch)
    assert {name: float(terms[name]) for name in wanted["losses"]} == pytest.approx(
        wanted["losses"], rel=1e-5
    )
    assert float(terms["loss"]) == pytest.approx(wanted["total"], rel=1e-5)
    terms["loss"].backward()
    for levels, key in ((logits, "grad_l2_cls"), (sides, "grad_l2_reg")):
        norms = [float(level.grad.norm()) for level in levels]
        assert norms == pytest.approx(wanted[key], rel=1e-5, abs=1e-9)
    truth, classes = loss._truth(batch)
    assigned = loss._assigned(outputs, truth, classes)
    for image, known in enumerate(wanted["pos"]):
        row = assigned.row.numpy()[image]
        places = np.flatnonzero(row >= 0)
        assert places.tolist() == known["index"]
        assert truth.numpy()[image][row[places]].tolist() == known["box"]
        assert classes.numpy()[image][row[places]].tolist() == known["label"]
        if "score" in known:
            quality = assigned.quality.numpy()[image][places]
            np.testing.assert_allclose(quality, known["score"], rtol=1e-5)
    if "score_sum" in wanted:
        assert float(terms.denominators["loss_vfl"]) == pytest.approx(wanted["score_sum"], rel=1e-5)


def small_outputs(images: int, seed: int = 0, legacy: bool = False) -> dict[str, Any]:
    """What an untrained network says of images of 64 x 64 pixels."""
    rng, places = np.random.default_rng(seed), places_of([(8, 8), (4, 4), (2, 2), (1, 1)])
    logits = rng.standard_normal((images, 2, len(places))).astype("float32") - 4
    sides = rng.standard_normal((images, 4, 8, len(places))).astype("float32")
    logits, sides = (paddle.to_tensor(a, stop_gradient=False) for a in (logits, sides))
    return outputs_of(logits, sides, places, legacy) | {"leaves": (logits, sides)}


MANY = np.array([[x, y, x + 9, y + 7] for x in range(0, 50, 3) for y in range(0, 55, 3)])[:300]
BATCHES = {
    "no box at all": batch_of([[], []], [[], []]),
    "no rows": batch_of([[], []], [[], []], rows=0),
    "one image without boxes": batch_of([[[3, 3, 40, 50]], []], [[1], []]),
    "one box of the whole image": batch_of([[[0, 0, 64, 64]], [[0, 0, 64, 64]]], [[0], [1]]),
    "a box beyond the image": batch_of([[[70, 70, 90, 99]], [[-20, 5, 3, 60]]], [[0], [1]]),
    "boxes without area": batch_of([[[5, 5, 5, 5]], [[9, 9, 9, 30]]], [[0], [1]]),
    "two boxes alike": batch_of([[[4, 4, 30, 30]] * 2, [[4, 4, 30, 30]] * 2], [[0, 1], [1, 1]]),
    "three hundred boxes": batch_of([MANY, MANY[:1]], [np.arange(300) % 2, [0]], rows=300),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", BATCHES)
def test_no_batch_gives_what_is_not_finite(batch: str, case: str) -> None:
    outputs = small_outputs(2, legacy=case == "simota")
    terms = CombinedLoss([make(**CASES[case][1])])(outputs, BATCHES[batch])
    terms["loss"].backward()
    assert all(np.isfinite(float(term)) for term in terms.values())
    assert float(terms["loss_vfl"]) > 0  # background is learnt
    for leaf in outputs["leaves"]:  # every rank has gradients of the same parameters
        assert np.isfinite(leaf.grad.numpy()).all()
    if batch.startswith("no "):
        assert float(terms["loss_bbox"]) == float(terms["loss_dfl"]) == 0


@pytest.mark.parametrize("case", CASES)
def test_an_image_counts_alike_in_any_batch(case: str) -> None:
    """Rows that fill up, and other images, change nothing but the divisor."""
    loss = make(**CASES[case][1])
    both = small_outputs(2, legacy=case == "simota")
    boxes, classes = [[[3, 3, 40, 50], [30, 5, 60, 30]], [[10, 12, 50, 60]]], [[1, 0], [1]]
    together = loss(both, batch_of(boxes, classes, rows=9))
    apart = []
    for i in range(2):
        own = {name: values[i : i + 1] for name, values in both.items() if name != "leaves"}
        apart.append(loss(own, batch_of(boxes[i : i + 1], classes[i : i + 1], rows=2)))
    for name, ratio in together.items():
        for found, parts in zip(ratio, zip(*(terms[name] for terms in apart))):
            assert float(found) == pytest.approx(sum(map(float, parts)), rel=1e-5)


def test_a_divisor_is_never_below_one() -> None:
    terms = make(assigner={"name": "TaskAligned"})(small_outputs(2), BATCHES["no box at all"])
    combined = CombinedLoss([make(assigner={"name": "TaskAligned"})])(
        small_outputs(2), BATCHES["no box at all"]
    )
    assert float(terms["loss_vfl"].divisor) == 0
    assert float(combined["loss_vfl"]) == pytest.approx(float(terms["loss_vfl"].total))
    assert float(combined.denominators["loss_vfl"]) == 1


@pytest.mark.parametrize("second", ["one image without boxes", "no box at all"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradient_of_one(case: str, second: str) -> None:
    combined, legacy = CombinedLoss([make(**CASES[case][1])]), case == "simota"
    first = batch_of([[[3, 3, 40, 50], [8, 30, 30, 60]], [[20, 4, 60, 33]]], [[1, 0], [0]])
    batches = [first, BATCHES[second]]

    outputs = [small_outputs(2, seed, legacy) for seed in (1, 2)]
    names = [name for name in outputs[0] if name != "leaves"]
    whole = {name: paddle.concat([part[name] for part in outputs]) for name in names}
    every = {name: paddle.concat([batch[name] for batch in batches]) for name in first}
    value = combined(whole, every)["loss"]
    value.backward()
    expected = [[leaf.grad.numpy() for leaf in part["leaves"]] for part in outputs]

    outputs = [small_outputs(2, seed, legacy) for seed in (1, 2)]
    counted = [combined(*pair) for pair in zip(outputs, batches)]
    divisors = [[float(r.divisor) for r in terms.ratios[0]] for terms in counted]
    world = Mock(spec=World, size=2)
    world.total = lambda values: paddle.to_tensor(np.sum(divisors, axis=0), dtype="float32")
    values = []
    for part, batch, terms, wanted in zip(outputs, batches, counted, expected):
        (share,) = shares(combined, [batch], world)
        loss = share.of(terms)
        loss.backward()
        values.append(float(loss))
        for leaf, gradient in zip(part["leaves"], wanted):
            np.testing.assert_allclose(leaf.grad.numpy() / 2, gradient, rtol=1e-4, atol=1e-8)
    assert sum(values) / 2 == pytest.approx(float(value), rel=1e-5)


def test_the_assigner_changes_at_half_of_a_short_run() -> None:
    outputs, batch = golden_outputs(legacy=False)[0], golden_batch()
    loss = make(16, assigner={"name": "TaskAligned"}, static_assigner={"name": "ATSS"}, **SECOND)
    values = {}
    for epoch in (None, 1, 8, 9, 16):
        if epoch is not None:
            CombinedLoss([loss]).begin_epoch(epoch)
        values[epoch] = float(loss(outputs, batch)["loss_vfl"].divisor)
    assert values[1] == values[8] == pytest.approx(11.635736, rel=1e-5)  # ATSS
    assert values[None] == values[9] == values[16] == pytest.approx(7.546795, rel=1e-5)
    assert make(300, assigner={"name": "TaskAligned"}).first_epochs == 0
    both = {"assigner": {"name": "TaskAligned"}, "static_assigner": {"name": "ATSS"}}
    assert make(300, **both).first_epochs == make(200, **both).first_epochs == 100
    assert make(300, static_assigner_epoch=20, **both).first_epochs == 20
