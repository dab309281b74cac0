"""The options `--epochs`, `--lr`, ... of `train` and `fit`: short words for keys of a recipe.

A new one is a row of `SHORTCUTS`. Read next: file.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple


class Shortcut(NamedTuple):
    """option, the key that it stands for, what its value is, and the help's words."""

    option: str
    key: str
    type: Callable[[str], Any]
    metavar: str
    about: str


SHORTCUTS = (
    Shortcut("--epochs", "Global.epochs", int, "N", "passes over the training images"),
    Shortcut("--lr", "Optimizer.lr.learning_rate", float, "RATE", "the learning rate"),
    Shortcut("--size", "Global.image_size", int, "PIXELS", "edge of the images the network sees"),
    Shortcut("--batch", "DataLoader.Train.sampler.batch_size", int, "N", "images an update"),
    Shortcut("--model", "Arch.name", str, "NAME", "the network; ppcls-lite zoo lists them"),
    Shortcut("--minutes", "Global.max_minutes", float, "N", "end the training after so long"),
)


def add_shortcuts(parser: argparse.ArgumentParser) -> None:
    """The options; what they leave out is the recipe's."""
    for row in SHORTCUTS:
        text = f"{row.about} (as the recipe says): {row.key}"
        parser.add_argument(row.option, type=row.type, metavar=row.metavar, help=text)


def overrides(args: argparse.Namespace) -> tuple[str, ...]:
    """The options that were given, as `path.to.key=value`."""
    given = ((row, getattr(args, row.option[2:])) for row in SHORTCUTS)
    return tuple(f"{row.key}={value}" for row, value in given if value is not None)
