"""The default space: PP-LCNet with its widths, depths, kernels and attention free.

The paper's x0.5, x0.75 and x1.0 are points of it. Options that are lists end with the largest.
Read before: space.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, Edge, Repeats
from ppcls_lite.errors import UserError
from ppcls_lite.search.space import SIZE, Candidate, Piece, Shape, Space

if TYPE_CHECKING:
    from paddle import nn

STAGES = range(2, 7)  # blocks2 ... blocks6
_STRIDES = (2, 2, 2, 2, 2)  # the network's own
_PAPER = {  # the scales whose channels are options: stem, widths
    "PPLCNet_x0_5": (8, (16, 32, 64, 128, 256)),
    "PPLCNet_x0_75": (16, (24, 48, 96, 192, 384)),
    "PPLCNet_x1_0": (16, (32, 64, 128, 256, 512)),
}
_ACTIVATIONS = ("relu", "relu6", "hardswish")  # the paper's last, as the largest option
_DEPTHS, _PLAIN, _ATTENTIVE = (1, 2, 2, 6, 2), 6, 2  # blocks; those with 3x3; those with attention


@register("space")
class PPLCNetSpace(Space):
    """PP-LCNets of other shapes.

    stem: channels of the first convolution.
    widths, depths: of blocks2 ... blocks6, a list of options each.
    kernels: sizes of the depthwise kernels, chosen for each block.
    attention: whether each block may have channel attention or not (`choose`), or is as in the
        paper: none but the last stage's (`tail`).
    expand: widths of the 1x1 convolution after pooling.
    activations: of all layers; null: the recipe's `act`.
    sizes: edges of the input; null: the recipe's.
    """

    network = "PPLCNet"

    def __init__(
        self,
        stem: list[Channels] = (8, 16),
        widths: list[list[Channels]] = (
            (16, 24, 32),
            (32, 48, 64),
            (48, 64, 96, 128),
            (96, 128, 192, 256),
            (192, 256, 384, 512),
        ),
        depths: list[list[Repeats]] = ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4, 6), (1, 2, 3)),
        kernels: list[Literal[3, 5, 7]] = (3, 5),
        attention: Literal["choose", "tail"] = "choose",
        expand: list[Channels] = (640, 1280),
        activations: list[Literal["hardswish", "relu", "relu6"]] | None = None,
        sizes: list[Edge] | None = None,
    ) -> None:
        given = {"stem": stem, "kernels": kernels, "expand": expand}
        for key, lists in (("widths", widths), ("depths", depths)):
            if len(lists) != len(STAGES):
                raise UserError(
                    f"PPLCNetSpace.{key}: expected 5 lists (blocks2 ... blocks6), got {len(lists)}"
                )
            given |= {f"{key}[{place}]": options for place, options in enumerate(lists)}
        for key, options in given.items():
            if not options:
                raise UserError(f"PPLCNetSpace.{key}: expected one option at least, found none")
        slots: dict[str, Sequence[Any]] = {"stem": sorted(stem)}
        slots |= {f"width{s}": sorted(options) for s, options in zip(STAGES, widths)}
        slots |= {f"depth{s}": sorted(options) for s, options in zip(STAGES, depths)}
        choices = {"kernel": sorted(kernels)}
        if attention == "choose":
            choices["attention"] = [0, 1]
        for name, options in choices.items():
            for stage, options_of_depth in zip(STAGES, depths):
                for block in range(max(options_of_depth)):
                    slots[f"{name}{stage}.{block}"] = options
        slots["expand"] = sorted(expand)
        if activations:
            slots["activation"] = sorted({*activations}, key=_ACTIVATIONS.index)
        if sizes:
            slots[SIZE] = sorted(sizes)
        self.slots = slots

    def canonical(self, candidate: Candidate) -> Candidate:
        used = {f"{stage}.{block}" for stage, block in _blocks(candidate)}
        return {
            name: candidate[name] if _matters(name, used) else options[0]
            for name, options in self.slots.items()
        }

    def arch(self, candidate: Candidate) -> dict[str, Any]:
        blocks = list(_blocks(candidate))
        sizes = [candidate[f"kernel{stage}.{block}"] for stage, block in blocks]
        activation = candidate.get("activation")
        return {
            **({"act": activation} if activation else {}),
            "stem_channels": candidate["stem"],
            "widths": [candidate[f"width{stage}"] for stage in STAGES],
            "depths": [candidate[f"depth{stage}"] for stage in STAGES],
            "kernel_mask": "".join(str((size - 3) // 2) for size in sizes),
            "se_mask": "".join(map(str, (_attends(candidate, *place) for place in blocks))),
            "class_expand": candidate["expand"],
        }

    def known(self) -> dict[str, Candidate]:
        found = {}
        for name, (stem, widths) in _PAPER.items():
            chosen: Candidate = {"stem": stem, "expand": 1280, "activation": _ACTIVATIONS[-1]}
            chosen |= {f"width{stage}": width for stage, width in zip(STAGES, widths)}
            chosen |= {f"depth{stage}": depth for stage, depth in zip(STAGES, _DEPTHS)}
            places = list(_blocks(chosen))
            for number, (stage, block) in enumerate(places):
                chosen[f"kernel{stage}.{block}"] = 3 if number < _PLAIN else 5
                late = number >= len(places) - _ATTENTIVE
                chosen[f"attention{stage}.{block}"] = int(late)
            whole = {slot: chosen.get(slot, options[0]) for slot, options in self.slots.items()}
            if not all(value in self.slots[slot] for slot, value in whole.items()):
                continue
            for size in self.slots.get(SIZE, [None]):
                own = whole if size is None else {**whole, SIZE: size}
                found[name if size is None else f"{name} at {size}"] = self.canonical(own)
        return found

    def pieces(self, candidate: Candidate, shape: Shape, arch: Mapping[str, Any]) -> list[Piece]:
        first, *later = arch.get("stride_list") or _STRIDES
        act = candidate.get("activation") or arch.get("act", _ACTIVATIONS[-1])
        channels, height, width = shape
        found = [_piece("stem", shape, channels, candidate["stem"], first, act)]
        height, width = _after((height, width), first)
        channels = candidate["stem"]
        for stage, block in _blocks(candidate):
            stride = 1 if block or stage == STAGES[0] else later[stage - 3]
            kernel = candidate[f"kernel{stage}.{block}"]
            attends = _attends(candidate, stage, block)
            here = (channels, height, width)
            found.append(_piece("depthwise", here, channels, kernel, stride, attends, act))
            height, width = _after((height, width), stride)
            out = candidate[f"width{stage}"]
            found.append(_piece("pointwise", (channels, height, width), channels, out, act))
            channels = out
        classes = arch.get("class_num", 1000)
        head = (channels, candidate["expand"], classes, act)
        return [*found, _piece("head", (channels, height, width), *head)]


def _blocks(candidate: Candidate) -> Iterator[tuple[int, int]]:
    """Stage and number of each block, from input to output."""
    for stage in STAGES:
        for block in range(candidate[f"depth{stage}"]):
            yield stage, block


def _matters(slot: str, used: set[str]) -> bool:
    return "." not in slot or slot.removeprefix("kernel").removeprefix("attention") in used


def _attends(candidate: Candidate, stage: int, block: int) -> int:
    """Whether a block has attention: the candidate's choice, or the paper's rule."""
    return candidate.get(f"attention{stage}.{block}", int(stage == STAGES[-1]))


def _after(size: tuple[int, int], stride: int | Sequence[int]) -> tuple[int, int]:
    """Height and width behind a convolution that pads by half its kernel."""
    down, across = (stride, stride) if isinstance(stride, int) else stride
    return -(-size[0] // down), -(-size[1] // across)


def _piece(kind: str, shape: Shape, *values: Any) -> Piece:
    name = f"{kind} {' '.join(map(str, values))} at {'x'.join(map(str, shape))}"
    return Piece(name.replace(", ", ","), shape, functools.partial(_build, kind, values))


def _build(kind: str, values: tuple[Any, ...]) -> nn.Layer:
    from ppcls_lite.search import pieces

    return getattr(pieces, kind)(*values)
