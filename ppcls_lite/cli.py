"""The command line, `ppcls-lite COMMAND`, and behind it the scripts of tools/ and deploy/.

A command's module is imported when it is called, because most of them are heavy. A user's mistake
ends with one message and a non-zero exit status, without a traceback.
Read next: recipe/cli.py, which has train, eval, infer and export.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_lite.engine.signals import interruption, termination
from ppcls_lite.errors import Terminated, UserError
from ppcls_lite.system.terminal import drop_output, escape_unknown_letters, printable

INTERRUPTED = 130  # the shell's status for Ctrl-C


class Command(NamedTuple):
    """One subcommand: `module:function(argv)`, its arguments in short, and what it does."""

    run: str
    usage: str
    about: str


_RECIPE = "-c FILE [-o key=value ...]"
COMMANDS = {
    "fit": Command("fit.cli:run", "PHOTOS", "from a folder of photographs to an exported network"),
    "train": Command("recipe.cli:train", _RECIPE, "train the network of a recipe"),
    "lr": Command("recipe.cli:lr", _RECIPE, "try learning rates and suggest one, before training"),
    "tune": Command(
        "recipe.tune_cli:run", "-c FILE --try KEY=A,B ...", "find good settings of a recipe"
    ),
    "runs": Command("engine.runs_cli:run", "[FOLDER] [--json | --csv]", "list runs, best first"),
    "check": Command(
        "recipe.cli:check", "DATA | -c FILE", "look through a folder of images, or a recipe's data"
    ),
    "suspects": Command(
        "recipe.cli:suspects", "DATA | -c FILE", "name labels that are likely wrong"
    ),
    "eval": Command("recipe.cli:evaluate", _RECIPE, "score weights on the recipe's Eval data"),
    "report": Command("recipe.cli:report", "RUN [--model DIR]", "write one page about a run"),
    "explain": Command(
        "recipe.cli:explain", "-c RUN IMAGE ...", "show where an image's class was found"
    ),
    "infer": Command("recipe.cli:infer", _RECIPE, "predict the recipe's Infer images"),
    "export": Command("recipe.cli:export", _RECIPE, "write an inference model and check it"),
    "config": Command(
        "config.cli:run", "-c FILE | --list [KIND]", "print a resolved recipe, or every component"
    ),
    "convert-config": Command(
        "config.convert.cli:run", "FILE [--output FILE]", "a recipe of PaddleSeg as one of ours"
    ),
    "predict": Command(
        "inference.cli.predict:run", "--model DIR --input PATH", "run an exported model"
    ),
    "predict-many": Command(
        "inference.cli.predict_many:run",
        "--model DIR --input LIST ...",
        "the same for millions of images, by processes and machines",
    ),
    "serve": Command(
        "serve.cli:run", "--model DIR", "answer images over HTTP (extra: pip install .[serve])"
    ),
    "quantize": Command(
        "recipe.cli:quantize",
        "--model DIR --calibration ...",
        "add an int8 network to an exported model",
    ),
    "benchmark": Command(
        "benchmark.cli:run", "--model DIR | --arch NAME", "measure latencies on this machine"
    ),
    "search": Command(
        "search.cli:run",
        "-c FILE --latency MS",
        "look for the network that fits a latency on this machine",
    ),
    "prepare": Command(
        "data.prepare.cli:run", "digits | folder DIR | ...", "write the lists that training reads"
    ),
    "select": Command(
        "distill.selection:run",
        "TEACHER POOL --output DIR",
        "choose images without labels to distil on",
    ),
    "convert": Command(
        "models.weights.convert:run",
        "SOURCE TARGET",
        "convert weights to and from safetensors (extra: .[convert])",
    ),
    "zoo": Command(
        "models.zoo_table:run", "['PPLCNet*'] [--check]", "list the networks and their costs"
    ),
    "completion": Command(
        "completion:run", "bash | zsh", "print a script that completes commands and options"
    ),
}

_FREE, _RIGHTS = "free disk space", "check its rights, or name another place"
_LITTLE = 2**20  # bytes; a disk with less counts as full
_REMEDIES = {  # of what the system refuses, where no message of ours came first
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOTDIR: "name another place",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another place",
    errno.ENAMETOOLONG: "give a shorter name",
}
_DIGITS = "-c configs/quickstart/digits.yaml"
_BEST = f"{_DIGITS} -o Global.pretrained_model=output/digits/PPLCNet_x0_25/best_model"
EXAMPLES = {  # what `--help` ends with: arguments for the files of the quick start
    "fit": "dataset/photos --epochs 20 --size 160",
    "train": f"{_DIGITS} -o Global.epochs=3",
    "lr": _DIGITS,
    "tune": f"{_DIGITS} --try Optimizer.lr.learning_rate=0.03,0.1,0.3",
    "runs": "output --csv",
    "check": "dataset/photos --output output/check",
    "suspects": "dataset/photos --output output/suspects",
    "eval": _BEST,
    "report": "output/digits/PPLCNet_x0_25 --model inference/digits",
    "explain": f"{_DIGITS} dataset/digits/val/0005_5.png",
    "infer": _BEST,
    "export": _BEST,
    "config": "--list transform",
    "convert-config": "pp_liteseg.yml --output configs/mine.yaml",
    "predict": "--model inference/digits --input dataset/digits/val --output answers.csv",
    "predict-many": "--model inference/digits --input dataset/digits/val_list.txt "
    "--output output/answers",
    "serve": "--model inference/digits --port 8080 --threads 2",
    "quantize": "--model inference/digits --calibration dataset/digits/train "
    "--evaluate dataset/digits/val_list.txt",
    "benchmark": "--arch PPLCNet_x0_5 PPLCNet_x1_0 --threads 1 2",
    "search": f"{_DIGITS} -o Arch.name=PPLCNet --latency 0.4ms --minutes 30",
    "prepare": "folder dataset/photos --val 0.2",
    "select": "inference/teacher dataset/pool --output dataset/chosen",
    "convert": "PPLCNet_x0_5.pdparams PPLCNet_x0_5.safetensors",
    "zoo": "'PPLCNet*'",
    "completion": "bash > ~/.local/share/bash-completion/completions/ppcls-lite",
}


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
        near = difflib.get_close_matches(command[:100], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        text = f"error: there is no command {command[:100]!r}{hint}\n\n{_overview()}"
        print(text, file=sys.stderr)
        return 2
    try:
        return guarded(lambda rest: _function(COMMANDS[command].run)(rest), rest)
    except SystemExit as end:
        if not end.code and {"-h", "--help"} & {*rest}:
            example = f"\nexample:\n  ppcls-lite {command} {EXAMPLES[command]}"
            guarded(lambda rest: print(example), rest)  # for `--help | head` as well
        raise


def _function(place: str) -> Callable[[list[str]], int | None]:
    """What `module:function` below this package names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)


def guarded(run: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Call `run(argv)`; print a user's mistake as one message and return its exit status."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ side: errors only
    escape_unknown_letters()
    try:
        with interruption(), termination():
            status = run(argv) or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {printable(str(error), lines=True)}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == __package__:
            raise  # ours: a bug
        hint = "pip install -r requirements.txt, or activate the environment that has it"
        print(f"error: the Python package {error.name} is not installed: {hint}", file=sys.stderr)
        return 1
    except Terminated as end:
        print("terminated", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, e.g. `... | head`
        drop_output()
        return 1
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        drop_output()
        name = error.filename or (_full_place(argv) if remedy is _FREE else None)
        place = "" if name is None else f"{name}: "
        print(printable(f"error: {place}{error.strerror}; {remedy}"), file=sys.stderr)
        return 1


def _full_place(argv: Sequence[str]) -> str | None:
    """A place on a full disk that the command may have written to; an OSError of it has no name."""
    values = [word.rpartition("=")[2] for word in argv]
    named = [Path(value).absolute() for value in values if os.sep in value]
    for place in (*named, Path.cwd(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            there = next(path for path in (place, *place.parents) if path.exists())
            if shutil.disk_usage(there).free < _LITTLE:
                return str(place)
    return None


def _overview() -> str:
    lines = [f"  {name:15}{c.usage:32}{c.about}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ppcls-lite COMMAND [options]\n",
            *lines,
            "\n`ppcls-lite COMMAND --help` says more; --version says which version this is.",
            f"Recipes: {Path('configs')}/*.yaml",
        ]
    )
