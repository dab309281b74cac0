"""The `config.json` beside timm's weights: which network, and how its images are prepared.

timm resizes the short edge to size / crop_pct, cut to whole pixels, with Pillow, which looks at all
pixels of the source, and cuts out the centre. Read before: hub.py.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.hub import CONFIG, hub_file, is_hub, parse

_HARMLESS = {"in_chans": None, "num_classes": None, "global_pool": "avg"}  # None: any value


@dataclass(frozen=True)
class Preparation:
    """How images are prepared for evaluation."""

    size: int
    resize_short: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def transforms(self) -> list[dict[str, Any]]:
        """The transforms of a recipe that give the images that timm's evaluation gives."""
        resize = {"resize_short": self.resize_short, "interpolation": self.interpolation}
        values = {"scale": "1.0/255.0", "mean": list(self.mean), "std": list(self.std)}
        return [
            {"DecodeImage": {"to_rgb": True, "channel_first": False, "backend": "pil"}},
            {"ResizeImage": {**resize, "backend": "pil", "long_edge": "cut"}},
            {"CropImage": {"size": self.size, "offset": "round"}},
            {"NormalizeImage": {**values, "order": ""}},
        ]


def preparation_of(pretrained: str | Path) -> Preparation | None:
    """What the weights that `pretrained` names were evaluated with; None if nothing says so.

    Raises UserError where the file cannot be had or is not of this form.
    """
    path = config_of(pretrained)
    return None if path is None else read_config(path)


def config_of(pretrained: str | Path) -> Path | None:
    """The `config.json` of a repository on the hub, or beside a file."""
    if is_hub(str(pretrained)):
        return hub_file(parse(str(pretrained))._replace(file=CONFIG))
    path = Path(pretrained).expanduser().with_name(CONFIG)
    return path if path.is_file() else None


def read_config(path: Path) -> Preparation:
    """Raises UserError for another form, or a network that is not the plain one of its name."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        for key, value in (config.get("model_args") or {}).items():
            if key not in _HARMLESS or _HARMLESS[key] not in (None, value):
                raise UserError(
                    f"{path}: model_args has {key}={value!r}: such a network is not known here"
                )
        found = config["pretrained_cfg"]
        size, crop = int(found["input_size"][-1]), float(found["crop_pct"])
        if found.get("crop_mode", "center") != "center":
            raise UserError(f"{path}: crop_mode is {found['crop_mode']!r}, only center is known")
        return Preparation(
            *(size, math.floor(size / crop), str(found["interpolation"])),
            *(tuple(map(float, found["mean"])), tuple(map(float, found["std"]))),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise UserError(
            f"{path} is no config.json of timm's ({type(error).__name__}: {error})"
        ) from None
