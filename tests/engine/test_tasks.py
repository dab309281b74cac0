from __future__ import annotations

import paddle

from ppcls_lite.engine.tasks import Supervised


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
