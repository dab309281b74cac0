"""Weights between `.pdparams` and other formats: safetensors both ways, ONNX of a network in.

Keys and layouts stay Paddle's (linear weights are stored (in, out)) unless timm's are asked for;
a safetensors file with timm's names is recognised. Read next: torch_names.py, onnx_import.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ppcls_lite.config.file import parse_value
from ppcls_lite.config.timm import TIMM, TimmNetwork
from ppcls_lite.errors import UserError
from ppcls_lite.models.network import Network
from ppcls_lite.models.weights.load import find_weights, read_state, write_state
from ppcls_lite.models.weights.safetensors_file import write_safetensors
from ppcls_lite.models.weights.torch_names import (
    of_torch,
    of_transformers,
    to_ours,
    to_theirs,
)


class Converted(NamedTuple):
    """How many arrays were written, and the arguments of the network that takes them."""

    arrays: int
    arguments: dict[str, Any]


def convert(
    source: str | Path,
    target: str | Path,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    names: Literal["own", "timm", "transformers"] = "own",
) -> Converted:
    """Convert a file of weights; the suffixes name the formats.

    source: `.pdparams` (may be left out), `.safetensors` or `.onnx`; the last needs `arch`, the
    zoo name of the network it was exported from, and the `arguments` that it was built with, if
    they are not the usual ones nor seen in the graph, as strides are. A file with timm's names
    needs `arch`, too, and so does `names` "timm" or "transformers", which writes them. target:
    `.pdparams` or `.safetensors`.
    """
    source, target = Path(source), Path(target)
    told = dict(arguments or {})
    if source.suffix not in (".onnx", ".safetensors"):
        source = find_weights(source)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: is the source itself; name another file for the result")
    if target.suffix not in (".pdparams", ".safetensors"):
        raise UserError(f"{target}: the result is .pdparams or .safetensors, not {target.suffix!r}")
    state = None if source.suffix == ".onnx" else read_state(source)
    foreign = state is None or of_torch(state)
    if arch is None and (foreign or names != "own"):
        raise UserError(f"{source}: --arch is needed, for example --arch PPLCNet_x1_0")
    if state is None:
        from ppcls_lite.models.weights.onnx_import import read_onnx

        state, found = read_onnx(source, arch, arguments)
        told |= found
    elif foreign:
        told = told if of_transformers(state) else {**_timm(arch)[1].options, **told}
        state = to_ours(_network(arch, told), state)
    if names == "timm":
        state = _as_timm(state, arch, told)
    elif names == "transformers":
        state = to_theirs(_network(arch, told), state, transformers=True)
    if target.suffix == ".safetensors":
        write_safetensors(target, state)
    else:
        write_state(target, state)
    return Converted(len(state), told)


def _network(arch: str, arguments: Mapping[str, Any]) -> Network:
    from ppcls_lite.models.create import create_model

    return create_model(arch, **arguments)


def _timm(arch: str) -> tuple[str, TimmNetwork]:
    """timm's name of a network of the zoo, and what makes it that."""
    found = next(((name, row) for name, row in TIMM.items() if row.ours == arch), None)
    if found is None:
        known = ", ".join(sorted({row.ours for row in TIMM.values()}))
        raise UserError(f"timm has no network like {arch}; it has those of {known}")
    return found


def _as_timm(
    state: Mapping[str, np.ndarray], arch: str, arguments: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Under timm's names, for timm's network, which may differ from the one of the weights.

    Its dropout leaves the features of evaluation as they are, ours multiplies them, unless asked
    not to: the factor goes into the classifier. A missing bias is one of zeros.
    """
    name, network = _timm(arch)
    if "last_conv.bias" in state and not arguments:  # none but timm's has one
        arguments = dict(network.options)
    for key, value in network.options.items():
        if key not in ("last_conv_bias", "dropout_mode") and arguments.get(key) != value:
            raise UserError(
                f"timm's {name} has {key}={value}, the network of these weights has not, as far as "
                f"--arch-args says: they would give other answers there"
            )
    model, state = _network(arch, arguments), dict(state)
    if "last_conv_bias" in network.options and "last_conv.bias" not in state:
        state["last_conv.bias"] = np.zeros(len(state["last_conv.weight"]), np.float32)
    if arguments.get("dropout_mode") != network.options.get("dropout_mode"):
        state["fc.weight"] = (state["fc.weight"] * (1 - model.dropout.p)).astype(np.float32)
    return to_theirs(model, state)


def run(argv: list[str]) -> None:
    """`ppcls-lite convert`."""
    options = argparse.ArgumentParser(
        prog="ppcls-lite convert", description="Convert weights; the suffixes name the formats."
    )
    options.add_argument("source", metavar="SOURCE", help=".pdparams, .safetensors or .onnx")
    options.add_argument("target", metavar="TARGET", help=".pdparams or .safetensors")
    options.add_argument(
        "--arch", metavar="NAME", help="zoo name of the network, needed for .onnx and timm's names"
    )
    text = "its arguments, as in a recipe's Arch: stride_list=[2,[2,1],[2,1],[2,1],[2,1]]"
    options.add_argument("--arch-args", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    text = "names of the parameters in the result: Paddle's (own), or those of another toolkit"
    options.add_argument(
        "--names", choices=("own", "timm", "transformers"), default="own", help=text
    )
    args = options.parse_args(argv)
    arguments = _arguments(args.arch_args)
    arrays, told = convert(args.source, args.target, args.arch, arguments, args.names)
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
