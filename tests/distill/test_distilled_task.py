"""The task of a distillation: what stays fixed, what learns, and what the losses see."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.tasks import Distilled, Supervised
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.losses.distillation_terms import (
    DistillationDistanceLoss,
    DistillationDMLLoss,
    DistillationGTCELoss,
)
from ppcls_lite.metrics.base import OfNetwork
from ppcls_lite.metrics.topk import DistillationTopkAcc, TopkAcc
from ppcls_lite.models.create import create_model

CLASSES = 3


def network(seed: int, name: str = "PPLCNet_x0_25", **args: object) -> nn.Layer:
    paddle.seed(seed)
    return create_model(name, class_num=CLASSES, dropout_prob=0.5, **args)


def batch_of(seed: int = 0, size: int = 6) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((size, 3, 32, 32)).astype(np.float32)
    return {"image": paddle.to_tensor(images), "label": paddle.to_tensor(np.arange(size) % CLASSES)}


def same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def step(task: Supervised, optimizer: paddle.optimizer.Optimizer, seed: int) -> None:
    losses, _ = task.losses(batch_of(seed))
    losses["loss"].backward()
    optimizer.step()
    optimizer.clear_grad()


def optimizer_of(task: Supervised) -> paddle.optimizer.Optimizer:
    learnt = [p for p in task.trained.parameters() if not p.stop_gradient]
    return paddle.optimizer.Momentum(0.05, parameters=learnt)


def test_a_frozen_teacher_never_changes_whatever_is_called():
    teacher = network(1)
    task = Distilled(
        {"Teacher": teacher, "Student": network(2)},
        CombinedLoss([DistillationDMLLoss()]),
        frozen=["Teacher"],
    )
    before = checkpoint.arrays(teacher)
    optimizer = optimizer_of(task)
    student = checkpoint.arrays(task.model)
    for seed in range(3):
        task.train()
        teacher.train()  # somebody switches it, as a whole and in a part
        teacher.blocks3.train()
        step(task, optimizer, seed)
    assert same(checkpoint.arrays(teacher), before)
    assert not same(checkpoint.arrays(task.model), student)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert task.companions == {} and task.trained is task.model


def test_the_teacher_answers_as_in_an_evaluation_while_the_student_trains():
    teacher = network(1)
    task = Distilled({"Teacher": teacher, "Student": network(2)}, None, frozen=["Teacher"])
    task.train()
    batch = batch_of()
    first, second = (task.teacher_outputs(batch)["Teacher"] for _ in range(2))
    assert np.array_equal(first.numpy(), second.numpy())  # no dropout
    alone = teacher(batch["image"][:1])  # no statistics of a batch
    np.testing.assert_allclose(first[:1].numpy(), alone.numpy(), rtol=1e-4, atol=1e-5)
    assert first.stop_gradient and task.model.training


def test_outputs_carry_all_networks_and_the_students_logits():
    features = {"return_patterns": ["blocks4"]}
    networks = {"Teacher": network(1, **features), "Student": network(2, **features)}
    seen: dict = {}

    def loss(outputs, batch):
        seen.update(outputs)
        return {"loss": outputs["Student"]["logits"].sum()}

    task = Distilled(networks, loss, frozen=["Teacher"])
    task.losses(batch_of())
    assert list(seen) == ["Teacher", "Student", "logits", "blocks4"]
    assert list(seen["Teacher"]) == ["logits", "blocks4"]
    assert seen["logits"] is seen["Student"]["logits"]
    assert not seen["Student"]["blocks4"].stop_gradient and seen["Teacher"]["blocks4"].stop_gradient


def test_plain_and_distilling_losses_and_metrics_agree_about_the_student():
    task = Distilled({"Teacher": network(1), "Student": network(2)}, None, frozen=["Teacher"])
    task.eval()
    batch = batch_of()
    outputs = task.predict(batch["image"])
    assert set(outputs) == {"Student", "logits"}  # an evaluation runs no teacher
    plain = CELoss()(outputs, batch)["CELoss"]
    named = DistillationGTCELoss()(outputs, batch)["CELoss_Student"]
    assert float(plain) == float(named) > 0
    both = {**task.teacher_outputs(batch), **outputs}
    scores = {}
    for metric in (TopkAcc(1), DistillationTopkAcc(topk=1), DistillationTopkAcc("Teacher", topk=1)):
        metric.update(both, batch)
        scores[getattr(metric, "model_key", "plain")] = metric.result()["top1"]
    assert scores["plain"] == scores["Student"]
    other = OfNetwork(TopkAcc(1), "Teacher")
    other.update(both, batch)
    assert other.result() == {"Teacher_top1": scores["Teacher"]}
    truth = (both["Teacher"].argmax(1) == batch["label"]).astype("float32").mean()
    assert scores["Teacher"] == pytest.approx(float(truth))


def test_a_teacher_is_a_reference_where_it_knows_the_same_classes():
    teacher = network(1)
    task = Distilled({"Teacher": teacher, "Student": network(2)}, None, frozen=["Teacher"])
    (reference,) = task.references.values()
    batch = batch_of()
    assert not reference.model.training
    answer = reference.predict(batch["image"])["Student"].numpy()
    assert np.array_equal(answer, task.teacher_outputs(batch)["Teacher"].numpy())
    paddle.seed(1)
    other = create_model("PPLCNet_x0_25", class_num=CLASSES + 1)
    assert Distilled({"T": other, "Student": network(2)}, None, frozen=["T"]).references == {}
    assert Distilled({"T": teacher, "Student": network(2)}, None).references == {}


def test_mutual_learning_trains_both_and_ships_one():
    loss = CombinedLoss([DistillationGTCELoss(1.0, ["Student", "Teacher"]), DistillationDMLLoss()])
    task = Distilled({"Teacher": network(1), "Student": network(2)}, loss)
    before = {name: checkpoint.arrays(n) for name, n in task.learners.items()}
    assert list(task.companions) == ["Teacher"] and task.references == {}
    optimizer = optimizer_of(task)
    task.train()
    step(task, optimizer, 0)
    for name, learner in task.learners.items():
        assert not same(checkpoint.arrays(learner), before[name]), name
    task.eval()
    assert not any(learner.training for learner in task.learners.values())
    assert task.model is task.learners["Student"]


def test_a_learned_adapter_is_trained_and_does_not_ship():
    stages = {"return_patterns": ["blocks4"]}
    networks = {
        "Teacher": network(1, "PPLCNet_x0_5", **stages),
        "Student": network(2, "PPLCNet_x0_25", **stages),
    }
    channels = [networks[name].channels[1] for name in ("Student", "Teacher")]
    distance = DistillationDistanceLoss(key="blocks4", channels=channels)
    task = Distilled(networks, CombinedLoss([distance]), frozen=["Teacher"])
    assert list(task.companions) == ["loss"]
    before = distance.adapter.weight.numpy()
    step(task, optimizer_of(task), 0)
    assert not np.array_equal(distance.adapter.weight.numpy(), before)
    shipped = set(task.model.state_dict())
    assert set(task.trained.state_dict()) - {f"model.{name}" for name in shipped} == {
        "loss.losses.0.adapter.weight",
        "loss.losses.0.adapter.bias",
    }


def test_the_outputs_of_teachers_can_come_from_elsewhere():
    task = Distilled(
        {"Teacher": network(1), "Student": network(2)},
        CombinedLoss([DistillationDMLLoss()]),
        frozen=["Teacher"],
    )
    task.eval()
    batch = batch_of()
    task.teacher_outputs = lambda batch: {"Teacher": task.model(batch["image"]).detach()}
    assert float(task.losses(batch)[0]["loss"]) == pytest.approx(0, abs=1e-6)
