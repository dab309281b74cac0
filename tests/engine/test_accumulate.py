"""Parts of a batch teach and score as the whole one, whatever their losses are divided by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.engine.accumulate import shares
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.meters import Meters
from ppcls_lite.engine.tasks import Distilled, Supervised
from ppcls_lite.losses.base import CombinedLoss, Loss
from ppcls_lite.losses.cross_entropy import CELoss, MultiLabelLoss
from ppcls_lite.losses.distillation_terms import (
    DistillationDKDLoss,
    DistillationDMLLoss,
    DistillationGTCELoss,
)

IMAGES, CLASSES = 16, 4
WEIGHTS = [1.0, 5.0, 0.2, 3.0]
LABELS = np.array([0, 1, -1, 2, -1, -1, -1, -1, 3, 3, 3, 1, 0, -1, 2, 2])  # -1: without one
SOFT = np.random.default_rng(3).dirichlet(np.ones(CLASSES), IMAGES).astype(np.float32)
ATTRIBUTES = np.random.default_rng(4).integers(-1, 2, (IMAGES, CLASSES)).astype(np.float32)

ALONE = {
    "unlabelled": ([CELoss(epsilon=0.1)], LABELS),
    "weights": ([CELoss(class_weight=WEIGHTS)], np.maximum(LABELS, 0)),
    "weights, unlabelled": ([CELoss(epsilon=0.1, class_weight=WEIGHTS)], LABELS),
    "weights, soft": ([CELoss(class_weight=WEIGHTS)], SOFT),
    "attributes": ([MultiLabelLoss()], ATTRIBUTES),
    "two of a name": ([CELoss(), CELoss(2.0, class_weight=WEIGHTS)], LABELS),
}
DISTILLED = {
    "labels and teacher": [DistillationGTCELoss(0.5), DistillationDMLLoss(2.0)],
    "decoupled": [DistillationDKDLoss(), DistillationDKDLoss(use_target_as_gt=True)],
    "student and labels": [CELoss(class_weight=WEIGHTS), DistillationDMLLoss()],
}
CASES = [*ALONE, *DISTILLED]


def linear(seed: int) -> nn.Layer:
    paddle.seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))


def task_of(case: str, all_labelled: bool = False) -> tuple[Supervised, np.ndarray]:
    """The task of a case, and the labels of its images."""
    if case in ALONE:
        losses, labels = ALONE[case]
        return Supervised(linear(1), CombinedLoss(losses, all_labelled)), labels
    networks = {"Teacher": linear(2), "Student": linear(1)}
    return Distilled(networks, CombinedLoss(DISTILLED[case]), frozen=["Teacher"]), LABELS


class Batches:
    """All images in batches of one size, the last one smaller."""

    def __init__(self, labels: np.ndarray, size: int) -> None:
        images = np.random.default_rng(0).standard_normal((IMAGES, 3, 2, 2)).astype(np.float32)
        self.batches = [
            {
                "image": paddle.to_tensor(images[start : start + size]),
                "label": paddle.to_tensor(labels[start : start + size]),
            }
            for start in range(0, IMAGES, size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)


def gradient(task: Supervised, batches: Batches) -> tuple[np.ndarray, dict[str, float]]:
    """Of one update over all batches, with the means of the losses."""
    meters = Meters()
    for batch, share in zip(batches.batches, shares(task.loss, batches.batches, World())):
        terms, _ = task.losses(batch)
        share.of(terms).backward()
        meters.add(terms, len(batch["image"]), terms.denominators)
    found = task.model[1].weight.grad.numpy()
    task.model[1].weight.clear_gradient()
    return found, meters.means()


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("case", CASES)
def test_accumulated_batches_have_the_large_batch_s_gradient(case: str, size: int) -> None:
    task, labels = task_of(case)
    whole, means = gradient(task, Batches(labels, IMAGES))
    parts, of_parts = gradient(task, Batches(labels, size))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())
    assert of_parts == pytest.approx(means, rel=1e-6)
    terms, _ = task.losses(Batches(labels, IMAGES).batches[0])
    assert means == pytest.approx({name: float(term) for name, term in terms.items()}, rel=1e-6)
    terms["loss"].backward()
    np.testing.assert_array_equal(task.model[1].weight.grad.numpy(), whole)


@pytest.mark.parametrize("case", ["unlabelled", "weights, unlabelled", "two of a name"])
def test_an_evaluation_loss_does_not_depend_on_the_batches(case: str) -> None:
    task, labels = task_of(case)
    found = [
        Evaluator(task, Batches(labels, size), [], task.loss).run() for size in (IMAGES, 3, 5, 1)
    ]
    assert found[0]["loss"] > 0
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


def test_without_missing_labels_shares_are_those_of_the_images() -> None:
    labels = np.maximum(LABELS, 0)
    task, _ = task_of("unlabelled", all_labelled=True)
    batches = Batches(labels, 5)
    found = shares(task.loss, batches.batches, World())
    assert [(s.images, s.losses) for s in found] == [(5 / 16, ())] * 3 + [(1 / 16, ())]
    plain, means = gradient(task, batches)
    counting, _ = task_of("unlabelled")
    counted, of_counting = gradient(counting, batches)
    np.testing.assert_array_equal(counted, plain)  # bit by bit
    assert of_counting == means
    assert task_of("weights", all_labelled=True)[0].loss.denominators(batches.batches[0]) != [None]


def test_batches_of_which_nothing_counts_give_zero() -> None:
    task, _ = task_of("weights, unlabelled")
    found, means = gradient(task, Batches(np.full(IMAGES, -1), 4))
    assert not found.any() and set(means.values()) == {0.0}


def test_only_losses_with_an_own_denominator_cost_a_message() -> None:
    class Two(World):
        """Two ranks, of which the other has twice of everything."""

        messages = 0

        def __init__(self) -> None:
            super().__init__(0, 2)

        def total(self, values: Tensor) -> Tensor:
            self.messages += 1
            return values * 3

    world, batches = Two(), Batches(LABELS, 8).batches
    task, _ = task_of("attributes")
    assert [share.losses for share in shares(task.loss, batches, world)] == [(), ()]
    assert world.messages == 0
    task, _ = task_of("student and labels")
    found = shares(task.loss, batches, world)
    assert world.messages == 1
    known = [sum(WEIGHTS[i] for i in part if i >= 0) for part in (LABELS[:8], LABELS[8:])]
    own = [float(share.losses[0]) for share in found]
    assert own == pytest.approx([2 * part / (3 * sum(known)) for part in known])
    assert [share.losses[1] for share in found] == [None, None]


def test_means_of_an_epoch_go_on_from_a_checkpoint_with_and_without_denominators() -> None:
    task, labels = task_of("weights, unlabelled")
    first, second = (Batches(labels, 8).batches[i] for i in (0, 1))
    whole, resumed = Meters(), Meters()
    for batch in (first, second):
        terms, _ = task.losses(batch)
        whole.add(terms, 8, terms.denominators)
        if batch is first:
            resumed.load_state(whole.state())
    resumed.add(terms, 8, terms.denominators)
    assert resumed.means() == whole.means()
    older = Meters()
    older.load_state({"samples": 8, "sums": {"CELoss": 8.0, "loss": 8.0}})
    older.add(terms, 8, terms.denominators)
    count = float(terms.denominators["CELoss"])
    expected = (8 + float(terms["CELoss"]) * count) / (8 + count)
    assert older.means() == pytest.approx({"CELoss": expected, "loss": expected})


def test_a_loss_is_a_mean_over_the_images_unless_it_says_otherwise() -> None:
    batch = Batches(LABELS, 5).batches[0]
    assert Loss.divides_by == "images" and float(Loss().denominator(batch)) == 5
    assert float(CELoss().denominator(batch)) == 3
    assert float(CELoss(class_weight=WEIGHTS).denominator(batch)) == pytest.approx(6.2)
