"""Scores of one network of several, and of batches in which some images have no label."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.tasks import Supervised
from ppcls_lite.errors import UserError
from ppcls_lite.metrics.confusion import ConfusionMatrix
from ppcls_lite.metrics.topk import DistillationTopkAcc, TopkAcc

RIGHT = paddle.eye(4)
WRONG = paddle.eye(4).roll(1, 1)
LABEL = paddle.arange(4)


def score(metric, outputs, label=LABEL) -> dict[str, float]:
    metric.update(outputs, {"label": label})
    return metric.result()


def test_scores_the_named_network():
    outputs = {"Teacher": RIGHT, "Student": WRONG}
    assert score(DistillationTopkAcc("Student", topk=1), outputs) == {"top1": 0.0}
    assert score(DistillationTopkAcc("Teacher", topk=1), outputs) == {"top1": 1.0}
    assert score(DistillationTopkAcc(None, topk=1), outputs) == {"top1": 0.0}


def test_scores_the_named_output_of_it_and_bare_logits():
    outputs = {"Student": {"logits": WRONG, "aux": RIGHT}}
    assert score(DistillationTopkAcc("Student", topk=1), outputs) == {"top1": 0.0}
    assert score(DistillationTopkAcc("Student", "aux", 1), outputs) == {"top1": 1.0}
    assert score(DistillationTopkAcc("Student", topk=1), RIGHT) == {"top1": 1.0}


def test_the_students_logits_beside_the_networks_hide_none_of_them():
    outputs = {"Teacher": RIGHT, "Student": WRONG, "logits": WRONG}  # as Distilled gives them
    assert score(DistillationTopkAcc("Teacher", topk=1), outputs) == {"top1": 1.0}


def test_names_what_there_is():
    with pytest.raises(UserError, match="'Pupil', but there are 'Student'"):
        score(DistillationTopkAcc("Pupil"), {"Student": RIGHT})


def test_only_labelled_images_count():
    logits = paddle.concat([RIGHT, WRONG])
    label = paddle.concat([LABEL, LABEL])
    label[0], label[5], label[6] = -1, -1, -1
    known = label.numpy() >= 0
    for metric in (TopkAcc(topk=[1, 2]), ConfusionMatrix()):
        expected = score(metric, logits[paddle.to_tensor(known)], label[paddle.to_tensor(known)])
        metric.reset()
        assert score(metric, logits, label) == expected
    assert expected["macro_recall"] < 1
    assert score(TopkAcc(topk=1), logits, label)["top1"] == pytest.approx(3 / 5)


def test_without_any_label_there_is_no_score():
    assert score(ConfusionMatrix(), RIGHT, paddle.full([4], -1, "int64")) == {}
    metric = TopkAcc(topk=1)
    assert score(metric, RIGHT, paddle.full([4], -1, "int64")) == {}
    assert score(metric, RIGHT) == {"top1": 1.0}, "the unlabelled batch must not count"
    assert np.asarray(metric.state()["images"]) == 4


def test_an_evaluation_without_any_label_is_refused():
    evaluator = Evaluator(Supervised(paddle.nn.Identity(), None), Loader(), [TopkAcc(topk=1)])
    with pytest.raises(UserError, match=r"has a label \(all are -1\)"):
        evaluator.run()


class Loader:
    """One batch of images without labels."""

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int):
        yield {"image": RIGHT, "label": paddle.full([4], -1, "int64")}
