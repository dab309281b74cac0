"""The model zoo as data: a name stands for a family and its arguments.

`ZOO` has the classifiers, whose trunks are what the networks of `OVER_TRUNKS` stand on. Published
numbers are carried over from the tables named in `source`; `None` means that no table at hand
states one. Parameters, FLOPs and latency are for one 224x224 image, scores are ImageNet-1k
validation in percent. Read next: create.py (name -> network), zoo_table.py (the same numbers
computed from the networks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TABLE_2 = "PP-LCNet paper (arXiv:2109.15099), table 2"
_TABLE_3 = "PP-LCNet paper (arXiv:2109.15099), table 3"
_V2_TABLE = "PaddleClas, PP-LCNetV2 document"
TRUNK = "backbone"  # the argument that takes a trunk, in every network over one
_V2_LATENCY = "latency: OpenVINO on a Xeon Gold 6271C"


@dataclass(frozen=True)
class ZooEntry:
    """One named network.

    family: the class that builds it, args: the arguments that the name stands for.
    params_m, flops_m: millions, as published. latency_ms: batch 1 with MKLDNN on a Xeon Gold 6148,
    10 threads, unless `note` says otherwise. ssld_top1, ssld_top5: after SSLD distillation.
    unmet: published costs ("parameters", "FLOPs") that the official architecture cannot reproduce;
    `note` says why. folder: where the official weights lie on their server, None if there are none.
    ssld: whether official SSLD weights are published, only_ssld: and no others. flops_size: edge of
    the image that `flops_m` are for. plain: the published numbers are weights and multiply-adds
    alone (see `Cost` in models/create.py). flops_unit: to how many millions the published FLOPs are
    rounded. top1_size: edge of the image that the scores are for.
    """

    family: str
    args: Mapping[str, Any] = field(default_factory=dict)
    params_m: float | None = None
    flops_m: float | None = None
    top1: float | None = None
    top5: float | None = None
    latency_ms: float | None = None
    ssld_top1: float | None = None
    ssld_top5: float | None = None
    source: str = ""
    note: str = ""
    unmet: tuple[str, ...] = ()
    folder: str | None = "legendary_models/"
    ssld: bool = False
    only_ssld: bool = False
    flops_size: int = 224
    plain: bool = False
    flops_unit: int = 1
    top1_size: int = 224

    @property
    def accuracy(self) -> float | None:
        """The best published top-1, distilled or not."""
        return max(filter(None, (self.top1, self.ssld_top1)), default=None)

    @property
    def classifies(self) -> bool:
        """Whether it has classes; the others are trunks for PP-OCR's detector and recogniser."""
        return self.args.get("class_num") != 0


@dataclass(frozen=True)
class OverTrunk:
    """A network over any trunk: `<prefix>_<name of the trunk>`, with the trunk as `backbone`.

    family: the class that builds it. args: what the prefix stands for beside the trunk, as a recipe
    writes it. by_trunk: the same for single trunks, by their names.
    """

    family: str
    args: Mapping[str, Any] = field(default_factory=dict)
    by_trunk: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def arguments(self, trunk: str) -> dict[str, Any]:
        """What the name stands for with that trunk, as a recipe writes it."""
        return {TRUNK: {"name": trunk}, **self.args, **self.by_trunk.get(trunk, {})}


def _pplcnet(scale: float, *numbers: float, **more: Any) -> ZooEntry:
    return ZooEntry("PPLCNet", {"scale": scale}, *numbers, source=_TABLE_2, **more)


def _pplcnet_v2(scale: float, depths: tuple[int, ...], *numbers: float, **more: Any) -> ZooEntry:
    args = {"scale": scale, "depths": depths}
    return ZooEntry("PPLCNetV2", args, *numbers, **more)


def _mobilenet_v2(scale: float, *numbers: float, **more: Any) -> ZooEntry:
    args = {} if scale == 1 else {"scale": scale}  # the family's own name is the row at scale 1
    source = _TABLE_3 if numbers else ""
    return ZooEntry("MobileNetV2", args, *numbers, source=source, folder="", **more)


def _mobilenet_v3(size: str, scale: float, *numbers: float, **more: Any) -> ZooEntry:
    more.setdefault("source", _TABLE_3 if numbers else "")
    return ZooEntry("MobileNetV3", {"size": size, "scale": scale}, *numbers, **more)


def _shufflenet_v2(scale: float, *numbers: float | None) -> ZooEntry:
    source = _TABLE_3 if numbers else ""
    return ZooEntry("ShuffleNetV2", {"scale": scale}, *numbers, source=source, folder="")


def _resnet(depth: int, version: str = "vd", **more: Any) -> ZooEntry:
    return ZooEntry("ResNet", {"depth": depth, "version": version}, **more)


_HGNET = "PaddleClas, PP-HGNetV2 document"
_PLAIN = {"plain": True, "flops_unit": 10}  # how the tables of the newer families count


def _pplcnet_v3(scale: float, form: str = "cls") -> ZooEntry:
    args = {"scale": scale} if form == "cls" else {"scale": scale, "form": form, "class_num": 0}
    return ZooEntry("PPLCNetV3", args, folder=None)


def _pplcnet_v4(size: str, form: str = "cls") -> ZooEntry:
    args = {"size": size} if form == "cls" else {"size": size, "form": form, "class_num": 0}
    return ZooEntry("PPLCNetV4", args, folder=None)


def _mobilenet_v4(size: str, flops_size: int, top1_size: int, *numbers: float) -> ZooEntry:
    source = "PaddleClas, MobileNetV4 document"
    where = "too" if flops_size == top1_size else f"at {top1_size} x {top1_size}"
    note = f"published FLOPs are for {flops_size} x {flops_size}; accuracy {where}"
    sizes = {"flops_size": flops_size, "top1_size": top1_size}
    more = {"source": source, "note": note, **sizes, **_PLAIN}
    return ZooEntry("MobileNetV4", {"size": size}, *numbers, **more)


def _pphgnet_v2(variant: str, top1: float, top5: float) -> ZooEntry:
    distilled = {"ssld_top1": top1, "ssld_top5": top5, "ssld": True, "only_ssld": True}
    return ZooEntry("PPHGNetV2", {"variant": variant}, source=_HGNET, **distilled)


def _starnet(dim: int, depths: tuple[int, ...], *numbers: float, **more: Any) -> ZooEntry:
    args = {"base_dim": dim, "depths": depths}
    source = "PaddleClas, StarNet document"
    return ZooEntry("StarNet", args, *numbers, source=source, folder="", **_PLAIN, **more)


_STARNET = {"unmet": ("FLOPs",), "note": "published FLOPs are up to 2 % below those of the layers"}


def _fasternet(variant: str, *numbers: float) -> ZooEntry:
    source = "PaddleClas, FasterNet document"
    args = {"variant": variant}
    return ZooEntry("FasterNet", args, *numbers, source=source, **_PLAIN)


def _levit(variant: str, *numbers: float) -> ZooEntry:
    source = "PaddleClas, table of all models"
    note = "published costs are those before batch normalisation is folded"
    more = {
        "source": source,
        "note": note,
        "unmet": ("parameters", "FLOPs"),
        "folder": "",
        **_PLAIN,
    }
    return ZooEntry("LeViT", {"variant": variant}, *numbers, **more)


# Numbers in order: parameters, FLOPs (both millions), top-1, top-5, latency, SSLD top-1 and top-5.
ZOO: dict[str, ZooEntry] = {
    "PPLCNet_x0_25": _pplcnet(0.25, 1.5, 18, 51.86, 75.65, 1.74),
    "PPLCNet_x0_35": _pplcnet(0.35, 1.6, 29, 58.09, 80.83, 1.92),
    "PPLCNet_x0_5": _pplcnet(0.5, 1.9, 47, 63.14, 84.66, 2.05, 66.10, 86.46, ssld=True),
    "PPLCNet_x0_75": _pplcnet(0.75, 2.4, 99, 68.18, 88.30, 2.29),
    "PPLCNet_x1_0": _pplcnet(1.0, 3.0, 161, 71.32, 90.03, 2.46, 74.39, 92.09, ssld=True),
    "PPLCNet_x1_5": _pplcnet(1.5, 4.5, 342, 73.71, 91.53, 3.19),
    "PPLCNet_x2_0": _pplcnet(2.0, 6.5, 590, 75.18, 92.27, 4.27),
    "PPLCNet_x2_5": _pplcnet(
        *(2.5, 9.0, 906, 76.60, 93.00, 5.39, 80.82, 95.33),
        note="7.25 ms with OpenVINO on a Xeon Gold 6271C (PP-LCNetV2 document)",
        ssld=True,
    ),
    "PPLCNetV2_small": _pplcnet_v2(0.75, (2, 2, 4, 2)),
    "PPLCNetV2_base": _pplcnet_v2(
        *(1.0, (2, 2, 6, 2), 6.6, 604, 77.04, 93.27, 4.32),
        source=_V2_TABLE,
        note=_V2_LATENCY,
        ssld=True,
    ),
    "PPLCNetV2_large": _pplcnet_v2(1.25, (2, 2, 8, 2)),
    "MobileNetV1_x0_25": ZooEntry("MobileNetV1", {"scale": 0.25}),
    "MobileNetV1_x0_5": ZooEntry("MobileNetV1", {"scale": 0.5}),
    "MobileNetV1_x0_75": ZooEntry("MobileNetV1", {"scale": 0.75}),
    "MobileNetV1": ZooEntry(
        *("MobileNetV1", {}, 4.3, 578, 70.99, 89.68, 3.38), source=_TABLE_3, ssld=True
    ),
    "MobileNetV2_x0_25": _mobilenet_v2(0.25, 1.5, 34, 53.21, 76.52, 2.47),
    "MobileNetV2_x0_5": _mobilenet_v2(0.5, 2.0, 99, 65.03, 85.72, 2.85),
    "MobileNetV2_x0_75": _mobilenet_v2(0.75),
    "MobileNetV2": _mobilenet_v2(1.0, 3.5, 327, 72.15, 90.65, 4.26, ssld=True),
    "MobileNetV2_x1_5": _mobilenet_v2(1.5),
    "MobileNetV2_x2_0": _mobilenet_v2(2.0),
    "MobileNetV3_small_x0_35": _mobilenet_v3("small", 0.35, 1.7, 15, 53.03, 76.37, 3.02, ssld=True),
    "MobileNetV3_small_x0_5": _mobilenet_v3("small", 0.5),
    "MobileNetV3_small_x0_75": _mobilenet_v3("small", 0.75),
    "MobileNetV3_small_x1_0": _mobilenet_v3("small", 1.0, ssld=True),
    "MobileNetV3_small_x1_25": _mobilenet_v3("small", 1.25, 3.6, 100, 70.67, 89.51, 3.95),
    "MobileNetV3_large_x0_35": _mobilenet_v3("large", 0.35, 2.1, 41, 64.32, 85.46, 3.68),
    "MobileNetV3_large_x0_5": _mobilenet_v3("large", 0.5),
    "MobileNetV3_large_x0_75": _mobilenet_v3("large", 0.75),
    "MobileNetV3_large_x1_0": _mobilenet_v3("large", 1.0, ssld=True),
    "MobileNetV3_large_x1_25": _mobilenet_v3(
        *("large", 1.25, 7.4, 714, 76.4, 93.00, 5.19),
        source=_V2_TABLE,
        note=f"{_V2_LATENCY}; published FLOPs count a multiply-add as two operations",
        unmet=("FLOPs",),
    ),
    "ShuffleNetV2_x0_25": _shufflenet_v2(0.25),
    "ShuffleNetV2_x0_33": _shufflenet_v2(0.33, 0.6, 24, 53.73, 77.05, 4.30),
    "ShuffleNetV2_x0_5": _shufflenet_v2(0.5, 1.4, 43, 60.32, 82.26, 4.65),
    "ShuffleNetV2_x1_0": _shufflenet_v2(1.0),
    "ShuffleNetV2_x1_5": _shufflenet_v2(1.5, 3.5, 301, 71.63, 90.15),
    "ShuffleNetV2_x2_0": _shufflenet_v2(2.0),
    "ShuffleNetV2_swish": ZooEntry("ShuffleNetV2", {"scale": 1.0, "act": "swish"}, folder=""),
    "ResNet18_vd": _resnet(18),
    "ResNet34_vd": _resnet(34, ssld=True),
    "ResNet50_vd": _resnet(50, ssld=True),
    "ResNet101_vd": _resnet(101, ssld=True),
    "ResNet152_vd": _resnet(152),
    "ResNet200_vd": _resnet(200),
    "ResNet18": _resnet(18, "vb"),
    "ResNet34": _resnet(34, "vb"),
    "ResNet50": _resnet(50, "vb"),
    "ResNet101": _resnet(101, "vb"),
    "ResNet152": _resnet(152, "vb"),
    "PPLCNetV3_x0_5": _pplcnet_v3(0.5),
    "PPLCNetV3_x0_75": _pplcnet_v3(0.75),
    "PPLCNetV3_x0_95": _pplcnet_v3(0.95),
    "PPLCNetV3_x1_0": _pplcnet_v3(1.0),
    "PPLCNetV3_det_x0_5": _pplcnet_v3(0.5, "det"),
    "PPLCNetV3_det_x0_75": _pplcnet_v3(0.75, "det"),
    "PPLCNetV3_det_x0_95": _pplcnet_v3(0.95, "det"),
    "PPLCNetV3_det_x1_0": _pplcnet_v3(1.0, "det"),
    "PPLCNetV3_rec_x0_5": _pplcnet_v3(0.5, "rec"),
    "PPLCNetV3_rec_x0_75": _pplcnet_v3(0.75, "rec"),
    "PPLCNetV3_rec_x0_95": _pplcnet_v3(0.95, "rec"),
    "PPLCNetV3_rec_x1_0": _pplcnet_v3(1.0, "rec"),
    "PPLCNetV4_tiny": _pplcnet_v4("tiny"),
    "PPLCNetV4_small": _pplcnet_v4("small"),
    "PPLCNetV4_medium": _pplcnet_v4("medium"),
    "PPLCNetV4_det_tiny": _pplcnet_v4("tiny", "det"),
    "PPLCNetV4_det_small": _pplcnet_v4("small", "det"),
    "PPLCNetV4_det_medium": _pplcnet_v4("medium", "det"),
    "PPLCNetV4_rec_tiny": _pplcnet_v4("tiny", "rec"),
    "PPLCNetV4_rec_small": _pplcnet_v4("small", "rec"),
    "PPLCNetV4_rec_medium": _pplcnet_v4("medium", "rec"),
    "MobileNetV4_conv_small": _mobilenet_v4("conv_small", 256, 256, 3.77, 240, 74.6, 92.1),
    "MobileNetV4_conv_medium": _mobilenet_v4("conv_medium", 320, 256, 9.72, 1690, 79.9, 95.2),
    "MobileNetV4_conv_large": _mobilenet_v4("conv_large", 448, 448, 32.59, 8680, 83.4, 96.6),
    "PPHGNetV2_B0": _pphgnet_v2("B0", 77.77, 93.91),
    "PPHGNetV2_B1": _pphgnet_v2("B1", 79.18, 94.57),
    "PPHGNetV2_B2": _pphgnet_v2("B2", 81.74, 95.88),
    "PPHGNetV2_B3": _pphgnet_v2("B3", 82.98, 96.43),
    "StarNet_S1": _starnet(24, (2, 2, 8, 3), 2.9, 415, 73.6, 91.8, **_STARNET),
    "StarNet_S2": _starnet(32, (1, 2, 6, 2), 3.7, 534, 74.8, 92.3, **_STARNET),
    "StarNet_S3": _starnet(32, (2, 2, 8, 4), 5.8, 739, 77.0, 94.0, **_STARNET),
    "StarNet_S4": _starnet(32, (3, 3, 12, 5), 7.5, 1050, 79.0, 94.9),
    "FasterNet_T0": _fasternet("T0", 3.9, 340, 71.9, 90.9),
    "FasterNet_T1": _fasternet("T1", 7.6, 850, 75.9, 93.2),
    "FasterNet_T2": _fasternet("T2", 15.0, 1900, 79.1, 94.8),
    "LeViT_128S": _levit("128S", 7.42, 281, 75.98, 92.69),
    "LeViT_128": _levit("128", 8.87, 365, 78.10, 93.72),
}


def _picodet(width: int, convs: int) -> dict[str, Any]:
    """A PicoDet of 2022, as wide as PaddleDetection makes it for a trunk."""
    return {
        "neck": {"name": "LCPAN", "out_channels": width},
        "head": {"name": "PicoHeadV2", "num_convs": convs},
    }


# The prefix of a name -> the network; what follows it is any network of the zoo or of a plug-in.
OVER_TRUNKS: dict[str, OverTrunk] = {
    "deeplabv3p": OverTrunk("DeepLabV3P"),
    "picodet": OverTrunk(
        "PicoDet",
        _picodet(96, 2),  # sizes XS and S
        {
            "PPLCNet_x1_5": _picodet(128, 4),  # M
            "PPLCNet_x2_0": _picodet(160, 4),  # L
            "PPLCNet_x2_5": _picodet(160, 4),
        },
    ),
    "picodet_legacy": OverTrunk(
        "PicoDet",
        {"neck": {"name": "CSPPAN", "out_channels": 128}, "head": {"name": "PicoHead"}},
    ),
}
