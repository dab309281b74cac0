"""The commands of a recipe: `ppcls-lite train|lr|check|eval|infer|export -c FILE [-o KEY=VALUE]`.

Paddle is imported after the recipe has been found to be right, so that mistakes show at once; on a
CPU a process takes its cores before. Read next: train.py, evaluate.py, infer.py, export.py.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.config.shortcuts import add_shortcuts, overrides
from ppcls_lite.engine import ranks
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.cli.options import not_negative, positive
from ppcls_lite.system import cores, launchers
from ppcls_lite.system.files import free_name
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.outputs import fresh_folder, new_folder, output_folder
from ppcls_lite.system.processes import toolkit_command

if TYPE_CHECKING:
    from ppcls_lite.inference.quantize.report import Evaluation, Labelled
    from ppcls_lite.inference.spec import InferenceSpec


def parser(name: str, about: str, required: bool = True) -> argparse.ArgumentParser:
    """The `-c FILE -o key=value` interface that all recipe commands share."""
    options = argparse.ArgumentParser(prog=f"ppcls-lite {name}", description=about)
    recipe = {"required": required, "metavar": "FILE", "help": "the recipe (YAML)"}
    options.add_argument("-c", "--config", **recipe)
    _add_overrides(options)
    return options


def _add_overrides(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="path.to.key=value",
        help="change one value, e.g. -o DataLoader.Train.sampler.batch_size=64; repeatable",
    )


def _checked(args: argparse.Namespace) -> Recipe:
    """The recipe, free of mistakes: they show before Paddle is imported."""
    return Recipe.of(load_config(args.config, args.override))


def train(argv: list[str]) -> int:
    """`ppcls-lite train`; returns the exit status, which tells a scheduler to start it again."""
    options = parser("train", "Train the network of a recipe.")
    add_shortcuts(options)
    args = options.parse_args(argv)
    args.override += overrides(args)
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
    text = "updates (240, and 720 where these tell nothing)"
    options.add_argument("--steps", type=positive, metavar="N", help=text)
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
        key, rate = "Optimizer.lr.learning_rate", found.suggestion
        print(f"To use it: -o {key}={rate:g}; it is careful. To compare it with higher ones:")
        print(f"  ppcls-lite tune -c {args.config} --try {key}={rate:g},{3 * rate:g},{9 * rate:g}")
    return 0


def check(argv: list[str]) -> int:
    """`ppcls-lite check`; returns 1 if there is a mistake in the data, or anything if strict."""
    options = parser("check", "Look through a folder of images, or a recipe and its data.", False)
    options.add_argument("data", nargs="?", metavar="DATA", help="a folder of images, or a list")
    text = "write check.json and pictures of samples there"
    options.add_argument("--output", type=new_folder, metavar="DIR", help=text)
    text = "look at so many images of each split, evenly spread; 0: at none (20,000)"
    options.add_argument("--images", type=int, default=20_000, metavar="N", help=text)
    text = "write new lists, beside what is there, without copies in both splits"
    options.add_argument("--fix", action="store_true", help=text)
    options.add_argument("--strict", action="store_true", help="end with 1 for warnings as well")
    args = options.parse_args(argv)
    if (args.data is None) == (args.config is None):
        raise UserError("check: give a folder of images, or a recipe with -c FILE, and not both")
    if args.images < 0:
        raise UserError(f"--images: expected 0 or more, found {args.images}")
    recipe = _checked(args) if args.config else None
    from ppcls_lite.data.prepare.next_step import NextStep
    from ppcls_lite.recipe import check as command

    if recipe is not None:
        step = NextStep(args.config, tuple(args.override))
        checked = command.check_recipe(recipe, args.images, step=step)
    else:
        checked = command.check_data(args.data, args.images)
    command.show(checked)
    if args.output:
        written = list(map(str, command.write(checked, args.output)))
        if len(written) > 4:
            written[2:-1] = [f"... {len(written) - 3} more"]
        print(f"\nwritten: {', '.join(written)}")
    if args.fix:
        from ppcls_lite.recipe.new_lists import fix

        print(f"\n{fix(checked)}")
    return int(checked.is_wrong or (args.strict and not checked.is_clean))


def suspects(argv: list[str]) -> int:
    """`ppcls-lite suspects`."""
    about = "Name images whose labels are likely wrong, and write lists by what is decided."
    options = parser("suspects", about, False)
    text = "a folder of sub-folders of classes, or a list"
    options.add_argument("data", nargs="?", metavar="DATA", help=text)
    text = "a new folder for suspects.csv and suspects.png (suspects/DATA)"
    options.add_argument("--output", type=new_folder, metavar="DIR", help=text)
    text = "judge by the features of this network of the zoo, with its official weights"
    options.add_argument("--network", metavar="NAME", help=text)
    text = "the network's weights, instead of the official ones"
    options.add_argument("--weights", metavar="FILE", help=text)
    text = "write new lists by the decisions in a suspects.csv: keep, yes, drop or a class"
    options.add_argument("--apply", type=Path, metavar="CSV", help=text)
    args = options.parse_args(argv)
    if (args.data is None) == (args.config is None):
        raise UserError("suspects: give a folder of images, or a recipe with -c FILE, and not both")
    if args.weights and not args.network:
        raise UserError("--weights: say of which network with --network")
    recipe = _checked(args) if args.config else None
    cores.claim()
    from ppcls_lite.recipe import suspects as command

    data = command.labelled(args.data, recipe)
    if args.apply:
        step, text = command.apply(data, args.apply)
        print(f"{text}\nnext, for example:\n{step}")
        return 0
    name = Path(args.data or args.config).resolve().stem
    names = (free_name(Path("suspects", name), "run") for _ in range(100))
    with fresh_folder(args.output, names) as output:
        found = command.find(data, args.network, args.weights)
        written = command.write(data, found, output)
    print(
        f"{len(data.paths):,} images, {found.right:.1%} of which look like what they are labelled "
        f"to a judge that has not seen them; {len(found.places):,} look like something else, the "
        "most suspicious first:"
    )
    for place, words in list(zip(found.places, command.in_words(data, found)))[:20]:
        print(f"  {data.paths[place]}: {words}")
    print(f"written: {', '.join(map(str, written))}")
    print("next: write yes, drop or a class into the column `decision`, and give it to --apply")
    return 0


def evaluate(argv: list[str]) -> None:
    """`ppcls-lite eval`."""
    args = parser("eval", "Score weights on the recipe's Eval data.").parse_args(argv)
    cores.claim()
    recipe = _checked(args)
    from ppcls_lite.recipe import evaluate as command

    command.evaluate(recipe)


def report(argv: list[str]) -> None:
    """`ppcls-lite report`."""
    about = "Write report.html about a run, evaluating its best weights where that is missing."
    options = argparse.ArgumentParser(prog="ppcls-lite report", description=about)
    options.add_argument("config", metavar="RUN", help="the run's folder, or its recipe")
    _add_overrides(options)
    text = "an exported folder whose size and speed are measured for the page"
    options.add_argument("--model", metavar="DIR", help=text)
    args = options.parse_args(argv)
    cores.claim()
    recipe = _checked(args)
    from ppcls_lite.recipe import report as command

    command.report(recipe, args.model, recipe.settings.Global.plugins)


def explain(argv: list[str]) -> None:
    """`ppcls-lite explain`."""
    about = "Show where in an image a classifier found its class (Grad-CAM)."
    options = argparse.ArgumentParser(prog="ppcls-lite explain", description=about)
    text = "the run's folder, or a recipe"
    options.add_argument("-c", "--config", required=True, metavar="RUN", help=text)
    _add_overrides(options)
    text = "images, folders, or lists of them"
    options.add_argument("images", nargs="+", metavar="IMAGE", help=text)
    text = "the name or number of a class (the best of each image)"
    options.add_argument("--class", dest="wanted", metavar="NAME", help=text)
    text = "where the pictures go (explained)"
    options.add_argument(
        *("--output",), type=output_folder, default="explained", metavar="DIR", help=text
    )
    args = options.parse_args(argv)
    recipe = _checked(args)
    from ppcls_lite.recipe import explain as command

    command.explain(recipe, args.images, args.output, args.wanted)


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
    text = "let scores mean what they say, by a temperature fitted on the Eval data"
    options.add_argument("--calibrate", action="store_true", help=text)
    reject = options.add_mutually_exclusive_group()
    share = {"type": _share, "metavar": "SHARE"}
    text = "answer only where this share of the answers is right, by the Eval data"
    reject.add_argument("--reject-precision", **share, help=text)
    text = "answer only the surest images, this share of them, by the Eval data"
    reject.add_argument("--reject-coverage", **share, help=text)
    options.add_argument(
        "--with",
        dest="programs",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="maps, nms or raw: a further program in a folder of its own; --with-NAME is the same",
    )
    prefix = "--with-"
    apart = [["--with", a[len(prefix) :]] if a.startswith(prefix) else [a] for a in argv]
    args = options.parse_args([word for words in apart for word in words])
    recipe = _checked(args)
    from ppcls_lite.metrics.certainty import Wish
    from ppcls_lite.recipe import export as command

    asked = {name: getattr(args, f"reject_{name}") for name in ("precision", "coverage")}
    wanted = next(((name, share) for name, share in asked.items() if share is not None), None)
    command.export(recipe, args.format, args.programs, Wish(args.calibrate, wanted))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and up to 1, found {text!r}")
    return share


def quantize(argv: list[str]) -> int:
    """`ppcls-lite quantize`, whose scores are a recipe's."""
    from ppcls_lite.inference.cli.quantize import run

    def evaluation(spec: InferenceSpec, source: Labelled | str) -> Evaluation:
        from ppcls_lite.recipe.score import by_list, by_recipe

        return by_recipe(spec, source) if isinstance(source, str) else by_list(spec, source)

    return run(argv, evaluation)
