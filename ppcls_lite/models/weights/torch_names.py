"""The parameters of our networks under timm's names, as they stand in safetensors files, and those
of Hugging Face's transformers.

A family's rules rewrite our key into theirs, one after another. Linear weights are stored
(out, in) there. What their network does not have because it would change nothing, a convolution
of a shortcut or an expansion, is an identity here. Read before: ../../config/timm.py (which
network is which). Read next: load.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.models.network import Network

_COUNTERS = ".num_batches_tracked"
_STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}
_EPSILON = 1e-5  # of the batch normalisations


@dataclass(frozen=True)
class Naming:
    """How a family's keys become theirs.

    rules: (pattern, replacement) in order. depths: where we count the blocks of all stages through,
    the blocks of their stages by our number of blocks. stage: how a block is called there. starts:
    the number of the first block of stages that we name. identity: what of ours may be missing
    there. own: what of ours only merged networks use. head: our keys that depend on the classes.
    """

    rules: tuple[tuple[str, str], ...]
    head: tuple[str, ...] = ("fc.weight", "fc.bias")
    depths: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    stage: str = "blocks.{0}.{1}."
    starts: Mapping[str, int] = field(default_factory=dict)
    identity: str | None = None
    own: str | None = None

    def of(self, keys: Iterable[str]) -> dict[str, str]:
        """Our keys -> theirs, without what is ours alone."""
        keys = [key for key in keys if not (self.own and re.search(self.own, key))]
        flat = {key: self._counted(key) for key in keys}
        blocks = {int(n) for key in flat.values() for n in re.findall(r"^blocks\.(\d+)\.", key)}
        depths = self.depths.get(len(blocks), ())
        if self.depths and not depths:
            raise UserError(f"timm has no such network of {len(blocks)} blocks")
        return {key: self._theirs(value, depths) for key, value in flat.items()}

    def _counted(self, key: str) -> str:
        stage, _, rest = key.partition(".")
        if stage not in self.starts:
            return key
        number, _, rest = rest.partition(".")
        return f"blocks.{self.starts[stage] + int(number)}.{rest}"

    def _theirs(self, key: str, depths: tuple[int, ...]) -> str:
        if depths and key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            ends = [0, *itertools.accumulate(depths)]
            stage = max(i for i, end in enumerate(ends) if end <= int(number))
            key = self.stage.format(stage, int(number) - ends[stage], stage + 1) + rest
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        place, _, leaf = key.rpartition(".")
        return f"{place}.{_STATISTICS.get(leaf, leaf)}"


_LINE = (  # depthwise, then pointwise
    (r"\.(dw_conv|depthwise_conv)\.conv\.", ".conv_dw."),
    (r"\.(dw_conv|depthwise_conv)\.bn\.", ".bn1."),
    (r"\.(pw_conv|pointwise_conv)\.conv\.", ".conv_pw."),
    (r"\.(pw_conv|pointwise_conv)\.bn\.", ".bn2."),
)
_ATTENTION = (
    (r"\.(se|mid_se)\.conv1\.", ".se.conv_reduce."),
    (r"\.(se|mid_se)\.conv2\.", ".se.conv_expand."),
)
_INVERTED = (  # the first block has no expansion there
    (r"^(blocks\.0\.0)\.bottleneck_conv\.conv\.", r"\1.conv_dw."),
    (r"^(blocks\.0\.0)\.bottleneck_conv\.bn\.", r"\1.bn1."),
    (r"^(blocks\.0\.0)\.linear_conv\.conv\.", r"\1.conv_pw."),
    (r"^(blocks\.0\.0)\.linear_conv\.bn\.", r"\1.bn2."),
    (r"^(blocks\.0\.0)\.expand_conv\.", r"\1.expand."),
    (r"\.expand_conv\.conv\.", ".conv_pw."),
    (r"\.expand_conv\.bn\.", ".bn1."),
    (r"\.bottleneck_conv\.conv\.", ".conv_dw."),
    (r"\.bottleneck_conv\.bn\.", ".bn2."),
    (r"\.linear_conv\.conv\.", ".conv_pwl."),
    (r"\.linear_conv\.bn\.", ".bn3."),
)
_BOTTLENECK = tuple((rf"\.conv{i}\.(conv|bn)\.", rf".\g<1>{i + 1}.") for i in range(3))
_LAYERS = {
    "depths": {8: (2, 2, 2, 2), 16: (3, 4, 6, 3), 33: (3, 4, 23, 3), 50: (3, 8, 36, 3)},
    "stage": "layer{2}.{1}.",
}
_NORM = ("weight", "bias", "_mean", "_variance")
_CLASSIFIER = ((r"^last_conv\.", "conv_head."), (r"^(fc|out)\.", "classifier."))
_STEM = ((r"^conv1?\.conv\.", "conv_stem."), (r"^conv1?\.bn\.", "bn1."))
_EXPANDED = ("last_conv.weight", "last_conv.bias", "fc.weight", "fc.bias")

NAMINGS: dict[str, tuple[Naming, ...]] = {
    "PPLCNet": (
        Naming(
            (*_STEM, *_LINE, *_ATTENTION, *_CLASSIFIER),
            _EXPANDED,
            {13: (1, 2, 2, 2, 4, 2)},
            starts={"blocks2": 0, "blocks3": 1, "blocks4": 3, "blocks5": 5, "blocks6": 11},
        ),
    ),
    "PPLCNetV2": (
        Naming(
            (
                (r"\.se\.conv(\d)\.", r".se.fc\1."),
                (r"\.pw_conv_1\.", ".pw_conv.0."),
                (r"\.pw_conv_2\.", ".pw_conv.1."),
                *_CLASSIFIER,
            ),
            _EXPANDED,
            own=r"\.dw_conv\.(weight|bias)$",
        ),
    ),
    "MobileNetV1": (Naming((*_STEM, *_LINE, *_CLASSIFIER), depths={13: (1, 2, 2, 6, 2)}),),
    "MobileNetV2": (
        Naming(
            (
                (r"^conv1\._conv\.", "conv_stem."),
                (r"^conv1\._batch_norm\.", "bn1."),
                (r"^conv9\._conv\.", "conv_head."),
                (r"^conv9\._batch_norm\.", "bn2."),
                *((rf"^conv{i}\._first_block\.", f"blocks.{i - 2}.0.") for i in range(2, 9)),
                *(
                    (rf"^conv{i}\.conv{i}_{j}\.", f"blocks.{i - 2}.{j - 1}.")
                    for i in range(2, 9)
                    for j in range(2, 5)
                ),
                (r"\._(expand|bottleneck|linear)_conv\._conv\.", r".\1_conv.conv."),
                (r"\._(expand|bottleneck|linear)_conv\._batch_norm\.", r".\1_conv.bn."),
                *_INVERTED,
                *_CLASSIFIER,
            ),
            (
                "conv9._conv.weight",
                *(f"conv9._batch_norm.{n}" for n in _NORM),
                "out.weight",
                "out.bias",
            ),
            identity=r"^conv2\._first_block\._expand_conv\.",
        ),
    ),
    "MobileNetV3": (
        Naming(
            (
                *_STEM,
                (r"^last_second_conv\.conv\.", "blocks.6.0.conv."),
                (r"^last_second_conv\.bn\.", "blocks.6.0.bn1."),
                *_INVERTED,
                *_ATTENTION,
                *_CLASSIFIER,
            ),
            (
                *("last_second_conv.conv.weight", *(f"last_second_conv.bn.{n}" for n in _NORM)),
                *_EXPANDED,
            ),
            {15: (1, 2, 3, 4, 2, 3)},
        ),
    ),
    "MobileNetV4": (
        Naming(
            (
                (r"^conv_stem\.conv\.", "conv_stem."),
                (r"^conv_stem\.bn\.", "bn1."),
                (r"^conv_head\.conv\.", "conv_head."),
                (r"^conv_head\.bn\.", "norm_head."),
                (r"\.conv_exp\.conv\.", ".conv_exp."),
                (r"\.conv_exp\.bn\.", ".bn1."),
                (r"\.conv_pwl\.conv\.", ".conv_pwl."),
                (r"\.conv_pwl\.bn\.", ".bn2."),
                (r"^(blocks\.\d+\.\d+)\.bn\.", r"\1.bn1."),
            ),
            (
                *("conv_head.conv.weight", *(f"conv_head.bn.{n}" for n in _NORM)),
                *("classifier.weight", "classifier.bias"),
            ),
            {17: (2, 2, 6, 6, 1), 23: (1, 2, 8, 11, 1), 28: (1, 2, 11, 13, 1)},
        ),
    ),
    "PPHGNetV2": (
        Naming(
            (
                (r"\.aggregation_squeeze_conv\.", ".aggregation.0."),
                (r"\.aggregation_excitation_conv\.", ".aggregation.1."),
                (r"^last_conv\.", "head.last_conv.0."),
                (r"^lab\.", "head.last_conv.2."),
                (r"^fc\.", "head.fc."),
            ),
            ("last_conv.weight", "lab.scale", "lab.bias", "fc.weight", "fc.bias"),
        ),
    ),
    "StarNet": (Naming((), (*(f"norm.{n}" for n in _NORM), "head.weight", "head.bias")),),
    "FasterNet": (
        Naming(
            (
                (r"^stages\.1\.(reduction|norm)\.", r"stages.1.downsample.\1."),
                (r"^stages\.2\.", "stages.1."),
                (r"^stages\.3\.(reduction|norm)\.", r"stages.2.downsample.\1."),
                (r"^stages\.4\.", "stages.2."),
                (r"^stages\.5\.(reduction|norm)\.", r"stages.3.downsample.\1."),
                (r"^stages\.6\.", "stages.3."),
                (r"^head\.", "classifier."),
                (r"^avgpool_pre_head\.1\.", "conv_head."),
            ),
            ("avgpool_pre_head.1.weight", "head.weight", "head.bias"),
        ),
    ),
    "ResNet": (
        Naming(
            (
                *((rf"^stem\.{i}\.conv\.", f"conv1.{3 * i}.") for i in range(3)),
                *((rf"^stem\.{i}\.bn\.", f"conv1.{3 * i + 1}.") for i in range(2)),
                (r"^stem\.2\.bn\.", "bn1."),
                (r"\.short\.conv\.", ".downsample.1."),
                (r"\.short\.bn\.", ".downsample.2."),
                *_BOTTLENECK,
            ),
            **_LAYERS,
            identity=r"^blocks\.0\.short\.",
        ),
        Naming(
            (
                (r"^stem\.0\.conv\.", "conv1."),
                (r"^stem\.0\.bn\.", "bn1."),
                (r"\.short\.conv\.", ".downsample.0."),
                (r"\.short\.bn\.", ".downsample.1."),
                *_BOTTLENECK,
            ),
            **_LAYERS,
        ),
    ),
}


# Hugging Face's transformers (5.x) has these networks as PaddleClas does, factors and all. Its
# MobileNetV1 and V2 are TensorFlow's (padding, 1001 classes), its classifier of PP-HGNetV2 has no
# `last_conv`: other networks.
_PARTS = (
    (r"\.conv\.(?=weight)", ".convolution."),
    (r"\.bn\.", ".normalization."),
)
TRANSFORMERS: dict[str, Naming] = {
    "PPLCNet": Naming(
        (
            *_PARTS,
            (r"^conv1\.", "encoder.convolution."),
            *((rf"^blocks{i}\.", f"encoder.blocks.{i - 2}.layers.") for i in range(2, 7)),
            (r"\.dw_conv\.", ".depthwise_convolution."),
            (r"\.pw_conv\.", ".pointwise_convolution."),
            (r"\.se\.conv1\.", ".squeeze_excitation_module.convolutions.0."),
            (r"\.se\.conv2\.", ".squeeze_excitation_module.convolutions.2."),
            (r"^last_conv\.", "last_convolution."),
            (r"^fc\.", "head."),
        ),
        _EXPANDED,
    ),
    "PPHGNetV2": Naming(
        (
            *_PARTS,
            (r"^stem\.", "embedder."),
            (r"^stages\.", "encoder.stages."),
            (r"\.aggregation_squeeze_conv\.", ".aggregation.0."),
            (r"\.aggregation_excitation_conv\.", ".aggregation.1."),
        ),
    ),
}


def of_transformers(state: Iterable[str]) -> bool:
    """Whether the names are those of a network of Hugging Face's transformers."""
    return any(key.endswith(".normalization.running_mean") for key in state)


def of_torch(state: Iterable[str]) -> bool:
    """Whether the names are those of a PyTorch network."""
    return any(key.endswith(("running_mean", _COUNTERS)) for key in state)


def to_ours(model: Network, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under timm's names, under the names and in the layouts of `model`.

    Keys that no rule leads to stay as they are, so that loading names them. Raises UserError for a
    family whose names are not known.
    """
    own = {key: value.shape for key, value in model.state_dict().items()}
    naming = _naming(model, own, of_transformers(state))
    pairs = naming.of([*own, *(key for key in naming.head if key not in own)])
    linear = _linear_weights(model, own)
    found = {k: v for k, v in state.items() if not k.endswith(_COUNTERS)}
    ours = {}
    for key, theirs in pairs.items():
        if theirs in found:
            value = found.pop(theirs)
            is_linear = key in linear or (key not in own and value.ndim == 2)
            ours[key] = value.T if is_linear else value
        elif naming.identity and re.search(naming.identity, key) and key in own:
            ours[key] = _neutral(key, own[key])
    if naming.own:
        kept = model.state_dict().items()
        ours |= {key: value.numpy() for key, value in kept if re.search(naming.own, key)}
    return ours | found


def to_theirs(
    model: Network, state: Mapping[str, np.ndarray], transformers: bool = False
) -> dict[str, np.ndarray]:
    """The other way round, under timm's names or those of `transformers`.

    Raises UserError where their network could not hold the weights.
    """
    own = {key: list(value.shape) for key, value in state.items()}
    naming, linear = _naming(model, own, transformers), _linear_weights(model, own)
    theirs = {}
    for key, name in naming.of(own).items():
        if transformers and (key == "last_conv.bias" or key.split(".")[0] == name.split(".")[0]):
            raise UserError(f"transformers' {type(model).__name__} has no place for {key}")
        value = state[key]
        neutral = bool(naming.identity and re.search(naming.identity, key))
        if neutral and np.allclose(value, _neutral(key, own[key]), atol=1e-7):
            continue
        theirs[name] = np.ascontiguousarray(value.T if key in linear else value)
    return theirs


def _naming(model: Network, keys: Mapping[str, object], by_transformers: bool = False) -> Naming:
    if by_transformers:
        found = TRANSFORMERS.get(type(model).__name__)
        if found is None:
            raise UserError(
                f"the names are those of transformers, which are known for "
                f"{', '.join(TRANSFORMERS)}; {type(model).__name__} is none of them"
            )
        return found
    choices = NAMINGS.get(type(model).__name__)
    if choices is None:
        raise UserError(
            f"timm's names are not known for {type(model).__name__}; known: {', '.join(NAMINGS)}"
        )
    return choices[-1] if "stem.1.conv.weight" not in keys else choices[0]


def _linear_weights(model: Network, keys: Iterable[str]) -> set[str]:
    layers = dict(model.named_sublayers())
    found = {f"{name}.weight" for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    return found & set(keys)


def _neutral(key: str, shape: list[int]) -> np.ndarray:
    """A layer that changes nothing: identity kernels, batch normalisation of what it computes."""
    if len(shape) == 4:
        return np.eye(shape[0], shape[1], dtype=np.float32).reshape(shape)
    leaf = key.rpartition(".")[2]
    values = {"weight": 1.0, "bias": 0.0, "_mean": 0.0, "_variance": 1 - _EPSILON}
    return np.full(shape, values[leaf], np.float32)
