"""The distillation losses of a recipe, each over named networks: `outputs[name]` by `Arch.models`.

`DistillationXLoss` compares pairs (student, teacher), or each of several networks with the labels.
A term is called after both: `DMLLoss_Student_Teacher`, `CELoss_Student`. No gradient is stopped
here: a frozen teacher has none, and in mutual learning both networks learn.
Read before: distillation.py (the formulas).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, Ignored, NonNegativeFloat, PositiveFloat, Probability
from ppcls_lite.errors import UserError
from ppcls_lite.losses import distillation
from ppcls_lite.losses.base import Batch, Loss
from ppcls_lite.losses.cross_entropy import CELoss, MultiLabelLoss
from ppcls_lite.losses.targets import count_labels, frequency_factor, is_soft, output_of

_DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


@dataclass(eq=False, repr=False)
class PairLoss(Loss):
    """Compares an output of pairs of networks; a subclass says how, and the term's name.

    Args:
        weight: factor of this term in the sum of all terms.
        model_name_pairs: names in Arch.models.
        key: which output of a network with several; None for its logits.
    """

    weight: NonNegativeFloat = 1.0
    model_name_pairs: list[list[str]] = (("Student", "Teacher"),)
    _: KW_ONLY
    key: str | None = None
    name: Ignored = None

    term: ClassVar[str]

    def __post_init__(self) -> None:
        super().__init__()
        pairs = self.model_name_pairs
        self.pairs = [tuple(pair) for pair in pairs]
        if not self.pairs or any(len(pair) != 2 for pair in self.pairs):
            raise UserError(
                "model_name_pairs: expected pairs of two networks' names, for example "
                f'[["Student", "Teacher"]], found {[list(pair) for pair in pairs]}'
            )
        if len(set(self.pairs)) < len(self.pairs):
            raise UserError(f"model_name_pairs: a pair stands twice in {pairs}; raise its weight")

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


@dataclass(eq=False, repr=False)
class LabelLoss(Loss):
    """Compares each of several networks with the labels by an ordinary loss.

    Args: as PairLoss; model_names: names in Arch.models; epsilon: label smoothing, below 1.
    """

    weight: NonNegativeFloat = 1.0
    model_names: list[str] = ("Student",)
    epsilon: Probability | None = None
    _: KW_ONLY
    key: str | None = None
    name: Ignored = None

    def __post_init__(self) -> None:
        super().__init__()
        self.loss = self.make()
        self.divides_by, self.names = self.loss.divides_by, list(self.model_names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise UserError(
                "model_names: expected the names of networks, each once, for example "
                f'["Student"], found {self.names}'
            )

    @abstractmethod
    def make(self) -> Loss:
        """The loss of each network."""

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
@dataclass(eq=False, repr=False)
class DistillationDMLLoss(PairLoss):
    """SSLD's loss: symmetric Kullback-Leibler divergence of two networks' probabilities.

    Args: as PairLoss, and
        act: what makes probabilities of the outputs; None if they are such already.
        weight_ratio: weigh each attribute as `MultiLabelLoss` does.
        sum_across_class_dim: multiply by the number of classes, as PaddleClas does.
    """

    act: Literal["softmax", "sigmoid"] | None = "softmax"
    weight_ratio: bool = False
    sum_across_class_dim: bool = False
    term = "DMLLoss"

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        factor = frequency_factor(batch["label"]) if self.weight_ratio else None
        return distillation.dml_loss(student, teacher, self.sum_across_class_dim, self.act, factor)


@register("loss")
@dataclass(eq=False, repr=False)
class DistillationCELoss(PairLoss):
    """Cross entropy with the teacher's probabilities as soft labels.

    Args: as PairLoss; epsilon smooths the soft labels, below 1.
    """

    epsilon: Probability | None = None
    term = "CELoss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon is not None and self.epsilon >= 1:
            raise UserError(f"epsilon: expected less than 1, found {self.epsilon}")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return distillation.soft_ce_loss(student, teacher, self.epsilon or 0.0)


@register("loss")
@dataclass(eq=False, repr=False)
class DistillationKLDivLoss(PairLoss):
    """Hinton's loss: T^2 KL(teacher || student) at temperature T.

    Args: as PairLoss; temperature flattens both networks' probabilities.
    """

    temperature: PositiveFloat = 4.0
    term = "KLDivLoss"

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return distillation.kl_div_loss(student, teacher, self.temperature)


@register("loss")
@dataclass(eq=False, repr=False)
class DistillationDKDLoss(PairLoss):
    """Decoupled distillation: true class or not, and the other classes, weighed separately.

    Args: as PairLoss; `alpha` and `beta` are the factors of the two parts. `use_target_as_gt` takes
    the teacher's answer as the true class, so that no labels are needed; otherwise images without
    label (-1) do not count.
    """

    temperature: PositiveFloat = 1.0
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0
    use_target_as_gt: bool = False
    term = "DKDLoss"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.divides_by = "images" if self.use_target_as_gt else "labels"

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        label = teacher if self.use_target_as_gt else batch["label"]
        if is_soft(label, student.shape[1]):
            label = label.argmax(axis=1)
        factors = (self.temperature, self.alpha, self.beta)
        return distillation.dkd_loss(student, teacher, label, *factors)

    def denominator(self, batch: Batch) -> Tensor:
        return count_labels(batch["label"])


@register("loss")
class DistillationDistanceLoss(PairLoss):
    """Mean distance of features (N, C, H, W) or of logits (N, C), over all their numbers.

    Romero et al. 2014 (arXiv 1412.6550). `key` names a feature, `return_patterns: ["blocks5"]`
    under `Arch.models`, or None for the logits. `mode` is `l1`, `l2` (mean square), or `smooth_l1`.
    Where the [student's, teacher's] number of `channels` differ, the loss has a 1x1 convolution
    from one to the other, which learns with the student and is no part of what ships.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        mode: Literal["l1", "l2", "smooth_l1"] = "l2",
        model_name_pairs: list[list[str]] = (("Student", "Teacher"),),
        key: str | None = None,
        channels: list[Channels] | None = None,
        act: Ignored = None,
        name: Ignored = None,
    ) -> None:
        super().__init__(weight, model_name_pairs, key=key)
        self.term = f"DistanceLoss_{mode}" + (f"_{key}" if key else "")
        self.distance = _DISTANCES[mode]
        self.channels, self.adapter = channels, None
        if channels is None:
            return
        if len(channels) != 2 or len(self.pairs) > 1:
            raise UserError(
                "channels: expected two numbers, the student's and the teacher's, for one pair of "
                f"networks, found {channels} for {len(self.pairs)}; give each pair its own loss"
            )
        self.adapter = nn.Conv2D(*channels, 1)

    def check(self, student: Tensor, teacher: Tensor, *names: str) -> None:
        own, wanted = list(student.shape), list(teacher.shape)
        where = f"DistillationDistanceLoss, key {self.key or 'logits'}: {names[0]} has {own}, "
        where += f"{names[1]} {wanted}"
        if own[2:] != wanted[2:]:
            raise UserError(f"{where}: choose features of the same height and width")
        expected = self.channels or [wanted[1]] * 2
        if [own[1], wanted[1]] != expected:
            raise UserError(
                f"{where}, but expected {expected[0]} and {expected[1]} channels: set `channels: "
                f"[{own[1]}, {wanted[1]}]` for an adapter between them"
            )

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        if self.adapter is not None:
            flat = student.ndim == 2
            student = student.unsqueeze([2, 3]) if flat else student  # (N, C, H, W)
            student = self.adapter(student).astype(teacher.dtype)
            student = student.flatten(1) if flat else student  # as the teacher's
        return self.distance(student, teacher)


@register("loss")
class DistillationGTCELoss(LabelLoss):
    """Cross entropy of networks with the labels ("ground truth"); -1 is an image without one."""

    def make(self) -> Loss:
        return CELoss(self.weight, self.epsilon)


@register("loss")
@dataclass(eq=False, repr=False)
class DistillationMultiLabelLoss(LabelLoss):
    """`MultiLabelLoss` of networks with the labels, for several attributes per image.

    Args: as LabelLoss and MultiLabelLoss.
    """

    size_sum: bool = False
    weight_ratio: bool = False

    def make(self) -> Loss:
        return MultiLabelLoss(self.weight, self.epsilon, self.size_sum, self.weight_ratio)
