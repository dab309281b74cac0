"""What only the network can know of its arguments: it is built and run once, on zeros.

Strides that leave nothing of an image, or stages that do not fit together, show before the data is
read, which may take minutes. Read before: train.py.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle.nn import initializer

from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.transforms.compose import shape_of
from ppcls_lite.engine import rng
from ppcls_lite.errors import ConfigError, UserError, cut
from ppcls_lite.recipe.networks import shipped

_LARGEST = 3 * 1024 * 1024  # values of an image on which a network still runs in no time
_PADDLES_HEAD = "Error Message Summary:"  # above it stands where in Paddle's C++ it happened


def try_network(settings: RecipeSettings) -> None:
    """Build the network that ships, and run it on zeros of an evaluation image's size.

    Left out where the images have no size of their own, or a large one. Nothing changes by it:
    neither the random generators nor the names of the parameters that follow.

    Raises ConfigError with the network's own error.
    """
    shape = _image_shape(settings)
    if shape is None or min(shape) < 1 or math.prod(shape) > _LARGEST:
        return
    node = shipped(settings).node
    state = rng.state()
    initializer.set_global_initializer(initializer.Constant(0.0))  # random numbers take longest
    try:
        with paddle.utils.unique_name.guard(), paddle.no_grad():
            model = node.build()
            model.eval()
            model(paddle.zeros([1, *shape]))  # (1, C, H, W)
    except UserError:
        raise
    except Exception as error:
        file = str(node.entry.path)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f" ({Path(file).name}:{lines[-1]})" if lines else ""
        text = " ".join(str(error).partition(_PADDLES_HEAD)[2].strip(" -\n").split())
        why = cut(text or " ".join(str(error).split()), 500)
        raise ConfigError(
            f"{node.path}: {node.entry.name} with these arguments does not run on an image of "
            f"{' x '.join(map(str, shape))} (channels, height, width): "
            f"{type(error).__name__}: {why}{place}"
        ) from error
    finally:
        initializer.set_global_initializer(None)
        rng.restore(state)


def _image_shape(settings: RecipeSettings) -> Sequence[int] | None:
    """(C, H, W) of what an evaluation, or a prediction, makes of an image; None: not known."""
    data = settings.DataLoader.Eval if settings.DataLoader else None
    ops = data.dataset.arguments.get("transform_ops") if data else None
    ops = ops or (settings.Infer.transforms if settings.Infer else None)
    try:
        return shape_of([op.build() for op in ops]) if ops else None
    except UserError:  # by chance, or a mistake that those who use the transforms will name
        return None
