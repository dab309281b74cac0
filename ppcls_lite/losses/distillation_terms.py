"""The distillation losses of a recipe, each over named networks: `outputs[name]` by `Arch.models`.

`DistillationXLoss` compares pairs (student, teacher), or each of several networks with the labels.
A term is called after both: `DMLLoss_Student_Teacher`, `CELoss_Student`. Labels of -1 mark images
without one: CELoss and DKDLoss leave them out, the others need no labels. No gradient is stopped
here: a frozen teacher has none, and in mutual learning both networks learn.
Read before: distillation.py (the formulas). Read next: feature_distance.py.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from paddle import Tensor

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Ignored, NonNegativeFloat, PositiveFloat, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses import distillation
from ppcls_lite.losses.base import Batch, Loss
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.losses.multilabel import MultiLabelLoss
from ppcls_lite.losses.targets import count_labels, frequency_factor, is_soft, output_of


class PairLoss(Loss):
    """Compares an output of pairs of networks; a subclass says how, and the term's name."""

    term: str

    def __init__(self, weight: float, pairs: list[list[str]], key: str | None) -> None:
        super().__init__()
        self.pairs = [tuple(pair) for pair in pairs]
        if not self.pairs or any(len(pair) != 2 for pair in self.pairs):
            raise UserError(
                "model_name_pairs: expected pairs of two networks' names, for example "
                f'[["Student", "Teacher"]], found {[list(pair) for pair in pairs]}'
            )
        if len(set(self.pairs)) < len(self.pairs):
            raise UserError(f"model_name_pairs: a pair stands twice in {pairs}; raise its weight")
        self.weight = weight
        self.key = key

    def forward(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """A weighted scalar for each pair, `{"<term>_<student>_<teacher>": ...}`."""
        terms = {}
        for student, teacher in self.pairs:
            found = [output_of(outputs, name, self.key) for name in (student, teacher)]
            self.check(*found, student, teacher)
            value = self.compare(*found, batch)
            terms[f"{self.term}_{student}_{teacher}"] = self.weight * value
        return terms

    def check(self, student: Tensor, teacher: Tensor, *names: str) -> None:
        """Raises UserError for outputs that cannot be compared."""
        if student.shape != teacher.shape:
            raise UserError(
                f"{type(self).__name__}: {names[0]} outputs {tuple(student.shape)}, {names[1]} "
                f"{tuple(teacher.shape)}: both need the same class_num (and the same features)"
            )

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The unweighted scalar of two outputs."""


class LabelLoss(Loss):
    """Compares each of several networks with the labels by an ordinary loss."""

    def __init__(self, loss: Loss, names: list[str], key: str | None) -> None:
        super().__init__()
        if not names or len(set(names)) < len(names):
            raise UserError(
                "model_names: expected the names of networks, each once, for example "
                f'["Student"], found {list(names)}'
            )
        self.loss, self.divides_by = loss, loss.divides_by
        self.names = list(names)
        self.key = key

    def forward(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """A weighted scalar for each network, `{"<loss>_<network>": ...}`."""
        terms = {}
        for name in self.names:
            for term, value in self.loss(output_of(outputs, name, self.key), batch).items():
                terms[f"{term}_{name}"] = value
        return terms

    def denominator(self, batch: Batch) -> Tensor:
        return self.loss.denominator(batch)


@register("loss")
class DistillationDMLLoss(PairLoss):
    """SSLD's loss: symmetric Kullback-Leibler divergence of two networks' probabilities.

    Args:
        weight: factor of this term in the sum of all terms.
        model_name_pairs: names in Arch.models.
        act: what makes probabilities of the outputs; None if they are such already.
        weight_ratio: for several attributes per image, weigh each as `MultiLabelLoss` does.
        sum_across_class_dim: multiply by the number of classes, as PaddleClas does.
        key: which output of a network with several; None for its logits.
    """

    term = "DMLLoss"

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        model_name_pairs: list[list[str]] = (("Student", "Teacher"),),
        act: Literal["softmax", "sigmoid"] | None = "softmax",
        weight_ratio: bool = False,
        sum_across_class_dim: bool = False,
        key: str | None = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(weight, model_name_pairs, key)
        self.act = act
        self.weight_ratio = weight_ratio
        self.sum_across_class_dim = sum_across_class_dim

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        factor = frequency_factor(batch["label"]) if self.weight_ratio else None
        return distillation.dml_loss(student, teacher, self.sum_across_class_dim, self.act, factor)


@register("loss")
class DistillationCELoss(PairLoss):
    """Cross entropy with the teacher's probabilities as soft labels.

    Args: as DistillationDMLLoss; epsilon smooths the soft labels, below 1.
    """

    term = "CELoss"

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        model_name_pairs: list[list[str]] = (("Student", "Teacher"),),
        epsilon: Probability | None = None,
        key: str | None = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(weight, model_name_pairs, key)
        if epsilon is not None and epsilon >= 1:
            raise UserError(f"epsilon: expected less than 1, found {epsilon}")
        self.epsilon = epsilon or 0.0

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return distillation.soft_ce_loss(student, teacher, self.epsilon)


@register("loss")
class DistillationKLDivLoss(PairLoss):
    """Hinton's loss: T^2 KL(teacher || student) at temperature T.

    Args: as DistillationDMLLoss; temperature flattens both networks' probabilities.
    """

    term = "KLDivLoss"

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        model_name_pairs: list[list[str]] = (("Student", "Teacher"),),
        temperature: PositiveFloat = 4.0,
        key: str | None = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(weight, model_name_pairs, key)
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return distillation.kl_div_loss(student, teacher, self.temperature)


@register("loss")
class DistillationDKDLoss(PairLoss):
    """Decoupled distillation: true class or not, and the other classes, weighed separately.

    Args: as DistillationDMLLoss, and
        temperature: flattens both networks' probabilities.
        alpha, beta: factors of the two parts.
        use_target_as_gt: take the teacher's answer as the true class, so that no labels are
            needed; otherwise images without label (-1) do not count.
    """

    term = "DKDLoss"

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        model_name_pairs: list[list[str]] = (("Student", "Teacher"),),
        temperature: PositiveFloat = 1.0,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 1.0,
        use_target_as_gt: bool = False,
        key: str | None = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(weight, model_name_pairs, key)
        self.temperature, self.alpha, self.beta = temperature, alpha, beta
        self.use_target_as_gt = use_target_as_gt
        self.divides_by = "images" if use_target_as_gt else "labels"

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        label = teacher if self.use_target_as_gt else batch["label"]
        if is_soft(label, student.shape[1]):
            label = label.argmax(axis=1)
        return distillation.dkd_loss(
            student, teacher, label, self.temperature, self.alpha, self.beta
        )

    def denominator(self, batch: Batch) -> Tensor:
        return count_labels(batch["label"])


@register("loss")
class DistillationGTCELoss(LabelLoss):
    """Cross entropy of networks with the labels ("ground truth"); -1 is an image without one.

    Args:
        weight: factor of these terms in the sum of all terms.
        model_names: names in Arch.models.
        epsilon: label smoothing, below 1; None for none.
        key: which output of a network with several; None for its logits.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        model_names: list[str] = ("Student",),
        epsilon: Probability | None = None,
        key: str | None = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(CELoss(weight, epsilon), model_names, key)


@register("loss")
class DistillationMultiLabelLoss(LabelLoss):
    """`MultiLabelLoss` of networks with the labels, for several attributes per image.

    Args: as DistillationGTCELoss and MultiLabelLoss.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        model_names: list[str] = ("Student",),
        epsilon: Probability | None = None,
        size_sum: bool = False,
        weight_ratio: bool = False,
        key: str | None = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(MultiLabelLoss(weight, epsilon, size_sum, weight_ratio), model_names, key)
