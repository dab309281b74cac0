"""How long networks take on this machine.

Engines x precisions x threads x batch sizes, for an exported model, some networks of the zoo or all
of it. Each engine setting lives in a process of its own, pinned to as many cores as it has threads;
the contenders take turns. What the figures mean and why they differ: docs/latency.md. Read next:
turns.py (the measurement), report.py (what is said about it).
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ppcls_lite.benchmark import machine as machines
from ppcls_lite.benchmark import models as networks
from ppcls_lite.benchmark import throughput, turns, zoo_command
from ppcls_lite.benchmark.budget import read_milliseconds
from ppcls_lite.benchmark.report import Comparison, Report, text
from ppcls_lite.benchmark.result import PRIMITIVES, Setting
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import MAX_THREADS, available_engines, available_precisions
from ppcls_lite.inference.engines.files import ONNX_NAMES
from ppcls_lite.models.create import list_models
from ppcls_lite.system.outputs import output_folder

TO_COMPARE = ("paddle-default", "paddle-no-mkldnn")
PLAIN = (*TO_COMPARE, "auto")  # have no precision of their own; auto chooses one
MAX_SECONDS = 3600  # of each contender
PRECISIONS = ("fp32", "bf16", "int8")


def run(argv: Sequence[str], comparison: Comparison | None = None) -> int:
    """The command line; 0 when everything was measured. `comparison` adds `--paper`."""
    options = _parser(comparison).parse_args(argv)
    budget = None if options.latency_budget is None else milliseconds(options.latency_budget)
    if options.report:
        zoo_command.report(options, budget)
        return 0
    if options.into:
        raise UserError("--into: goes with --report FILE, whose table it puts into a page")
    if options.mode == "throughput":
        _require_alone(options)
    of_zoo = zoo_command.wanted(options, budget)
    _fill_defaults(options, of_zoo)
    machine = machines.describe()
    cores = _cores(options.cores, machine)
    threads = options.threads or sorted({1, len(machine.cores)})
    _require_positive(
        **{"--threads": threads, "--batch-sizes": options.batch_sizes},
        **{"--rounds": [options.rounds], "--image-size": [options.image_size]},
    )
    if max(threads) > MAX_THREADS:
        raise UserError(f"--threads: expected at most {MAX_THREADS}, found {max(threads)}")
    if not 0 <= options.seconds <= MAX_SECONDS:  # nor NaN
        raise UserError(
            f"--seconds: expected a number from 0 to {MAX_SECONDS}, found {options.seconds}"
        )
    print(machine)
    for warning in machine.warnings(max(threads)):
        print(f"WARNING: {warning}")
    with tempfile.TemporaryDirectory() as temporary:
        kept = options.output or Path(temporary)
        engines, notes = _engines(options.engines, options.model)
        pinned = cores if options.cores or len(cores) >= max(threads) else machine.usable
        if of_zoo:
            settings, more = _settings(engines, options.precisions, threads, False)
            print(*(f"note: {note}" for note in notes + more), sep="\n")
            zoo_command.measure(options, machine, settings, pinned, budget, Path(temporary))
            return 0
        published = comparison.of(options.paper) if comparison and options.paper else None
        models, shape = _models(options, kept / "models", engines, budget, published)
        settings, more = _settings(engines, options.precisions, threads, options.profile)
        for note in (notes := notes + more):
            print(f"note: {note}")
        if options.mode == "throughput":
            where = (shape, machine.usable, Path(temporary))
            of_time = (options.rounds, options.seconds)
            rates = throughput.measure(models, settings, options.batch_sizes, *where, *of_time)
            print("", *throughput.table(rates, len(machine.usable)), sep="\n")
            return 0
        results, profiles = turns.measure(
            models,
            settings,
            options.batch_sizes,
            shape,
            pinned,
            Path(temporary),
            options.rounds,
            options.seconds,
        )
        command = shlex.join(["python", "deploy/benchmark.py", *argv])
        report = Report(machine, command, results, profiles, published, budget, notes)
        print(f"\n{report.render(text)}")
        if options.output:
            for path in report.write(kept):
                print(f"wrote {path}")
    return 0


def _fill_defaults(options: argparse.Namespace, of_zoo: bool) -> None:
    """What the options say that are left out: of the whole zoo less time, and all precisions."""
    rounds, seconds = (zoo_command.ROUNDS, zoo_command.SECONDS) if of_zoo else (5, 0.5)
    precisions = list(PRECISIONS) if of_zoo and options.latency_budget is None else ["fp32"]
    many = [1, 4, 16] if options.mode == "throughput" else [1]
    for name, value in (
        *(("rounds", rounds), ("seconds", seconds), ("precisions", precisions)),
        ("batch_sizes", many),
    ):
        if getattr(options, name) is None:
            setattr(options, name, value)


def _require_alone(options: argparse.Namespace) -> None:
    """UserError for options that mean nothing to a throughput: it uses all cores in every way."""
    for name in ("zoo", "latency_budget", "paper", "threads", "cores", "profile", "output"):
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"--mode throughput: has no {option}; leave one of the two out")


def milliseconds(words: str) -> float:
    """What `--latency-budget` says; UserError if it is no latency."""
    try:
        return read_milliseconds(words)
    except ValueError as error:
        raise UserError(f"--latency-budget: {error}") from None


def _cores(asked: Sequence[int] | None, machine: machines.Machine) -> Sequence[int]:
    """The logical processors to pin to, the first ones for few threads."""
    if not asked:
        return machines.quietest_first(machine.cores)
    if wrong := set(asked) - set(machine.usable):
        usable = ", ".join(map(str, machine.usable))
        raise UserError(f"--cores: {min(wrong)} is not usable here; these are: {usable}")
    return asked


def _require_positive(**values: Iterable[int]) -> None:
    for name, numbers in values.items():
        if wrong := [number for number in numbers if number < 1]:
            raise UserError(f"{name}: expected whole numbers from 1 on, found {wrong[0]}")


def _engines(asked: Sequence[str], models: Sequence[str]) -> tuple[list[str], list[str]]:
    """The engines to measure, and notes on those that are left out.

    The words `installed` and `all` stand for several: all also has `auto` and the settings that
    are there to compare with.
    """
    installed = [name for name, reason in available_engines().items() if reason is None]
    words = {"installed": installed, "all": [*installed, *TO_COMPARE, "auto"]}
    chosen = list(dict.fromkeys(e for name in asked for e in words.get(name, [name])))
    known = {*installed, *TO_COMPARE, "auto"}
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(
            f"--engines: {unknown[0]} is not installed or not known; here are "
            f"{', '.join(sorted(known))}, and the words installed and all"
        )
    if any(word in words for word in asked):  # a name alone is asked for, and may fail
        for model in models:
            lacking = _cannot_run(Path(model)) & (set(chosen) - set(asked))
            if lacking:
                chosen = [name for name in chosen if name not in lacking]
                return chosen, [
                    f"{', '.join(sorted(lacking))}: left out, no file in {model} for it"
                ]
    return chosen, []


def _cannot_run(model: Path) -> set[str]:
    """The engines for which an exported folder has no file."""
    found = set()
    if not (model / ONNX_NAMES["fp32"]).is_file():
        found |= {"openvino", "onnxruntime"}
    if not list(model.glob("*.pdiparams")):
        found |= {"paddle", *TO_COMPARE}
    return found


def _settings(
    engines: Sequence[str], precisions: Sequence[str], threads: Sequence[int], profile: bool
) -> tuple[list[Setting], list[str]]:
    """Every combination that exists, and notes on those that do not."""
    found, notes = [], []
    for engine in engines:
        if engine in PLAIN:
            offered: dict[str, str | None] = {"fp32": None}
            mine = ["any" if engine == "auto" else "fp32"]
        else:
            offered = available_precisions(engine)
            mine = [p for p in precisions if offered[p] is None]
        notes += [reason for p in precisions if (reason := offered.get(p)) is not None]
        found += [Setting(engine, precision, count) for count in threads for precision in mine]
    if profile:
        found += [Setting(PRIMITIVES, "fp32", count) for count in threads]
    if not found:
        raise UserError(
            f"no engine of {', '.join(engines)} offers {', '.join(precisions)} on this machine"
        )
    return found, list(dict.fromkeys(notes))


def _models(
    options: argparse.Namespace,
    folder: Path,
    engines: Sequence[str],
    budget: float | None,
    published: Comparison | None,
) -> tuple[dict[str, Path], tuple[int, int, int]]:
    """Name to exported folder of what is to be measured, and the (C, H, W) of its inputs."""
    if options.model:
        if options.paper or options.zoo or options.arch or budget is not None:
            raise UserError("--model is measured alone; leave out what is about the zoo")
        paths = [Path(name) for name in options.model]
        by_name = {path.name: path for path in paths}
        if len(by_name) < len(paths):  # folders of the same name in different places
            by_name = {str(path): path for path in paths}
        shapes = {networks.image_shape(path, options.image_size) for path in paths}
        if len(shapes) > 1:
            raise UserError(f"--model: the folders take different inputs: {sorted(shapes)}")
        return by_name, shapes.pop()
    names: list[str] = list(options.arch or ())
    if options.zoo is not None:
        names += [name for name in list_models(options.zoo) if name in ZOO]
    if not names and published:
        names = published.names()
    if not names:
        raise UserError(
            "what is to be measured? Give --model FOLDER, --arch NAME, --zoo [PATTERN], or "
            "--latency-budget 2ms"
        )
    if unknown := sorted({*names} - {*list_models()}):
        raise UserError(f"--arch: {unknown[0]!r} is not in the zoo; ppcls-lite zoo lists it")
    formats = ["paddle"]
    of_onnx = {"openvino", "onnxruntime"}
    installed = {name for name, reason in available_engines().items() if reason is None}
    if of_onnx & set(engines) or ("auto" in engines and of_onnx & installed):
        formats.append("onnx")
    if "int8" in options.precisions and "onnx" in formats:
        formats.append("int8")
    names = list(dict.fromkeys(names))
    job = published.job if published and published.job else None
    job = job or networks.Job((options.image_size, options.image_size))
    return networks.prepare(names, folder, job, formats), (3, *job.size)


def _parser(comparison: Comparison | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite benchmark", description=__doc__.split("\n")[0]
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--model", nargs="+", metavar="DIR", help="exported folders", default=())
    what.add_argument(
        "--arch", nargs="+", metavar="NAME", help="networks of the zoo, random weights"
    )
    text = "all networks with a published accuracy, accuracy against latency; or a part of them"
    part = {"nargs": "?", "const": "*", "metavar": "PATTERN", "help": text}
    what.add_argument("--zoo", **part)
    text = "parts of the zoo, for example 'PPLCNet*' 'StarNet*'"
    what.add_argument("--filter", nargs="+", metavar="PATTERN", help=text)
    text = "the table of a zoo.json that was measured before, and a figure beside it"
    what.add_argument("--report", metavar="FILE", help=text)
    text = "put the table of --report into a Markdown page, between its marks"
    what.add_argument("--into", metavar="PAGE", help=text)
    if comparison:
        kinds = {"nargs": "?", "const": comparison.kinds[0], "choices": comparison.kinds}
        what.add_argument("--paper", **kinds, help=comparison.option)
    parser.set_defaults(paper=None)
    text = "list the zoo's networks that take at most so long, as 2ms"
    what.add_argument("--latency-budget", metavar="TIME", help=text)
    how = parser.add_argument_group("how")
    text = (
        "paddle openvino onnxruntime auto paddle-default paddle-no-mkldnn, or the words installed "
        "(the default) and all"
    )
    how.add_argument("--engines", nargs="+", default=["installed"], metavar="ENGINE", help=text)
    several = {"nargs": "+", "type": int, "metavar": "N"}
    text = "numbers that are computed with (fp32; with --zoo all that the machine has)"
    how.add_argument("--precisions", nargs="+", choices=PRECISIONS, help=text)
    how.add_argument("--threads", **several, help="CPU threads (1, and one for each core)")
    how.add_argument("--cores", **several, help="processors to pin to (quiet ones)")
    text = "images at once (1; of throughput 1 4 16)"
    how.add_argument("--batch-sizes", **several, help=text)
    text = "of one process (latency), or images a second of all cores together (throughput)"
    how.add_argument("--mode", choices=("latency", "throughput"), default="latency", help=text)
    how.add_argument("--image-size", type=int, default=224, metavar="N", help="pixels (224)")
    how.add_argument("--rounds", type=int, metavar="N", help="turns of each (5; with --zoo 3)")
    text = "seconds for each in all (0.5; with --zoo 0.3)"
    how.add_argument("--seconds", type=float, metavar="S", help=text)
    how.add_argument("--profile", action="store_true", help="where Paddle's time goes, by oneDNN")
    parser.add_argument(
        *("--output",),
        type=output_folder,
        metavar="DIR",
        help="for latency.* and figure1.png, or zoo.*, and the models",
    )
    return parser
