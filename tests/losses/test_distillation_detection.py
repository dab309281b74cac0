"""A detector against its teacher: by hand, at its least, and over the parts of a batch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.losses.distillation_detection import DistillationDetectionLoss


def said(seed: int, classes: int = 3) -> dict[str, paddle.Tensor]:
    """Scores (2, C, 5) and sides (2, 4, 8, 5) of a detector."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 0.95, (2, classes, 5)).astype(np.float32)
    sides = rng.standard_normal((2, 4, 8, 5)).astype(np.float32)
    return {"scores": paddle.to_tensor(scores), "sides": paddle.to_tensor(sides)}


def test_the_terms_by_hand() -> None:
    outputs = {"Student": said(0), "Teacher": said(1)}
    loss = DistillationDetectionLoss(score_weight=2.0, side_weight=0.5, temperature=3.0)
    terms = loss(outputs, {})
    s, t = (outputs[name]["scores"].numpy().astype(float) for name in ("Student", "Teacher"))
    entropy = -(t * np.log(s) + (1 - t) * np.log(1 - s))
    sure = t.max(axis=1)
    scores, sides = terms["scores_Student_Teacher"], terms["sides_Student_Teacher"]
    assert float(scores.total) == pytest.approx(2 * ((s - t) ** 2 * entropy).sum(), rel=1e-5)
    assert float(scores.divisor) == float(sides.divisor) == pytest.approx(sure.sum(), rel=1e-6)
    p, q = (np.exp(outputs[n]["sides"].numpy() / 3.0) for n in ("Teacher", "Student"))
    p, q = p / p.sum(axis=2, keepdims=True), q / q.sum(axis=2, keepdims=True)
    apart = (p * np.log(p / q)).sum(axis=2).mean(axis=1)  # (2, 5)
    assert float(sides.total) == pytest.approx(0.5 * 9 * (apart * sure).sum(), rel=1e-4)


def test_a_student_that_says_the_same_has_nothing_to_learn() -> None:
    same = said(1)
    same = {
        key: paddle.to_tensor(value.numpy(), stop_gradient=False) for key, value in same.items()
    }
    terms = DistillationDetectionLoss()({"Student": same, "Teacher": said(1)}, {})
    sum(term.total for term in terms.values()).backward()
    assert float(terms["sides_Student_Teacher"].total) == pytest.approx(0, abs=1e-5)
    for leaf in same.values():
        assert float(leaf.grad.abs().max()) < 1e-5


def test_networks_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match=r"Student gives scores of the shape \(2, 3, 5\), Teacher"):
        DistillationDetectionLoss()({"Student": said(0), "Teacher": said(1, classes=4)}, {})
    with pytest.raises(UserError, match="expected pairs"):
        DistillationDetectionLoss(model_name_pairs=[["Student"]])
