from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_lite.engine import rng
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.errors import UserError
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.metrics.topk import TopkAcc


def evaluator(tiny, batch_size, metrics=None, loss=None, count=10):
    paddle.seed(3)
    task = Supervised(tiny.Net(), tiny.loss)
    loader = tiny.Loader(count, batch_size, shuffle=False)
    metrics = [tiny.Accuracy()] if metrics is None else metrics
    return Evaluator(task, loader, metrics, loss or tiny.loss)


def test_a_smaller_last_batch_counts_exactly(tiny):
    whole = evaluator(tiny, 10).run()
    parts = evaluator(tiny, 4).run()  # 4, 4, 2
    assert list(whole) == ["top1", "CELoss", "loss"]
    assert whole["top1"] == parts["top1"]
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-6)
    images = evaluator(tiny, 10)
    images.task.eval()
    batch = next(iter(images.loader.epoch(0)))
    assert whole["loss"] == float(images.task.losses(batch)[0]["loss"])


@pytest.mark.parametrize("training", [True, False])
def test_mode_generators_and_gradients_are_left_alone(tiny, training):
    scores = evaluator(tiny, 4)
    scores.task.train() if training else scores.task.eval()
    statistics = scores.task.model.norm._mean.numpy()
    before = rng.state()
    scores.loss = tiny.Loss(lambda outputs, batch: paddle.rand([]) + np.random.rand())
    scores.run()
    assert scores.task.model.training is training
    np.testing.assert_equal(rng.state(), before)
    np.testing.assert_array_equal(scores.task.model.norm._mean.numpy(), statistics)
    assert scores.task.model.fc.weight.grad is None


def test_mode_is_restored_after_an_error(tiny):
    scores = evaluator(tiny, 4)
    scores.task.train()
    scores.loader.labels = scores.loader.labels + 100  # out of range: the loss raises
    with pytest.raises((ValueError, RuntimeError, IndexError, OSError)):
        scores.run()
    assert scores.task.model.training


def test_stop_and_progress(tiny):
    scores, seen = evaluator(tiny, 4), []
    assert scores.run(stop=lambda: len(seen) == 2, on_batch=lambda: seen.append(1)) is None
    assert len(seen) == 2
    assert scores.run(on_batch=lambda: seen.append(1)) is not None
    assert len(seen) == 5


def test_main_value_and_its_direction(tiny):
    higher = evaluator(tiny, 4)
    assert higher.improves({"a": 0.5}, None) and higher.improves({"a": 0.6}, 0.5)
    assert higher.improves({"a": 0.5}, 0.5)  # the later of equal ones
    assert not higher.improves({"a": 0.4}, 0.5) and not higher.improves({"a": float("nan")}, None)

    by_loss = evaluator(tiny, 4, metrics=[])
    assert next(iter(by_loss.run())) == "loss"
    assert by_loss.improves({"loss": 0.4}, 0.5) and not by_loss.improves({"loss": 0.6}, 0.5)

    class Error(tiny.Accuracy):
        higher_is_better = False

    assert evaluator(tiny, 4, metrics=[Error(), tiny.Accuracy()]).improves({"a": 0.1}, 0.2)


def test_the_metrics_report_a_run_that_was_kept(tiny, tmp_path):
    scores = evaluator(tiny, 4, metrics=[tiny.Accuracy(), tiny.Trace()])
    before = scores.run()
    kept = scores.kept()
    assert list(kept) == ["Trace"]  # what reports nothing keeps nothing
    scores.task.model.fc.bias.set_value(paddle.to_tensor([9.0, 0.0, 0.0]))
    assert scores.run()["trace"] != before["trace"]
    (file,) = scores.report(tmp_path, ["a", "b", "c"], kept)
    assert file.read_text() == f"a b c {before['trace']}"
    assert scores.report(tmp_path, None, {}) == []


def test_metrics_start_from_zero_each_time(tiny):
    scores = evaluator(tiny, 4)
    assert scores.run() == scores.run()


def test_empty_set_and_nothing_to_compute(tiny):
    with pytest.raises(UserError, match="no images"):
        evaluator(tiny, 4, count=0).run()
    with pytest.raises(UserError, match=r"Metric\.Eval or Loss\.Eval"):
        Evaluator(Supervised(tiny.Net(), tiny.loss), tiny.Loader(), [], None)


def test_outputs_that_are_not_finite_are_counted_wrong_and_never_win(tiny, caplog):
    class Half(paddle.nn.Layer):  # NaN for images whose first pixel is positive
        def forward(self, x):
            first = x[:, 0, 0, :1]  # (N, 1)
            logits = paddle.concat([first * 0 + 1, first * 0, first * 0], axis=1)
            return paddle.where(first > 0, paddle.full_like(logits, float("nan")), logits)

    loader = tiny.Loader(10, 4, shuffle=False)
    loader.labels[:] = 0
    bad = int((loader.images[:, 0, 0, 0] > 0).sum())
    assert 0 < bad < 10
    scores = Evaluator(Supervised(Half(), None), loader, [TopkAcc(1), ConfusionMatrix()])
    found = scores.run()
    assert found["top1"] == (10 - bad) / 10 and found["not_finite"] == bad
    assert found["macro_recall"] == (10 - bad) / 10
    assert f"for {bad} of 10 images are NaN or infinite" in caplog.text
    assert not scores.improves(found, None)
    # of an averaged network only its own answers decide
    both = {"top1_ema": 0.5, "top1": 0.4}
    assert scores.improves(both | {"not_finite": 1.0}, 0.4)
    assert not scores.improves(both | {"not_finite_ema": 1.0}, 0.4)
