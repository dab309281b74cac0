"""The command line: `ppcls-lite train|eval|infer|export|predict|config`, and the thin scripts.

Nothing heavy is imported before the arguments and the configuration are found to be right. A
user's mistake ends with one message and a non-zero exit status, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_lite.engine import ranks
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.system import cores
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.processes import toolkit_command

if TYPE_CHECKING:
    from ppcls_lite.config.complete import Recipe

INTERRUPTED = 130  # the shell's status for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help"):
        print(_overview())
        return 0
    if command == "--version":
        from ppcls_lite import __version__

        print(f"ppcls-lite {__version__}")
        return 0
    if command not in COMMANDS:
        print(f"error: there is no command {command!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    return guarded(COMMANDS[command], rest)


def guarded(run: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Call `run(argv)`; print a user's mistake as one message and return its exit status."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ side: errors only
    try:
        return run(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == __package__:
            raise  # ours: a bug
        hint = "pip install -r requirements.txt, or activate the environment that has it"
        print(f"error: the Python package {error.name} is not installed: {hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, e.g. `... | head`
        sys.stderr.close()
        return 1


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """The `-c FILE -o key=value` interface that all recipe commands share."""
    options = argparse.ArgumentParser(prog=f"ppcls-lite {name}", description=about)
    options.add_argument("-c", "--config", required=True, metavar="FILE", help="the recipe (YAML)")
    options.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="path.to.key=value",
        help="change one value, e.g. -o DataLoader.Train.sampler.batch_size=64; repeatable",
    )
    return options


def _checked(args: argparse.Namespace) -> Recipe:
    """The recipe, free of mistakes: they show before Paddle is imported."""
    from ppcls_lite.config.complete import Recipe
    from ppcls_lite.config.file import load_config

    return Recipe.of(load_config(args.config, args.override))


def _train(argv: list[str]) -> int:
    args = parser("train", "Train the network of a recipe.").parse_args(argv)
    recipe = _checked(args)
    processes = _cpu_processes(recipe)
    if processes > 1:
        return ranks.run(processes, toolkit_command(["train", *argv, "-o", "Global.device=cpu"]))
    cores.claim()
    from ppcls_lite.recipe.train import train

    return train(recipe).exit_code


def _cpu_processes(recipe: Recipe) -> int:
    """How many processes `Global.cpu_processes` wants this one to start; 1 for none."""
    run, data = recipe.settings.Global, recipe.settings.DataLoader
    if ranks.started_by_launcher() or run.cpu_processes == 1 or data is None or data.Train is None:
        return 1
    if run.device == "gpu":
        raise ConfigError("Global.cpu_processes: is for a CPU, but Global.device is gpu")
    total = data.Train.sampler.get(ranks.size_key(data.Train.sampler.entry.arguments))
    return ranks.resolve(run.cpu_processes, total, usable_cores())


def _eval(argv: list[str]) -> None:
    args = parser("eval", "Score weights on the recipe's Eval data.").parse_args(argv)
    cores.claim()
    recipe = _checked(args)
    from ppcls_lite.recipe.evaluate import evaluate

    evaluate(recipe)


def _infer(argv: list[str]) -> int:
    args = parser("infer", "Predict the recipe's Infer images without exporting.").parse_args(argv)
    recipe = _checked(args)
    from ppcls_lite.recipe.infer import infer

    return infer(recipe)


def _export(argv: list[str]) -> None:
    options = parser("export", "Write an inference model and check it.")
    formats = {"choices": ("paddle", "onnx", "both"), "default": "paddle"}
    options.add_argument("--format", **formats, help="what to write (paddle)")
    args = options.parse_args(argv)
    recipe = _checked(args)
    from ppcls_lite.recipe.export import export

    export(recipe, args.format)


def _predict(argv: list[str]) -> int:
    from ppcls_lite.inference.cli.predict import run

    return run(argv)


def _benchmark(argv: list[str]) -> int:
    from ppcls_lite.benchmark.cli import run

    return run(argv)


def _serve(argv: list[str]) -> int:
    from ppcls_lite.serve.cli import run

    return run(argv)


def _quantize(argv: list[str]) -> int:
    from ppcls_lite.inference.cli.quantize import run

    return run(argv)


def _prepare(argv: list[str]) -> int:
    from ppcls_lite.data.prepare.cli import run

    return run(argv)


def _config(argv: list[str]) -> None:
    options = argparse.ArgumentParser(
        prog="ppcls-lite config", description="Print a resolved recipe, or every component."
    )
    options.add_argument("-c", "--config", metavar="FILE", help="the recipe (YAML)")
    options.add_argument("-o", "--override", action="append", default=[], metavar="key=value")
    options.add_argument("--list", nargs="?", const="", metavar="KIND", help="list components")
    text = "with --list: files with components of one's own, beside those of the recipe"
    options.add_argument("--plugins", nargs="+", default=[], metavar="FILE", help=text)
    args = options.parse_args(argv)
    from ppcls_lite.config import show as show_config

    if args.list is None and args.config is None:
        options.error("one of -c FILE and --list is needed")
    if args.list is not None:
        own = show_config.plugins(args.config, args.override) if args.config else []
        print(show_config.components(args.list, [*own, *args.plugins]))
    else:
        print(show_config.resolved(args.config, args.override), end="")


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "train": _train,
    "eval": _eval,
    "infer": _infer,
    "export": _export,
    "predict": _predict,
    "benchmark": _benchmark,
    "serve": _serve,
    "quantize": _quantize,
    "prepare": _prepare,
    "config": _config,
}


def _overview() -> str:
    return f"""usage: ppcls-lite COMMAND [options]

  train    -c FILE [-o key=value ...]     train the network of a recipe
  eval     -c FILE [-o key=value ...]     score weights on the recipe's Eval data
  infer    -c FILE [-o key=value ...]     predict the recipe's Infer images
  export   -c FILE [-o key=value ...]     write an inference model and check it
  predict  --model DIR --input PATH       run an exported model with Paddle Inference
  benchmark --model DIR | --arch NAME     measure latencies on this machine
  serve    --model DIR                    answer images over HTTP (extra: pip install .[serve])
  quantize --model DIR --calibration ...  add an int8 network to an exported model
  prepare  digits | folder DIR | ...      write the lists that training reads
  config   -c FILE | --list [KIND]        print a resolved recipe, or every component

`ppcls-lite COMMAND --help` says more. Recipes: {Path("configs")}/*.yaml"""
