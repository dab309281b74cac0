"""The choices of engine="auto", one small JSON file each, in the user's folder.

They lie in `engines/` of that folder (system/home.py), beside downloaded weights. Deleting them is
safe: the next start measures again. Read before: choose.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_lite import __version__
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import AUTO, PRECISIONS, AutoName, EngineName, Precision
from ppcls_lite.inference.spec import checksum
from ppcls_lite.system.files import write_text
from ppcls_lite.system.home import home_folder
from ppcls_lite.system.machine import cpu_model, installed_versions, usable_cores

_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "openvino", "onnxruntime", "onnx")
_SUFFIXES = (".json", ".pdmodel", ".pdiparams", ".onnx")

logger = logging.getLogger("ppcls_lite")


@dataclass(frozen=True)
class Choice:
    """What was chosen and why."""

    engine: EngineName
    precision: Precision
    model: Path  # the folder or ONNX file that it runs
    milliseconds: dict[str, float]  # of each contender, as "openvino fp32"; of what, `by` says
    left_out: dict[str, str]  # why an engine with a precision was not measured
    remembered: bool = False  # it comes from the cache
    by: AutoName = "auto"

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.2f}" for name, ms in self.milliseconds.items())
        reasons = dict.fromkeys(self.left_out.values())
        out = "; ".join(
            f"{', '.join(name for name, why in self.left_out.items() if why == reason)}: {reason}"
            for reason in reasons
        )
        return (
            f"auto: {self.engine} {self.precision}"
            + (f", the fastest that is right ({_MEASURED[self.by]}: {times})" if times else "")
            + (f"; left out: {out}" if out else "")
            + ("; as measured before" if self.remembered else "")
        )


_MEASURED: dict[AutoName, str] = {
    "auto": "ms",
    "auto-p99": "ms within which 99 of 100 answers came while several waited",
}


def cache_folder() -> Path:
    """Where the user's choices are kept."""
    return home_folder() / "engines"


class ChoiceCache:
    """Reads and writes choices in `folder`; a folder that cannot be written costs only time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(
        self,
        model: Path,
        shape: Sequence[int],
        threads: int,
        precision: str | None,
        by: AutoName = "auto",
    ) -> str:
        """What a choice depends on, as 24 hexadecimal digits: model, machine and versions."""
        files = [model] if model.is_file() else sorted(model.iterdir())
        hashes = [
            [file.name, hashlib.sha256(file.read_bytes()).hexdigest()]
            for file in files
            if file.suffix in _SUFFIXES
        ]
        parts = [hashes, list(shape), threads, precision, cpu_model(), usable_cores(), _versions()]
        parts += [by] if by != AUTO[0] else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def read(self, key: str, model: Path) -> Choice | None:
        """The choice of that key, or `None`."""
        path = self.folder / f"{key}.json"
        try:
            choice = self._parsed(json.loads(path.read_text(encoding="utf-8")), model)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("auto: %s cannot be read (%s); measuring again", path, error)
            return None
        return choice if choice.model.exists() else None

    def _parsed(self, known: dict[str, Any], model: Path) -> Choice:
        """The choice in a file's content; one of several errors if it is none."""
        name, precision, converted = known["engine"], known["precision"], known["converted"]
        if precision not in PRECISIONS[name]:
            raise ValueError(f"{name} has no {precision}")
        if converted is not None:
            if Path(converted).name != converted:
                raise ValueError(f"{converted!r} is no file's name")
            self._require_whole(self.folder / converted, known.get("sha256"))
        times = {str(key): float(ms) for key, ms in known["milliseconds"].items()}
        left_out = {str(key): str(reason) for key, reason in known["left_out"].items()}
        source = self.folder / converted if converted else model
        by = known.get("by", AUTO[0])
        if by not in AUTO:
            raise ValueError(f"{by!r} is none of {', '.join(AUTO)}")
        return Choice(name, precision, source, times, left_out, remembered=True, by=by)

    def _require_whole(self, converted: Path, expected: str | None) -> None:
        """Remove a converted network that is damaged, so that it is converted again."""
        if expected is not None and checksum(converted) != expected:
            converted.unlink()
            raise ValueError(f"{converted.name} is damaged")

    def write(self, key: str, model: Path, choice: Choice) -> None:
        """Keep the choice, as a whole or not at all."""
        content = {
            "engine": choice.engine,
            "precision": choice.precision,
            "converted": choice.model.name if choice.model != model else None,
            "sha256": checksum(choice.model) if choice.model != model else None,
            "milliseconds": choice.milliseconds,
            "left_out": choice.left_out,
            "by": choice.by,
            "model": str(model.resolve()),
            "cpu": cpu_model(),
            "versions": _versions(),
        }
        path = self.folder / f"{key}.json"
        try:
            write_text(path, json.dumps(content, indent=1))
        except UserError as error:
            logger.warning("auto: the choice is not remembered: %s", error)


def _versions() -> dict[str, str]:
    return {"ppcls_lite": __version__} | installed_versions(_PACKAGES)
