from __future__ import annotations

import paddle
import pytest

from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.models.create import create_model


def test_supervised_gives_terms_and_outputs():
    model = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(12, 2), paddle.nn.Dropout())

    def loss(outputs, batch):
        term = ((outputs - batch["label"]) ** 2).mean()
        return {"L2": term, "loss": term * 2}

    task = Supervised(model, loss)
    assert task.model is model
    batch = {"image": paddle.rand([3, 3, 2, 2]), "label": paddle.zeros([3, 2])}
    task.eval()
    terms, outputs = task.losses(batch)
    assert list(terms) == ["L2", "loss"] and outputs.shape == [3, 2]
    assert float(terms["loss"]) == 2 * float(terms["L2"])
    assert (task.predict(batch["image"]) == outputs).all()
    task.train()
    assert model.training
    terms["loss"].backward()
    assert model[1].weight.grad is not None


@pytest.mark.parametrize("still", [True, False])
def test_a_part_that_learns_at_rate_0_keeps_its_statistics(still):
    model = create_model("PPLCNet_x0_25", class_num=2, lr_mult_list=[0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    task = Supervised(model, CombinedLoss([CELoss()]))
    task.still_statistics = still
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    task.train()
    assert model.training
    batch = {"image": paddle.rand([4, 3, 32, 32]), "label": paddle.to_tensor([0, 1, 0, 1])}
    task.losses(batch)[0]["loss"].backward()
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    optimizer.step()
    changed = {n for n, value in model.state_dict().items() if (value.numpy() != before[n]).any()}
    parts = {name.split(".")[0] for name in changed if name.endswith("_mean")}
    assert {"blocks3", "blocks6"} <= parts and ("conv1" in parts) == (not still)
    assert ("blocks2" in parts) == (not still)
    task.eval()
    assert not any(layer.training for layer in model.sublayers())
