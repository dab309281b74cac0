"""ppcls_lite: PaddleClas-style training of networks that must be fast on CPUs.

The stable Python API; everything is imported on first use, so `import ppcls_lite` is quick:

    model = ppcls_lite.create_model("PPLCNet_x0_5", class_num=10)
    names = ppcls_lite.list_models("PPLCNet*")
    config = ppcls_lite.load_config("configs/PPLCNet_x0_5.yaml", ["Global.epochs=1"])
    ppcls_lite.train(config); ppcls_lite.evaluate(config); ppcls_lite.export(config)
    results = ppcls_lite.Predictor("inference").predict(["a.jpg", "b.jpg"])

`register` marks components of one's own (docs/extending.md).
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker sees; at run time see `_HOMES`
    from ppcls_lite.config.file import load_config
    from ppcls_lite.config.registry import register
    from ppcls_lite.inference.predictor import Predictor
    from ppcls_lite.models.create import create_model, list_models
    from ppcls_lite.recipe.evaluate import evaluate
    from ppcls_lite.recipe.export import export
    from ppcls_lite.recipe.train import train

__version__ = "0.1.0"

# Paddle's warnings that tell a user nothing: at its import, the first training step, an export.
for _message in ("No ccache found", "When training, we now always", "Tensor do not have 'place'"):
    warnings.filterwarnings("ignore", message=_message)

_HOMES = {
    "Callback": "ppcls_lite.engine.callbacks",
    "create_model": "ppcls_lite.models.create",
    "list_models": "ppcls_lite.models.create",
    "find_rate": "ppcls_lite.recipe.lr",
    "load_config": "ppcls_lite.config.file",
    "train": "ppcls_lite.recipe.train",
    "tune": "ppcls_lite.recipe.tune",
    "evaluate": "ppcls_lite.recipe.evaluate",
    "export": "ppcls_lite.recipe.export",
    "Predictor": "ppcls_lite.inference.predictor",
    "register": "ppcls_lite.config.registry",
}
__all__ = [
    "Callback",
    "Predictor",
    "__version__",
    "create_model",
    "evaluate",
    "export",
    "find_rate",
    "list_models",
    "load_config",
    "register",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
