"""Evaluation by the exported graph gives the network's score and leaves a training as it was."""

from __future__ import annotations

import logging
import math

import numpy as np
import paddle
import pytest

from ppcls_lite.config.check import check
from ppcls_lite.engine.ema import ExponentialAverage
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.tasks import Distilled, Supervised
from ppcls_lite.errors import UserError
from ppcls_lite.inference import graph_forward as evaluation
from ppcls_lite.inference.graph_forward import GraphForward
from ppcls_lite.kernels import build, native
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.losses.targets import logits_of
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.metrics.topk import TopkAcc
from ppcls_lite.models.create import create_model
from ppcls_lite.recipe.parts import build_forward


@pytest.fixture(autouse=True)
def same_weights_in_any_order():
    """How far the graph's rounding goes depends on the weights."""
    paddle.seed(1)


class Images:
    """Batches of images in memory; the last one is smaller."""

    def __init__(self, count=22, batch=8, size=32, classes=10):
        rng = np.random.default_rng(0)
        self.images = rng.standard_normal((count, 3, size, size)).astype(np.float32)
        self.labels, self.batch = rng.integers(0, classes, count), batch

    def __len__(self):
        return math.ceil(len(self.images) / self.batch)

    def epoch(self, epoch, start_step=0):
        for step in range(start_step, len(self)):
            part = slice(step * self.batch, (step + 1) * self.batch)
            yield {
                "image": paddle.to_tensor(self.images[part]),
                "label": paddle.to_tensor(self.labels[part]),
            }


class Seen(TopkAcc):
    """Keeps the outputs as well."""

    def __init__(self):
        super().__init__([1, 5])
        self.outputs = []

    def update(self, outputs, batch):
        super().update(outputs, batch)
        self.outputs.append(logits_of(outputs).numpy())


def spread(model):
    """Give a fresh network the statistics of the images, and a classifier that tells them apart."""
    paddle.seed(1)
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._momentum = 0.0
    with paddle.no_grad():
        model(paddle.to_tensor(Images().images))
    for tensor in model.state_dict().values():
        if tensor.ndim == 2:
            tensor.set_value(paddle.randn(tensor.shape))
    return model


def scored(model, forward=None, images=None):
    """All scores of a network, and its outputs (N, classes)."""
    metrics, loss = [Seen(), ConfusionMatrix()], CombinedLoss([CELoss()])
    task = model if isinstance(model, Supervised) else Supervised(model, loss)
    options = {} if forward is None else {"forward": forward}
    evaluator = Evaluator(task, images or Images(), metrics, loss, **options)
    scores = evaluator.run()
    return scores, np.concatenate(metrics[0].outputs), metrics[1].matrix


def require_same(found, expected):
    """Equal to the last image; losses to 1e-4."""
    assert list(found[0]) == list(expected[0])
    for name, value in expected[0].items():
        exact = not name.endswith("loss") and name != "CELoss"
        assert found[0][name] == (value if exact else pytest.approx(value, rel=1e-4)), name
    np.testing.assert_array_equal(found[1].argmax(1), expected[1].argmax(1))
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4 * np.abs(expected[1]).max())


@pytest.mark.parametrize(
    "name",
    ["PPLCNet_x0_25", "PPLCNetV2_small", "MobileNetV3_small_x0_35", "ShuffleNetV2_x0_25"],
)
def test_the_score_is_the_network_s(name):
    model, forward = spread(create_model(name, class_num=10)), GraphForward("inference", threads=1)
    expected = scored(model)
    assert np.ptp(expected[1].argmax(1)) > 0  # images differ
    require_same(scored(model, forward), expected)
    assert forward.used == 1 and forward.failed is None


def test_the_student_of_a_distillation_is_run_by_its_graph():
    networks = {
        n: spread(create_model("PPLCNet_x0_25", class_num=10)) for n in ("Teacher", "Pupil")
    }
    task = Distilled(networks, None, student="Pupil", frozen=["Teacher"])
    forward = GraphForward("inference", threads=1)
    require_same(scored(task, forward), scored(task))
    require_same(scored(task, forward), scored(task.model))
    assert forward.used == 2 and forward.failed is None


def test_a_network_that_trains_with_native_kernels():
    model = create_model("PPLCNet_x0_25", class_num=10, dropout_prob=0.0)
    try:
        native.convert(model, native.available())
    except build.KernelsError as reason:
        pytest.skip(f"no native kernels here: {reason}")
    model, forward = spread(model), GraphForward("inference", threads=1)
    require_same(scored(model, forward), scored(model))
    assert forward.used == 1
    model.train()
    before = model(paddle.to_tensor(Images().images)).numpy()
    scored(model, forward)
    np.testing.assert_array_equal(model(paddle.to_tensor(Images().images)).numpy(), before)


def test_later_evaluations_take_the_weights_of_then_and_export_nothing(monkeypatch):
    exports, export = [], evaluation._export
    monkeypatch.setattr(evaluation, "_export", lambda *a: exports.append(1) or export(*a))
    model, forward = spread(create_model("PPLCNet_x0_25", class_num=10)), GraphForward("inference")
    first = scored(model, forward)
    again = scored(model, forward)
    np.testing.assert_array_equal(again[1], first[1])  # bit by bit
    for tensor in model.state_dict().values():
        tensor.set_value(tensor * 1.05)
    found = scored(model, forward)
    require_same(found, scored(model))
    assert np.abs(found[1] - first[1]).max() > 1e-3
    assert (len(exports), forward.used) == (1, 3)
    scored(model, forward, Images(size=48))  # another size is another program
    assert len(exports) == 2 and forward.failed is None


def test_the_averaged_weights_are_evaluated():
    model, forward = spread(create_model("PPLCNet_x0_25", class_num=10)), GraphForward("inference")
    ema = ExponentialAverage(model, 0.5)
    own = scored(model, forward)
    for tensor in model.state_dict().values():
        tensor.set_value(tensor * 1.5)
    with ema.applied():
        averaged = scored(model, forward)
    np.testing.assert_array_equal(averaged[1], own[1])
    assert np.abs(scored(model, forward)[1] - own[1]).max() > 1e-3


def train(forward):
    """A short training that is evaluated in between; its weights, and the process's threads."""
    paddle.seed(3)
    model = create_model("PPLCNet_x0_25", class_num=10, dropout_prob=0.2)
    optimizer = paddle.optimizer.Momentum(0.05, 0.9, model.parameters())
    for _ in range(2):
        for batch in Images().epoch(0):
            model.train()
            paddle.nn.functional.cross_entropy(model(batch["image"]), batch["label"]).backward()
            optimizer.step()
            optimizer.clear_grad()
        scored(model, forward)
    layer = paddle.nn.Linear(2, 2)
    return {n: t.numpy() for n, t in model.state_dict().items()}, layer.weight.name.split("_")[0]


def flags():
    values = paddle.base.core.globals()
    return {name: values[name] for name in values.keys()}  # noqa: SIM118


def test_training_does_not_notice():
    before = flags()
    plain, _ = train(None)
    forward = GraphForward("inference", threads=2)
    found, _ = train(forward)
    assert forward.used == 2
    for name, value in plain.items():
        np.testing.assert_array_equal(found[name], value, name)
    assert flags() == before
    assert paddle.in_dynamic_mode()


def test_the_number_of_threads_is_put_back():
    paddle.base.core.set_num_threads(2)
    try:
        with evaluation.own_threads():
            paddle.base.core.set_num_threads(1)
            with evaluation.own_threads():
                pass
            assert threads() == 1
        assert threads() == 2
        model = spread(create_model("PPLCNet_x0_25", class_num=10))
        scored(model, GraphForward("inference", threads=1))
        assert threads() == 2
    finally:
        paddle.base.core.set_num_threads(1)


def threads():
    import ctypes
    from pathlib import Path

    library = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    if not library.exists():
        pytest.skip("this Paddle has another OpenMP library")
    return ctypes.CDLL(str(library)).omp_get_max_threads()


def test_a_detector_gives_what_it_ships():
    model = create_model("picodet_PPLCNet_x0_25", class_num=2, neck={"out_channels": 16})
    model.eval()
    images = paddle.rand([2, 3, 64, 64])
    forward = GraphForward("inference", threads=1)
    with paddle.no_grad(), forward(model, images, 1) as run:
        found, expected = run(images), model(images)
    assert forward.used == 1
    assert [*found] == ["boxes", "scores"]
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name].numpy(), atol=1e-3)


def test_small_evaluations_stay_with_the_network():
    model, forward = spread(create_model("PPLCNet_x0_25", class_num=10)), GraphForward()
    scored(model, forward)
    assert (forward.used, forward.failed) == (0, None)
    image = paddle.zeros([8, 3, 32, 32])
    for batches, used in ((evaluation.WORTH // (8 * 32 * 32), 0), (evaluation.WORTH, 1)):
        with forward(model.eval() or model, image, batches) as run:
            assert run(image).shape == [8, 10]
        assert forward.used == used


class Pair(paddle.nn.Layer):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return {"logits": self.model(x)}


class Unstable(paddle.nn.Layer):
    """Its graph remembers what a Python variable was when it was made."""

    calls = 0

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        Unstable.calls += 10
        return self.model(x) + float(Unstable.calls)


def test_what_has_no_equal_graph_is_run_by_the_network(caplog):
    caplog.set_level(logging.INFO, logger="ppcls_lite")
    net = spread(create_model("PPLCNet_x0_25", class_num=10))
    damaged = create_model("PPLCNet_x0_25", class_num=10)
    damaged.fc.weight.set_value(paddle.full(damaged.fc.weight.shape, float("nan")))
    image = paddle.rand([4, 3, 32, 32])
    for model, reason in (
        (Pair(net), "not one tensor"),
        (Unstable(net), "differ from the network"),
        (damaged, "fc.weight has values that are not finite"),
    ):
        model.eval()
        caplog.clear()
        forward = GraphForward("inference", threads=1)
        for _ in range(2):
            with forward(model, image, 1) as run:
                assert run is model
        assert forward.used == 0 and reason in forward.failed
        (message,) = [r.message for r in caplog.records if r.name == "ppcls_lite"]  # once
        assert reason in message


def test_a_failure_in_the_middle_goes_on_with_the_network(monkeypatch):
    model, forward = spread(create_model("PPLCNet_x0_25", class_num=10)), GraphForward("inference")
    runs, run = [], evaluation.PaddleEngine.run

    def failing(engine, inputs):
        runs.append(1)
        if len(runs) > 2:  # the check and the first batch
            raise UserError("out of memory")
        return run(engine, inputs)

    monkeypatch.setattr(evaluation.PaddleEngine, "run", failing)
    require_same(scored(model, forward), scored(model))
    assert len(runs) == 3 and forward.failed == "out of memory"


def test_the_key_chooses():
    def forward(**changes):
        return build_forward(check({"Arch": {"name": "PPLCNet_x0_25", "class_num": 2}, **changes}))

    assert forward().mode == "auto"
    assert forward(Global={"eval_engine": "inference"}).mode == "inference"
    for tree in ({"Global": {"eval_engine": "dygraph"}}, {"AMP": {"level": "O1"}}):
        with forward(**tree)("own", None, 1) as run:
            assert run == "own"
