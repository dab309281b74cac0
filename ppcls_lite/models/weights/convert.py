"""Weights between `.pdparams` and other formats: safetensors both ways, ONNX of a network in.

Keys and layouts stay Paddle's (linear weights are stored (in, out)); safetensors files need no
unpickler at all and can be read by other frameworks. Read next: onnx_import.py, load.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.config.file import parse_value
from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.load import find_weights, read_state, write_state
from ppcls_lite.system.files import write_bytes
from ppcls_lite.system.installed import require


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Key -> array of a safetensors file. `UserError` when it is missing or not of that format."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    require("safetensors")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path} could not be read as safetensors: {error}") from None


def write_safetensors(path: str | Path, state: dict[str, np.ndarray]) -> None:
    """Write arrays as a safetensors file, whole or not at all."""
    require("safetensors")
    from safetensors.numpy import save

    write_bytes(path, save({k: np.ascontiguousarray(v) for k, v in state.items()}))


class Converted(NamedTuple):
    """How many arrays were written, and the arguments of the network that takes them."""

    arrays: int
    arguments: dict[str, Any]


def convert(
    source: str | Path,
    target: str | Path,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Converted:
    """Convert a file of weights; the suffixes name the formats.

    source: `.pdparams` (may be left out), `.safetensors` or `.onnx`; the last needs `arch`, the
    zoo name of the network it was exported from, and the `arguments` that it was built with, if
    they are not the usual ones nor seen in the graph, as strides are. target: `.pdparams` or
    `.safetensors`.
    """
    source, target = Path(source), Path(target)
    told = dict(arguments or {})
    if source.suffix not in (".onnx", ".safetensors"):
        source = find_weights(source)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: is the source itself; name another file for the result")
    if target.suffix not in (".pdparams", ".safetensors"):
        raise UserError(f"{target}: the result is .pdparams or .safetensors, not {target.suffix!r}")
    if source.suffix == ".onnx":
        from ppcls_lite.models.weights.onnx_import import read_onnx

        if arch is None:
            raise UserError(f"{source}: --arch is needed, for example --arch PPLCNet_x1_0")
        state, found = read_onnx(source, arch, arguments)
        told |= found
    elif source.suffix == ".safetensors":
        state = read_safetensors(source)
    else:
        state = read_state(source)
    if target.suffix == ".safetensors":
        write_safetensors(target, state)
    else:
        write_state(target, state)
    return Converted(len(state), told)


def run(argv: list[str]) -> None:
    """`ppcls-lite convert`."""
    options = argparse.ArgumentParser(
        prog="ppcls-lite convert", description="Convert weights; the suffixes name the formats."
    )
    options.add_argument("source", help=".pdparams, .safetensors or .onnx")
    options.add_argument("target", help=".pdparams or .safetensors")
    options.add_argument("--arch", help="zoo name of the network, needed for .onnx")
    text = "and its arguments, as in a recipe's Arch: stride_list=[2,[2,1],[2,1],[2,1],[2,1]]"
    options.add_argument("--arch-args", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    args = options.parse_args(argv)
    arrays, told = convert(args.source, args.target, args.arch, _arguments(args.arch_args))
    print(f"{args.target}: {arrays} arrays from {args.source}")
    if told:
        print(f"for {args.arch} with {', '.join(f'{k}: {json.dumps(v)}' for k, v in told.items())}")


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts as arguments; the values are YAML."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier() or key == "class_num":
            raise UserError(f"--arch-args: expected KEY=VALUE, as in Arch, found {pair!r:.80}")
        found[key] = parse_value(value)
    return found
