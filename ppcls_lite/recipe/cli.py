"""The commands of a recipe: `ppcls-lite train|lr|check|eval|infer|export -c FILE [-o KEY=VALUE]`.

Paddle is imported after the recipe has been found to be right, so that mistakes show at once; on a
CPU a process takes its cores before. Read next: train.py, evaluate.py, infer.py, export.py.
"""

from __future__ import annotations

import argparse
import shutil
from typing import TYPE_CHECKING

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.engine import ranks
from ppcls_lite.errors import ConfigError
from ppcls_lite.inference.cli.options import not_negative, positive
from ppcls_lite.system import cores, launchers
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.processes import toolkit_command

if TYPE_CHECKING:
    from ppcls_lite.inference.quantize.report import Evaluation, Labelled
    from ppcls_lite.inference.spec import InferenceSpec


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
    return Recipe.of(load_config(args.config, args.override))


def train(argv: list[str]) -> int:
    """`ppcls-lite train`; returns the exit status, which tells a scheduler to start it again."""
    args = parser("train", "Train the network of a recipe.").parse_args(argv)
    recipe = _checked(args)
    processes = _cpu_processes(recipe)
    if processes > 1:
        return ranks.run(processes, toolkit_command(["train", *argv, "-o", "Global.device=cpu"]))
    cores.claim()
    from ppcls_lite.recipe import train as command

    return command.train(recipe).exit_code


def _cpu_processes(recipe: Recipe) -> int:
    """How many processes `Global.cpu_processes` wants this one to start; 1 for none."""
    run, data = recipe.settings.Global, recipe.settings.DataLoader
    if launchers.processes() > 1 or run.cpu_processes == 1 or data is None or data.Train is None:
        return 1
    if run.device == "gpu":
        raise ConfigError("Global.cpu_processes: is for a CPU, but Global.device is gpu")
    total = data.Train.sampler.get(ranks.size_key(data.Train.sampler.entry.arguments))
    return ranks.resolve(run.cpu_processes, total, usable_cores())


def lr(argv: list[str]) -> int:
    """`ppcls-lite lr`; returns 1 if there is nothing to suggest."""
    options = parser("lr", "Try learning rates, a batch each, and suggest one; trains nothing.")
    rate = {"type": not_negative, "metavar": "RATE"}
    options.add_argument("--low", default=1e-5, help="the first rate (1e-5)", **rate)
    options.add_argument("--high", default=10.0, help="the last rate (10)", **rate)
    options.add_argument("--steps", type=positive, default=240, help="updates to try (240)")
    args = options.parse_args(argv)
    recipe = _checked(args)
    cores.claim()
    from ppcls_lite.recipe.lr import find_rate
    from ppcls_lite.report.rates import rate_sketch

    found = find_rate(recipe, args.low, args.high, args.steps)
    curve = found.curve
    if curve.rates:
        width = min(shutil.get_terminal_size().columns, 100)
        print(rate_sketch(curve.rates, curve.smoothed, curve.suggestion, width))
    if found.suggestion is None:
        return 1
    if found.stated is not None:
        print(f"To use it: -o Optimizer.lr.learning_rate={found.suggestion:g}")
    return 0


def check(argv: list[str]) -> int:
    """`ppcls-lite check`; returns 1 if there is a mistake in the data."""
    args = parser("check", "Check a recipe, and look through all of its data.").parse_args(argv)
    recipe = _checked(args)
    from ppcls_lite.recipe import check as command

    return command.check(recipe)


def evaluate(argv: list[str]) -> None:
    """`ppcls-lite eval`."""
    args = parser("eval", "Score weights on the recipe's Eval data.").parse_args(argv)
    cores.claim()
    recipe = _checked(args)
    from ppcls_lite.recipe import evaluate as command

    command.evaluate(recipe)


def infer(argv: list[str]) -> int:
    """`ppcls-lite infer`; returns 1 if an image could not be read."""
    args = parser("infer", "Predict the recipe's Infer images without exporting.").parse_args(argv)
    recipe = _checked(args)
    from ppcls_lite.recipe import infer as command

    return command.infer(recipe)


def export(argv: list[str]) -> None:
    """`ppcls-lite export`."""
    options = parser("export", "Write an inference model and check it.")
    formats = {"choices": ("paddle", "onnx", "both"), "default": "paddle"}
    options.add_argument("--format", **formats, help="what to write (paddle)")
    options.add_argument(
        "--with",
        dest="programs",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="further programs, each in a folder of its own; --with-NAME is the same",
    )
    prefix = "--with-"
    apart = [["--with", a[len(prefix) :]] if a.startswith(prefix) else [a] for a in argv]
    args = options.parse_args([word for words in apart for word in words])
    recipe = _checked(args)
    from ppcls_lite.recipe import export as command

    command.export(recipe, args.format, args.programs)


def quantize(argv: list[str]) -> int:
    """`ppcls-lite quantize`, whose scores are a recipe's."""
    from ppcls_lite.inference.cli.quantize import run

    def evaluation(spec: InferenceSpec, source: Labelled | str) -> Evaluation:
        from ppcls_lite.recipe.score import by_list, by_recipe

        return by_recipe(spec, source) if isinstance(source, str) else by_list(spec, source)

    return run(argv, evaluation)
