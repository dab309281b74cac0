"""Which optional packages are here, and the pip command for one that is not."""

from __future__ import annotations

import importlib.util

from ppcls_lite.errors import UserError

# The extra of setup.py that brings a package, by the name to import.
_EXTRAS = {
    **{"openvino": "openvino", "onnxruntime": "onnxruntime", "onnx": "onnx"},
    **{"tensorboardX": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"},
    **{"safetensors": "convert", "fsspec": "shards", "s3fs": "s3", "ray": "ray"},
}


def missing(package: str) -> str | None:
    """Why `package` cannot be imported, or `None` if it can."""
    if importlib.util.find_spec(package) is not None:
        return None
    extra = _EXTRAS.get(package)
    command = (
        f'pip install ".[{extra}]", or pip install {package}' if extra else f"pip install {package}"
    )
    return f"the Python package {package} is not installed: {command}"


def require(package: str) -> None:
    """Raise UserError with the pip command if `package` is not installed."""
    reason = missing(package)
    if reason is not None:
        raise UserError(reason)
