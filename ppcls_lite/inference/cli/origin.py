"""What made a file of results: the network and the options that change its answers.

It lies beside the results, so that these stay as their readers know them. `--resume` goes on only
where it is the same. Read next: resume.py, predict.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.files import find_onnx, find_program
from ppcls_lite.inference.spec import FILE_NAME, InferenceSpec, checksum
from ppcls_lite.system.files import try_lock, write_text

Origin = dict[str, Any]


def origin_path(output: Path) -> Path:
    """Where the origin of a result file is kept."""
    return output.with_name(f"{output.name}.origin.json")


def origin_of(spec: InferenceSpec, options: dict[str, Any], plugins: Sequence[str]) -> Origin:
    """The part that is known before an engine is loaded; `options` as JSON can hold them."""
    about = dataclasses.replace(spec, checksums={}).text()  # quantize adds a check sum
    return {
        FILE_NAME: hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest(),
        "plugins": [checksum(Path(file).expanduser()) for file in plugins],
        **options,
    }


def run_by(model: Path, engine: str, precision: str) -> Origin:
    """The rest: the engine, and the files of `model` that it runs."""
    if engine == "paddle":
        files = find_program(model)
    else:
        files = (find_onnx(model, "int8" if precision == "int8" else "fp32"),)
    network = [checksum(file) for file in files]
    return {"engine": engine, "precision": precision, "network": network}


def write_origin(output: Path, origin: Origin | None) -> None:
    """Note the origin of a new result file, or that nothing is known about it."""
    path = origin_path(output)
    if origin is None:
        path.unlink(missing_ok=True)
    else:
        write_text(path, json.dumps(origin, indent=1) + "\n")


def require_origin(output: Path, origin: Origin) -> None:
    """UserError if `origin`, or a part of one, is not that of the results in `output`, if any."""
    path, remedy = origin_path(output), "name another file, or leave --resume out to overwrite it"
    if not output.exists() or output.stat().st_size == 0:
        return
    if not path.exists():
        raise UserError(
            f"--resume: {path} is missing, so that nothing says which network and options made "
            f"{output}; {remedy}"
        )
    _require_same(path, origin, f"--resume: {output}", remedy)


def claim_folder(output: Path, origin: Origin) -> None:
    """Note the origin of all results in the folder `output`, which may exist.

    UserError if there are results of another origin, or anything else.
    """
    path, remedy = output / "origin.json", "name a new folder"
    if path.exists():
        _require_same(path, origin, f"--output {output}", remedy)
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: holds something already; {remedy}")
    else:
        write_text(path, json.dumps(origin, indent=1) + "\n")


@contextlib.contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """Let one process at a time write results into a claimed folder; UserError for another."""
    with (output / "origin.json").open("r+", encoding="utf-8") as file:
        if not try_lock(file):
            raise UserError(
                f"--output {output}: another process is writing there; wait for its end, and the "
                "same command does what is left, or name another folder"
            )
        yield


def _require_same(path: Path, origin: Origin, results: str, remedy: str) -> None:
    """UserError about `results` unless the file `path` holds `origin`."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise ValueError("it is no map")
    except (OSError, ValueError) as error:
        raise UserError(f"{results}: {path} cannot be read ({error}); {remedy}") from error
    changed = [key for key in origin if known.get(key) != origin[key]]
    if changed:
        short = {"list", "network", FILE_NAME, "plugins"}  # check sums say nothing to a person
        found = ", ".join(
            f"another {key}" if key in short else f"{key} {known.get(key)}, now {origin[key]}"
            for key in changed
        )
        raise UserError(f"{results} was made otherwise ({found}); {remedy}")
