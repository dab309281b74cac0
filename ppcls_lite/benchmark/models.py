"""Networks of the zoo as exported folders, with random weights whose activations stay of order one.

In a network with untrained statistics activations fade from layer to layer (the last feature of
PPLCNet_x0_5 is 4e-5 on average) or grow: towards numbers that processors handle slowly, and towards
answers that are alike whatever an engine does wrong. So batch normalisation takes its statistics
from noise first. Scores need training, latency does not: it depends on
the shapes alone. Read next: cli.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import paddle
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec
from ppcls_lite.models.create import create_model

_NOISE = 8  # images that the statistics are taken from
CLASSES = 1000


def steady(network: nn.Layer, size: int) -> nn.Layer:
    """Give batch normalisation the statistics of noise (8, 3, size, size); in eval mode after."""
    norms = [layer for layer in network.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    before = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 0.0  # the new statistics replace the old ones
    network.train()
    with paddle.no_grad():
        network(paddle.randn([_NOISE, 3, size, size]))
    for norm, momentum in zip(norms, before):
        norm._momentum = momentum
    network.eval()
    return network


def prepare(
    names: Sequence[str],
    folder: Path,
    size: int,
    formats: Sequence[str],
    say: Callable[[str], None] = print,
) -> dict[str, Path]:
    """Export each named network to `folder/<name>_<size>`, unless it lies there already."""
    found = {}
    wanted = [name for name in names if not _lies(folder / f"{name}_{size}", formats)]
    if wanted:
        say(f"exporting {len(wanted)} networks with random weights, 1 to 10 s each")
    start = time.perf_counter()
    for name in names:
        path = found[name] = folder / f"{name}_{size}"
        if name not in wanted:
            continue
        paddle.seed(0)
        network = steady(create_model(name, class_num=CLASSES), size)
        steps = [{"ResizeImage": {"size": size}}, {"NormalizeImage": {"order": ""}}]
        form = "both" if "onnx" in formats else "paddle"
        export_model(network, path, (3, size, size), steps, model_name=name, format=form)
    if wanted:
        say(f"exported to {folder} in {time.perf_counter() - start:.0f} s")
    return found


def _lies(path: Path, formats: Sequence[str]) -> bool:
    return (path / FILE_NAME).is_file() and (
        "onnx" not in formats or (path / "inference.onnx").is_file()
    )


def image_shape(folder: Path, size: int) -> tuple[int, int, int]:
    """The (C, H, W) that an exported folder takes; `size` where it leaves height or width open."""
    spec = InferenceSpec.read(folder, plugins=None)
    if spec.image_shape is None:
        return (3, size, size)
    channels, height, width = spec.image_shape
    if size < 1:
        raise UserError(f"--image-size: expected a number from 1 on, found {size}")
    return (channels, size if height == -1 else height, size if width == -1 else width)
