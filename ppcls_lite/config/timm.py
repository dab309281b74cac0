"""Which networks of timm (https://github.com/huggingface/pytorch-image-models) are which of ours.

The weights that timm publishes lie on the Hugging Face hub as `timm/<architecture>.<tag>`; a
recipe names them `timm://<architecture>.<tag>`. Some of those networks differ from the official
ones by an option, which is chosen by the architecture and stays in the recipe. Read next:
../models/weights/torch_names.py (their names for the parameters).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ppcls_lite.errors import ConfigError

PREFIX = "timm://"


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm.

    ours: the name in the zoo. options: arguments that make it timm's network.
    tags: of weights of 1000 classes that are published (as of timm 1.0.31).
    """

    ours: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


# timm upscales in training where the official networks scale down in evaluation.
_DROPOUT = {"dropout_mode": "upscale_in_train"}
_HEAD = {"last_conv_bias": True, **_DROPOUT}
_LARGE = {"first_block_expand": False, "se_divisor": 8, "gate_slope": "1/6", **_HEAD}

TIMM: dict[str, TimmNetwork] = {
    "lcnet_035": TimmNetwork("PPLCNet_x0_35", _HEAD),
    "lcnet_050": TimmNetwork("PPLCNet_x0_5", _HEAD, tags=("ra2_in1k",)),
    "lcnet_075": TimmNetwork("PPLCNet_x0_75", _HEAD, tags=("ra2_in1k",)),
    "lcnet_100": TimmNetwork("PPLCNet_x1_0", _HEAD, tags=("ra2_in1k",)),
    "lcnet_150": TimmNetwork("PPLCNet_x1_5", _HEAD),
    "lcnetv2_small": TimmNetwork("PPLCNetV2_small", _DROPOUT, tags=("paddle_in1k",)),
    "lcnetv2_base": TimmNetwork("PPLCNetV2_base", _DROPOUT, tags=("paddle_in1k", "ssld_in1k")),
    "lcnetv2_large": TimmNetwork("PPLCNetV2_large", _DROPOUT, tags=("paddle_in1k",)),
    "mobilenetv1_100": TimmNetwork("MobileNetV1", {"act": "relu6"}, tags=("ra4_e3600_r224_in1k",)),
    "mobilenetv2_100": TimmNetwork("MobileNetV2", tags=("ra_in1k",)),
    "mobilenetv3_large_100": TimmNetwork(
        "MobileNetV3_large_x1_0",
        _LARGE,
        tags=("miil_in21k_ft_in1k", "ra4_e3600_r224_in1k", "ra_in1k"),
    ),
    "mobilenetv4_conv_small": TimmNetwork(
        "MobileNetV4_conv_small", tags=("e1200_r224_in1k", "e2400_r224_in1k", "e3600_r256_in1k")
    ),
    "mobilenetv4_conv_medium": TimmNetwork(
        "MobileNetV4_conv_medium",
        tags=("e250_r384_in12k_ft_in1k", "e500_r224_in1k", "e500_r256_in1k"),
    ),
    "mobilenetv4_conv_large": TimmNetwork(
        "MobileNetV4_conv_large", tags=("e500_r256_in1k", "e600_r384_in1k")
    ),
    "hgnetv2_b0": TimmNetwork(
        "PPHGNetV2_B0", tags=("ssld_stage1_in22k_in1k", "ssld_stage2_ft_in1k")
    ),
    "hgnetv2_b1": TimmNetwork(
        "PPHGNetV2_B1", tags=("ssld_stage1_in22k_in1k", "ssld_stage2_ft_in1k")
    ),
    "hgnetv2_b2": TimmNetwork(
        "PPHGNetV2_B2", tags=("ssld_stage1_in22k_in1k", "ssld_stage2_ft_in1k")
    ),
    "hgnetv2_b3": TimmNetwork(
        "PPHGNetV2_B3", tags=("ssld_stage1_in22k_in1k", "ssld_stage2_ft_in1k")
    ),
    "starnet_s1": TimmNetwork("StarNet_S1", tags=("in1k",)),
    "starnet_s2": TimmNetwork("StarNet_S2", tags=("in1k",)),
    "starnet_s3": TimmNetwork("StarNet_S3", tags=("in1k",)),
    "starnet_s4": TimmNetwork("StarNet_S4", tags=("in1k",)),
    "fasternet_t0": TimmNetwork("FasterNet_T0", tags=("in1k",)),
    "fasternet_t1": TimmNetwork("FasterNet_T1", tags=("in1k",)),
    "fasternet_t2": TimmNetwork("FasterNet_T2", tags=("in1k",)),
    "resnet18d": TimmNetwork("ResNet18_vd", tags=("ra2_in1k", "ra4_e3600_r224_in1k")),
    "resnet34d": TimmNetwork("ResNet34_vd", tags=("ra2_in1k",)),
    "resnet50d": TimmNetwork(
        "ResNet50_vd",
        tags=("a1_in1k", "a2_in1k", "a3_in1k", "gluon_in1k", "ra2_in1k", "ra4_e3600_r224_in1k"),
    ),
    "resnet101d": TimmNetwork("ResNet101_vd", tags=("gluon_in1k", "ra2_in1k")),
    "resnet152d": TimmNetwork("ResNet152_vd", tags=("gluon_in1k", "ra2_in1k")),
    "resnet50": TimmNetwork(
        "ResNet50",
        tags=(
            "a1_in1k",
            "a1h_in1k",
            "a2_in1k",
            "a3_in1k",
            "am_in1k",
            "b1k_in1k",
            "b2k_in1k",
            "bt_in1k",
            "c1_in1k",
            "c2_in1k",
            "d_in1k",
            "fb_ssl_yfcc100m_ft_in1k",
            "fb_swsl_ig1b_ft_in1k",
            "gluon_in1k",
            "ra_in1k",
            "ram_in1k",
            "tv2_in1k",
            "tv_in1k",
        ),
    ),
}


def architecture_of(address: str) -> str | None:
    """`lcnet_050` of `timm://lcnet_050.ra2_in1k` or `hf://timm/lcnet_050.ra2_in1k`; else None."""
    for prefix in (PREFIX, "hf://timm/"):
        if address.startswith(prefix):
            return address.removeprefix(prefix).partition("@")[0].partition(".")[0]
    return None


def options_for(name: str, pretrained: object) -> dict[str, Any]:
    """The arguments with which the network `name` takes the weights that `pretrained` names.

    Empty for other weights than timm's. Raises ConfigError where those are of another network.
    """
    architecture = architecture_of(pretrained) if isinstance(pretrained, str) else None
    if architecture is None:
        return {}
    network = TIMM.get(architecture)
    if network is None:
        near = difflib.get_close_matches(architecture, TIMM, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TIMM)}"
        raise ConfigError(f"timm's {architecture} is none of the networks here; {hint}")
    if network.ours != name:
        raise ConfigError(
            f"{pretrained} are weights of timm's {architecture}, which is {network.ours} here; the "
            f"network is {name}"
        )
    return dict(network.options)
