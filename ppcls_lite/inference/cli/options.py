"""The options that every command with a Predictor has: which engine, how precise, how many threads.

Read next: predict.py, ppcls_lite/serve/cli.py.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import yaml

from ppcls_lite.config.file import parse_value
from ppcls_lite.config.yaml_reader import reason
from ppcls_lite.inference.engines import AUTO, MAX_THREADS, PRECISIONS


def add_engine_options(parser: argparse.ArgumentParser, threads: int | None = None) -> None:
    """`--model`, `--topk`, and how the network runs, by so many `threads` if nothing is said."""
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="what ppcls-lite export wrote")
    add("--topk", type=positive, metavar="K", help="classes per image (as exported)")
    text = "arguments of the post-processing, as score_threshold=0.3, instead of the exported ones"
    add("--set", nargs="+", default=[], type=_setting, metavar="KEY=VALUE", help=text)
    text = "what runs the network (paddle); auto: the fastest here, auto-p99: under load"
    add("--engine", choices=(*PRECISIONS, *AUTO), default="paddle", help=text)
    precisions = ("fp32", "bf16", "int8")
    text = "numbers that are computed with (fp32; engine auto: the fastest that is right)"
    add("--precision", choices=precisions, help=text)
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where it runs (cpu)")
    text = f"CPU threads ({threads or 'usable cores, at most 4'})"
    add("--threads", type=thread_count, default=threads, metavar="N", help=text)
    add_plugins(parser)
    add("--no-mkldnn", action="store_true", help="run without oneDNN (MKLDNN): slower, to compare")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """`--plugins`: where an exported folder's components come from that are not the package's."""
    text = "files with components of one's own"
    parser.add_argument("--plugins", nargs="+", default=[], metavar="FILE", help=text)


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed options as arguments of `Predictor`, `model_dir` included."""
    same = ("device", "threads", "topk", "engine", "precision", "plugins")
    named = {name: getattr(args, name) for name in same}
    own = {"settings": dict(args.set), "mkldnn": not args.no_mkldnn}
    return {"model_dir": args.model, **own, **named}


def _setting(text: str) -> tuple[str, Any]:
    """An argument `key=value`, the value in YAML."""
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"expected key=value, found {text[:40]!r}")
    try:
        return key, parse_value(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]}: no valid YAML: {reason(error)}") from None


def not_negative(text: str) -> float:
    """An argument that must be a finite number, 0 at least."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, found {text!r}")
    return value


def thread_count(text: str) -> int:
    """An argument that must be a number of threads: too many end a process, or take its memory."""
    count = positive(text)
    if count > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"expected at most {MAX_THREADS} threads, found {text}")
    return count


def positive(text: str) -> int:
    """An argument that must be a whole number from 1 on."""
    if not text.isdecimal() or not int(text[:10]) >= 1 or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text[:40]!r}")
    return int(text)
