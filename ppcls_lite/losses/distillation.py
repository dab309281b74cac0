"""How far a student's logits are from its teacher's: the functions distillation is built on.

All in float32 and never from the logarithm of a probability, so that confident teachers (logits of
+-100) give finite values and gradients. Read next: distillation_terms.py.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.losses.targets import known_ids


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    logits = logits.astype(paddle.float32) / temperature
    return logits - logits.logsumexp(axis=-1, keepdim=True)  # F.log_softmax is slow on CPUs


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row: (N, C), (N, C) -> (N,)."""
    return (log_p.exp() * (log_p - log_q)).sum(axis=-1)


def dml_loss(
    student: Tensor,
    teacher: Tensor,
    sum_across_class_dim: bool = False,
    act: Literal["softmax", "sigmoid"] | None = "softmax",
    factor: Tensor | None = None,
) -> Tensor:
    """Mutual-learning loss: half of KL in each direction, batch mean, of logits (N, C).

    Zhang et al. 2017 (arXiv 1706.00384), in the symmetric form of SSLD (arXiv 2103.05959).
    `sum_across_class_dim` multiplies by C, as PaddleClas's switch does. act: what turns outputs
    into probabilities; None if they are such already. With sigmoid each class counts by (p - q)
    (log p - log q) / 2, as in PaddleClas. factor (N, C) weighs each class of each image.
    """
    log_s, log_t = _log_probability(student, act), _log_probability(teacher, act)
    cost = (log_s.exp() - log_t.exp()) * (log_s - log_t) / 2  # (N, C)
    if factor is not None:
        cost = cost * factor
    value = cost.sum(axis=-1).mean()
    return value * student.shape[-1] if sum_across_class_dim else value


def _log_probability(output: Tensor, act: str | None) -> Tensor:
    if act == "softmax":
        return _log_softmax(output)
    output = output.astype(paddle.float32)
    return F.log_sigmoid(output) if act == "sigmoid" else output.clip(min=1e-12).log()


def soft_ce_loss(student: Tensor, teacher: Tensor, epsilon: float = 0.0) -> Tensor:
    """Cross entropy with the teacher's probabilities as soft labels, batch mean, of logits (N, C).

    epsilon smooths them: (1 - epsilon) t + epsilon / C.
    """
    target = _log_softmax(teacher).exp()
    if epsilon:
        target = (1 - epsilon) * target + epsilon / student.shape[-1]
    return -(target * _log_softmax(student)).sum(axis=-1).mean()


def kl_div_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, batch mean, of logits (N, C).

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531).
    """
    log_s, log_t = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    return _divergence(log_t, log_s).mean() * temperature**2


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    """Decoupled distillation of logits (N, C) with class ids `label` (N,) or (N, 1).

    alpha times the divergence of "true class or not", plus beta times the divergence among the
    other classes, times T^2. Zhao et al. 2022 (arXiv 2203.08679). Images with a negative label
    do not count; the value is 0 where no other is left.
    """
    ids, known = known_ids(label)
    truth = F.one_hot(ids, student.shape[-1])  # (N, C)

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        """log (p_true, 1 - p_true) (N, 2), and log p among the other classes (N, C)."""
        logits = logits.astype(paddle.float32) / temperature
        # A finite "minus infinity": inf - inf would be NaN for the true class, whose p is 0.
        masked = logits - 1e4 * truth
        whole = logits.logsumexp(axis=-1, keepdim=True)
        true = (logits * truth).sum(axis=-1, keepdim=True)
        others = masked.logsumexp(axis=-1, keepdim=True)
        binary = paddle.concat([true, others], axis=-1) - whole  # (N, 2)
        return binary, masked - others

    (binary_s, others_s), (binary_t, others_t) = parts(student), parts(teacher)
    target_term = _divergence(binary_t, binary_s)  # (N,)
    other_term = _divergence(others_t, others_s)  # (N,)
    cost = (alpha * target_term + beta * other_term) * known  # (N,)
    return cost.sum() / known.sum().clip(min=1.0) * temperature**2
