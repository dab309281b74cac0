"""How far a student's logits are from its teacher's: the functions distillation is built on.

Everything is computed in float32 and never from the logarithm of a probability, so that confident
teachers (logits of +-100) give finite values and gradients in any precision.
Read next: cross_entropy.py.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    logits = logits.astype(paddle.float32) / temperature
    return logits - logits.logsumexp(axis=-1, keepdim=True)  # F.log_softmax is slow on CPUs


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row: (N, C), (N, C) -> (N,)."""
    return (log_p.exp() * (log_p - log_q)).sum(axis=-1)


def dml_loss(student: Tensor, teacher: Tensor, sum_across_class_dim: bool = False) -> Tensor:
    """Mutual-learning loss: half of KL in each direction, batch mean, of logits (N, C).

    Zhang et al. 2017 (arXiv 1706.00384), in the symmetric form of SSLD (arXiv 2103.05959).
    `sum_across_class_dim` multiplies by C, which is what PaddleClas's switch amounts to. For
    probabilities below 1e-12 PaddleClas clips the logarithm; here it is exact.
    """
    log_s, log_t = _log_softmax(student), _log_softmax(teacher)
    value = (_divergence(log_s, log_t) + _divergence(log_t, log_s)).mean() / 2
    return value * student.shape[-1] if sum_across_class_dim else value


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
    other classes, times T^2. Zhao et al. 2022 (arXiv 2203.08679).
    """
    truth = F.one_hot(label.flatten(), student.shape[-1])  # (N, C)

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
    target_term = _divergence(binary_t, binary_s).mean()
    other_term = _divergence(others_t, others_s).mean()
    return (alpha * target_term + beta * other_term) * temperature**2
