"""`ppcls-lite search -c RECIPE --latency 1.5ms`: the command line. Read next: run.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ppcls_lite.benchmark.budget import read_milliseconds
from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import thread_count
from ppcls_lite.recipe.cli import parser
from ppcls_lite.system import cores
from ppcls_lite.system.machine import default_threads, usable_processors
from ppcls_lite.system.outputs import output_folder


def run(argv: Sequence[str]) -> int:
    """The command; 0 when a network was found."""
    options = _parser().parse_args(argv)
    target = _target(options.latency)
    recipe = Recipe.of(load_config(options.config, options.override))
    threads = options.threads or default_threads()
    usable = usable_processors()
    if threads > len(usable):
        raise UserError(f"--threads: expected at most {len(usable)}, found {threads}")
    cores.claim()
    from ppcls_lite.benchmark.result import Setting
    from ppcls_lite.engine import log
    from ppcls_lite.inference.engines import EngineChoice
    from ppcls_lite.search import report
    from ppcls_lite.search.budget import AUTO
    from ppcls_lite.search.run import search

    auto = options.engine == AUTO
    precision = options.precision or ("any" if auto else "fp32")
    EngineChoice(options.engine, options.precision, threads)  # is it to be had here?
    setting = Setting(options.engine, precision, threads)
    folder = options.output
    log.setup()
    minutes = options.minutes
    if minutes is not None and not 0 < minutes < 100_000:  # nor NaN
        raise UserError(f"--minutes: expected a number above 0, found {minutes}")
    result = search(recipe, target, setting, usable[:threads], folder, minutes)
    if not result.is_main:
        return 0
    written = [folder / "recipe.yaml", *report.write(result, folder)]
    print(f"\n{report.text(result, folder)}")
    for path in written:
        print(f"wrote {path}")
    return 0


def _target(text: str) -> float | str:
    """Milliseconds, or a network's name, which begins with a letter."""
    if text[:1].isalpha():
        return text
    try:
        return read_milliseconds(text)
    except ValueError as error:
        network = "or a network as in PPLCNet_x0_5"
        raise UserError(f"--latency: {error} ({network})") from None


def _parser() -> argparse.ArgumentParser:
    options = parser(
        "search",
        "Look for the network that fits a latency on this machine and does best on a recipe's "
        "data. Started again with the same --output, it goes on where it was interrupted.",
    )
    latency = (
        "milliseconds for one image, e.g. 1.5ms, or the name of a network that takes as long here, "
        "e.g. PPLCNet_x0_5; a network found takes at most 3%% more"
    )
    options.add_argument("--latency", required=True, metavar="MS|NETWORK", help=latency)
    length = "minutes that it may take, about (null: as long as the recipe's Search says)"
    options.add_argument("--minutes", type=float, metavar="N", help=length)
    engines = {"choices": ("auto", "paddle", "openvino", "onnxruntime"), "default": "auto"}
    what = "what will run the network; auto: what is fastest here (%(default)s)"
    options.add_argument("--engine", **engines, help=what)
    of = "of an engine's numbers (fp32; auto chooses this as well)"
    options.add_argument("--precision", choices=("fp32", "bf16"), help=of)
    threads = "threads of one run (the usable cores, at most 4)"
    options.add_argument("--threads", type=thread_count, metavar="N", help=threads)
    output = "folder for what is found (%(default)s)"
    default = "output/search"
    options.add_argument(
        *("--output",), type=output_folder, default=default, metavar="DIR", help=output
    )
    return options
