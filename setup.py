"""Packaging: the library, its recipes (configs/) and label files, and the `ppcls-lite` command.

What never changes (name, description, licence) is in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def lines_of(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    # The recipes live at the top of the repository and travel inside the package.
    packages=[*find_packages(include=["ppcls_lite", "ppcls_lite.*"]), "ppcls_lite.configs"],
    package_dir={"ppcls_lite.configs": "configs"},
    include_package_data=False,  # what is said here, and no more
    package_data={
        "ppcls_lite": [
            "py.typed",
            "label_lists/*.txt",
            "serve/page/*",
            "report/page/*",
            "kernels/source/*",
        ],
        "ppcls_lite.configs": ["**/*.yaml"],
    },
    install_requires=lines_of("requirements.txt"),
    extras_require={
        "digits": ["scikit-learn>=1.3"],
        "detection": ["faster-coco-eval>=1.6"],
        "hub": ["huggingface_hub>=0.20", "safetensors>=0.4"],
        "convert": ["safetensors>=0.4", "onnx>=1.15"],
        "onnx": ["onnx>=1.15"],
        "openvino": ["openvino>=2024.4"],
        "onnxruntime": ["onnxruntime>=1.18"],
        "multispectral": ["tifffile>=2023.1"],
        "serve": [
            "starlette>=0.37",
            "uvicorn>=0.30",
            "httptools>=0.6",
            "python-multipart>=0.0.13",
            "prometheus-client>=0.20",
        ],
        "tensorboard": ["tensorboardX>=2.6", "tensorboard>=2.14"],
        "mlflow": ["mlflow>=2.9"],
        "wandb": ["wandb>=0.16"],
        "shards": ["fsspec[http]>=2024.2"],
        "s3": ["s3fs>=2024.2"],
        "ray": ["ray[data]>=2.40"],
        "docs": ["sphinx>=7.4", "myst-parser>=4", "furo>=2024.8"],
        "test": lines_of("tests/requirements.txt"),
    },
    entry_points={"console_scripts": ["ppcls-lite = ppcls_lite.cli:main"]},
)
