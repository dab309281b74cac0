"""`Arch.name: DistillationModel`: which networks learn together, which are frozen, which one ships.

A description, without Paddle: the checker reads it before anything is built. The keys are those of
PaddleClas; the method is SSLD's (Cui et al. 2021, https://arxiv.org/abs/2103.05959) or mutual
learning (Zhang et al. 2017, https://arxiv.org/abs/1706.00384), as the freezing and the losses say.
Read next: ../recipe/networks.py (building them), ../engine/tasks.py (`Distilled`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import DISTILLATION_MODEL, ClassCount, NetworkSpec
from ppcls_lite.errors import ConfigError

NAMING = {"model_key", "model_names", "model_name_pairs"}  # arguments that hold networks' names
TAKEN = ("logits", "loss")  # names with a meaning of their own beside the networks'


@dataclass(frozen=True)
class Member:
    """One network of a distillation."""

    name: str
    node: Any  # builds it
    path: str  # its place in the recipe
    frozen: bool
    pretrained: bool | str | None  # True: the official file; or a path


@register("model")
class DistillationModel:
    """Several networks that see the same images: teachers, and the student that ships.

    Args:
        models: a list of `NAME: {name: NETWORK, ...}`; a network takes its own arguments,
            `pretrained`, `use_ssld` and `use_sync_bn`.
        freeze_params_list: for each network whether it is a fixed teacher; none by default.
        pretrained_list: for each network its weights, instead of the network's own `pretrained`.
        infer_model_name: the network that is saved, evaluated and exported.
        class_num: of the networks that do not state their own.
        teacher_engine: what runs frozen teachers on a CPU: an inference engine by its name; the
            first of these that is installed, where it agrees with the network (auto); or the
            network itself. Teachers from files name their engine by the file.
        teacher_precision: of that engine; bf16 where the CPU computes with it.
    """

    def __init__(
        self,
        models: list[dict[str, NetworkSpec]],
        freeze_params_list: list[bool] | None = None,
        pretrained_list: list[bool | str | None] | None = None,
        infer_model_name: str = "Student",
        class_num: ClassCount | None = None,
        teacher_engine: Literal["auto", "network", "openvino", "onnxruntime", "paddle"] = "auto",
        teacher_precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        if teacher_precision != "fp32" and teacher_engine == "network":
            raise ConfigError(
                f"teacher_precision: {teacher_precision} is for an inference engine, but "
                "teacher_engine is network; leave one of the two out"
            )
        self.teacher_engine, self.teacher_precision = teacher_engine, teacher_precision
        names = _names(models)
        count = len(names)
        frozen = freeze_params_list if freeze_params_list is not None else [False] * count
        files = pretrained_list if pretrained_list is not None else [None] * count
        for key, values in (("freeze_params_list", frozen), ("pretrained_list", files)):
            if len(values) != count:
                raise ConfigError(
                    f"{key}: expected one value for each of the {count} networks "
                    f"({', '.join(names)}), found {values}"
                )
        self.members = []
        for place, (name, model) in enumerate(zip(names, models)):
            node, path = _with_class_num(model[name], class_num), f"Arch.models.{place}.{name}"
            file = files[place] if files[place] not in (None, "") else node.extras.pretrained
            self.members.append(Member(name, node, path, frozen[place], file))
        if infer_model_name not in names:
            raise ConfigError(
                f"infer_model_name: there is no network {infer_model_name!r}; expected one of "
                f"{', '.join(names)}"
            )
        self.student = self.members[names.index(infer_model_name)]
        if self.student.frozen:
            raise ConfigError(
                f"freeze_params_list: {infer_model_name} (infer_model_name) is frozen, so that it "
                "would learn nothing; expected false in its place"
            )
        own = self.student.node.arguments.get("class_num")
        if class_num is not None and own != class_num:
            raise ConfigError(
                f"class_num is {class_num}, but {self.student.path}.class_num is {own}; make them "
                "equal, or remove the latter"
            )

    def require_names(self, nodes: list[Any], evaluation: bool) -> None:
        """Raise ConfigError where a loss or metric names a network that there is not.

        nodes: checked components. In an evaluation the student alone is run.
        """
        known = [self.student.name] if evaluation else [member.name for member in self.members]
        for node in nodes:
            for key in NAMING & {argument.name for argument in node.entry.arguments}:
                wrong = [name for name in _flat(node.get(key)) if name not in known]
                if wrong:
                    why = "in an evaluation only the student runs; " if evaluation else ""
                    raise ConfigError(
                        f"{node.path}.{key}: there is no network {wrong[0]!r}; {why}expected "
                        f"{' or '.join(known)}"
                    )


def _flat(names: Any) -> list[str]:
    """The names in a name, a list of names or a list of pairs of names."""
    if names is None or isinstance(names, str):
        return [names] if names else []
    return [name for item in names for name in _flat(item)]


def _with_class_num(node: Any, class_num: int | None) -> Any:
    """A network's node, with the common class count where it does not state its own."""
    takes_it = any(argument.name == "class_num" for argument in node.entry.arguments)
    if class_num is None or not takes_it or "class_num" in node.arguments:
        return node
    return replace(node, arguments={**node.arguments, "class_num": class_num})


def _names(models: list[dict[str, Any]]) -> list[str]:
    """The networks' names; raises ConfigError for a list that is not one network an item."""
    names: list[str] = []
    for place, model in enumerate(models):
        if len(model) != 1:
            raise ConfigError(
                f"models.{place}: expected one network, `NAME: {{...}}`, found the keys "
                f"{', '.join(model) or 'none'}"
            )
        (name,) = model
        if name in names or name in TAKEN or "." in name:
            reason = "given twice" if name in names else "not a name for a network here"
            raise ConfigError(f"models.{place}: {name!r} is {reason}; choose another name")
        if model[name].entry.name == DISTILLATION_MODEL:
            raise ConfigError(
                f"models.{place}.{name}: a {DISTILLATION_MODEL} cannot hold another one"
            )
        names.append(name)
    if len(names) < 2:
        raise ConfigError(
            f"models: expected a teacher and a student at least, found {', '.join(names) or '[]'}; "
            "to train one network alone, name it as Arch.name"
        )
    return names
