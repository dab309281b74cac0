"""The types that a constructor's signature may use, and what the checker reads from them.

A registered class annotates its arguments with builtins (`int`, `float`, `bool`, `str`, `None`,
`list[T]`, `dict[str, T]`, unions, `Literal`) and with the names below. `config.check` compares
the YAML with these annotations before anything is built. Read next: registry.py, check.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

DISTILLATION_MODEL = "DistillationModel"  # the one `Arch.name` that stands for several networks


@dataclass(frozen=True)
class Range:
    """Closed bounds of a number; `None` is unbounded, `open_low` excludes the lower bound."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        if self.low is not None and (value < self.low or (self.open_low and value == self.low)):
            return False
        return self.high is None or value <= self.high

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        if self.low is not None:
            return f"{'greater than' if self.open_low else 'at least'} {self.low:g}"
        return f"at most {self.high:g}"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1)]
Size = PositiveInt | list[PositiveInt]


@dataclass(frozen=True)
class Pixels:
    """Marks lengths in an image's pixels, which `Global.image_size` scales.

    exact: an image has this size afterwards, whatever it had before.
    """

    exact: bool = False


ImageSize = Annotated[Size, Pixels(exact=True)]
ScaledSize = Annotated[Size, Pixels()]
ScaledInt = Annotated[PositiveInt, Pixels()]
ScaledSizes = Annotated[list[PositiveInt] | list[list[PositiveInt]], Pixels()]


# Pillow reads no more than 178.9 million pixels.
Megapixels = Annotated[float, Range(0, 178, open_low=True)]


class IgnoredKey:
    """Marks a key of the reference toolkit that is accepted, has no effect and is logged."""


Ignored = Annotated[Any, IgnoredKey()]


@dataclass(frozen=True)
class Only:
    """The only value accepted for a key of the reference toolkit, and why no other is."""

    value: Any
    reason: str


@dataclass(frozen=True)
class ComponentOf:
    """A nested component of one kind, written `{name: X, ...}` or `X: {...}` in the YAML.

    `extras` is a dataclass of further keys that stand beside the component's own arguments and
    are read by the recipe (`Arch.pretrained`, `dataset.batch_transform_ops`). `fixed` are the
    arguments, by name, that are decided where it stands.
    """

    kind: str
    extras: type | None = None
    fixed: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class ScheduleExtras:
    """Keys of `Optimizer.lr` beside the schedule's own arguments."""

    base_batch_size: PositiveInt | None = None  # multiply all rates by total batch / this


@dataclass(frozen=True)
class TrunkExtras:
    """Keys beside the own arguments of a network inside another one."""

    pretrained: bool | str | None = False  # True: the official file; a path or an address: that
    use_ssld: bool = False  # with pretrained True: the SSLD-distilled official file


@dataclass(frozen=True)
class NetworkExtras(TrunkExtras):
    """Keys beside a network's own arguments, in `Arch` and in `Arch.models`."""

    use_sync_bn: bool = False


NetworkSpec = Annotated[object, ComponentOf("model", NetworkExtras)]
TrunkSpec = Annotated[object, ComponentOf("model", TrunkExtras, (("class_num", 0),))]
TransformSpec = Annotated[object, ComponentOf("transform")]
BatchTransformSpec = Annotated[object, ComponentOf("batch_transform")]
DatasetSpec = Annotated[object, ComponentOf("dataset")]
SamplerSpec = Annotated[object, ComponentOf("sampler")]
LossSpec = Annotated[object, ComponentOf("loss")]
MetricSpec = Annotated[object, ComponentOf("metric")]
OptimizerSpec = Annotated[object, ComponentOf("optimizer")]
ScheduleSpec = Annotated[object, ComponentOf("schedule", ScheduleExtras)]
RegularizerSpec = Annotated[object, ComponentOf("regularizer")]
PostprocessSpec = Annotated[object, ComponentOf("postprocess")]


class Component:
    def __class_getitem__(cls, item: str | tuple[str, type]) -> Any:
        kind, extras = item if isinstance(item, tuple) else (item, None)
        return Annotated[object, ComponentOf(kind, extras)]
