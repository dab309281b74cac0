"""The types that a constructor's signature may use, and what the checker reads from them.

A registered class annotates its arguments with builtins (`int`, `float`, `bool`, `str`, `None`,
`list[T]`, `dict[str, T]`, unions, `Literal`) and with the names below. `config.check` compares
the YAML with these annotations before anything is built. Read next: registry.py, check.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

DISTILLATION_MODEL = "DistillationModel"  # the one `Arch.name` that stands for several networks


@dataclass(frozen=True)
class Range:
    """Finite bounds of a number; `open_low` and `open_high` exclude the bound itself."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        return low and high  # both are false for NaN

    def __str__(self) -> str:
        if not (self.open_low or self.open_high):
            return f"between {self.low:,} and {self.high:,}"
        low = f"{'greater than' if self.open_low else 'at least'} {self.low:,}"
        return f"{low} and {'less than' if self.open_high else 'at most'} {self.high:,}"


PositiveInt = Annotated[int, Range(1, 2**31 - 1)]
NonNegativeInt = Annotated[int, Range(0, 2**31 - 1)]
PositiveFloat = Annotated[float, Range(0, 10**9, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0, 10**9)]
Probability = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, open_high=True)]  # what a state keeps of itself
# What memory or time is proportional to has the bounds of what has been trained anywhere.
Seed = Annotated[int, Range(0, 2**63 - 1)]
Repeats = Annotated[int, Range(1, 10_000)]  # how often something is done for one image or stage
Edge = Annotated[int, Range(1, 16_384)]  # pixels
Margin = Annotated[int, Range(0, 16_384)]  # pixels
Enlargement = Annotated[float, Range(1, 16)]  # of a canvas's edges
Level = Annotated[int, Range(0, 255)]  # of a pixel in one channel, or the label in a mask
HueSteps = Annotated[float, Range(0, 128)]  # of the 256 of a circle
Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]
ClassCount = Annotated[int, Range(1, 1_000_000)]
Channels = Annotated[int, Range(1, 65_536)]
Reach = Annotated[int, Range(1, 63)]  # of a box's side from its place, in strides
Stride = Annotated[int, Range(1, 16)]
WidthScale = Annotated[float, Range(0, 32, open_low=True)]  # of a network
Deviation = Annotated[float, Range(1e-6, 10**6)]  # what pixels are divided by
Size = Edge | list[Edge]


@dataclass(frozen=True)
class Pixels:
    """Marks lengths in an image's pixels, which `Global.image_size` scales.

    exact: an image has this size afterwards, whatever it had before. multiple_of: the argument of
    the same component whose multiples the lengths have to be.
    """

    exact: bool = False
    multiple_of: str | None = None


ImageSize = Annotated[Size, Pixels(exact=True)]
ScaledSize = Annotated[Size, Pixels()]
ScaledInt = Annotated[Edge, Pixels()]
ScaledSizes = Annotated[list[Edge] | list[list[Edge]], Pixels(multiple_of="divided_factor")]


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
NeckSpec = Annotated[object, ComponentOf("neck")]
HeadSpec = Annotated[object, ComponentOf("head")]
TransformSpec = Annotated[object, ComponentOf("transform")]
BatchTransformSpec = Annotated[object, ComponentOf("batch_transform")]
DatasetSpec = Annotated[object, ComponentOf("dataset")]
SamplerSpec = Annotated[object, ComponentOf("sampler")]
LossSpec = Annotated[object, ComponentOf("loss")]
AssignerSpec = Annotated[object, ComponentOf("assigner")]
MetricSpec = Annotated[object, ComponentOf("metric")]
OptimizerSpec = Annotated[object, ComponentOf("optimizer")]
ScheduleSpec = Annotated[object, ComponentOf("schedule", ScheduleExtras)]
RegularizerSpec = Annotated[object, ComponentOf("regularizer")]
PostprocessSpec = Annotated[object, ComponentOf("postprocess")]
LoggerSpec = Annotated[object, ComponentOf("logger")]
SpaceSpec = Annotated[object, ComponentOf("space")]


class Component:
    def __class_getitem__(cls, item: str | tuple[str, type]) -> Any:
        kind, extras = item if isinstance(item, tuple) else (item, None)
        return Annotated[object, ComponentOf(kind, extras)]
