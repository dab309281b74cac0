"""The published augmentation policies, as data.

`IMAGENET` is the policy of AutoAugment (arXiv:1805.09501, appendix): 25 pairs of (operation,
probability, magnitude 0 to 9). `EFFICIENTNET_V0` is the one of the EfficientNet TPU training code
(magnitude 0 to 10). `RANDAUGMENT` lists the operations of RandAugment (arXiv:1909.13719), `RAND`
and `AUGMIX` (arXiv:1912.02781) those of the timm library's variants, `RAND_WEIGHTS` its choice
weights. Read next: augment_ops.py, autoaugment.py.
"""

from __future__ import annotations

Pair = tuple[tuple[str, float, int], ...]


def _pairs(table: str) -> tuple[Pair, ...]:
    pairs = [pair.split(",") for line in table.strip().split("\n") for pair in line.split("|")]
    rows = [[operation.split() for operation in pair] for pair in pairs]
    return tuple(tuple((name, float(p), int(level)) for name, p, level in row) for row in rows)


IMAGENET = _pairs("""
    Posterize 0.4 8, Rotate 0.6 9                | Solarize 0.6 5, AutoContrast 0.6 5
    Equalize 0.8 8, Equalize 0.6 3               | Posterize 0.6 7, Posterize 0.6 6
    Equalize 0.4 7, Solarize 0.2 4               | Equalize 0.4 4, Rotate 0.8 8
    Solarize 0.6 3, Equalize 0.6 7               | Posterize 0.8 5, Equalize 1.0 2
    Rotate 0.2 3, Solarize 0.6 8                 | Equalize 0.6 8, Posterize 0.4 6
    Rotate 0.8 8, Color 0.4 0                    | Rotate 0.4 9, Equalize 0.6 2
    Equalize 0.0 7, Equalize 0.8 8               | Invert 0.6 4, Equalize 1.0 8
    Color 0.6 4, Contrast 1.0 8                  | Rotate 0.8 8, Color 1.0 2
    Color 0.8 8, Solarize 0.8 7                  | Sharpness 0.4 7, Invert 0.6 8
    ShearX 0.6 5, Equalize 1.0 9                 | Color 0.4 0, Equalize 0.6 3
    Equalize 0.4 7, Solarize 0.2 4               | Solarize 0.6 5, AutoContrast 0.6 5
    Invert 0.6 4, Equalize 1.0 8                 | Color 0.6 4, Contrast 1.0 8
    Equalize 0.8 8, Equalize 0.6 3
""")

EFFICIENTNET_V0 = _pairs("""
    Equalize 0.8 1, ShearY 0.8 4                 | Color 0.4 9, Equalize 0.6 3
    Color 0.4 1, Rotate 0.6 8                    | Solarize 0.8 3, Equalize 0.4 7
    Solarize 0.4 2, Solarize 0.6 2               | Color 0.2 0, Equalize 0.8 8
    Equalize 0.4 8, SolarizeAdd 0.8 3            | ShearX 0.2 9, Rotate 0.6 8
    Color 0.6 1, Equalize 1.0 2                  | Invert 0.4 9, Rotate 0.6 0
    Equalize 1.0 9, ShearY 0.6 3                 | Color 0.4 7, Equalize 0.6 0
    Posterize 0.4 6, AutoContrast 0.4 7          | Solarize 0.6 8, Color 0.6 9
    Solarize 0.2 4, Rotate 0.8 9                 | Rotate 1.0 7, TranslateY 0.8 9
    ShearX 0.0 0, Solarize 0.8 4                 | ShearY 0.8 0, Color 0.6 4
    Color 1.0 0, Rotate 0.6 2                    | Equalize 0.8 4, Equalize 0.0 8
    Equalize 1.0 4, AutoContrast 0.6 2           | ShearY 0.4 7, SolarizeAdd 0.6 7
    Posterize 0.8 2, Solarize 0.6 10             | Solarize 0.6 8, Equalize 0.6 1
    Color 0.8 6, Rotate 0.4 5
""")

RANDAUGMENT = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Color", "Posterize"),
    *("Solarize", "Contrast", "Sharpness", "Brightness", "AutoContrast", "Equalize", "Invert"),
)
AUGMIX = (
    *("AutoContrast", "Color", "Contrast", "Brightness", "Sharpness", "Equalize", "Rotate"),
    *("Posterize", "Solarize", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
RAND_WEIGHTS = {
    **{"AutoContrast": 0.025, "Equalize": 0.005, "Invert": 0.0, "Rotate": 0.3},
    **{"Posterize": 0.0, "Solarize": 0.005, "SolarizeAdd": 0.005, "Color": 0.025},
    **{"Contrast": 0.005, "Brightness": 0.005, "Sharpness": 0.025},
    **{"ShearX": 0.2, "ShearY": 0.2, "TranslateX": 0.1, "TranslateY": 0.1},
}
RAND = tuple(RAND_WEIGHTS)
