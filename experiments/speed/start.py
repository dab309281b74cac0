"""Cold start: from the start of a process to its first answer, for each engine that is installed.

Every round starts one process for each contender, in turns: Python, the toolkit, the engine and the
network are loaded, and one photograph is answered. OpenVINO takes part twice, with a folder of
compiled networks that holds this one already, and with an empty one.
Read next: ppcls_lite/inference/engines/compiled_cache.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import available_engines
from ppcls_lite.system.home import VARIABLE
from ppcls_lite.system.processes import environment
from ppcls_lite.system.timing import in_turns

EMPTY = "openvino, nothing kept"
PROGRAM = """
import sys
import numpy as np
from ppcls_lite.inference.predictor import Predictor
with Predictor(sys.argv[1], engine=sys.argv[2], threads=int(sys.argv[3])) as predictor:
    predictor.predict(np.zeros((375, 500, 3), np.uint8))
    print(flush=True)
"""


def run(argv: Sequence[str]) -> int:
    """Measure and print; exit status 1 if the fastest engine takes longer than `--at-most`."""
    options = _parser().parse_args(argv)
    engines = [name for name, reason in available_engines().items() if reason is None]
    with tempfile.TemporaryDirectory() as folder:
        contenders = {name: partial(_start, options, name, Path(folder)) for name in engines}
        if "openvino" in engines:
            contenders[EMPTY] = partial(_start_empty, options)
        found = in_turns(contenders, options.rounds)
    print(
        f"{options.model}, {options.threads} threads, medians of {options.rounds} starts, seconds"
    )
    print(f"{'':26}{'by the clock':>14}{'of processor':>14}")
    medians = {}
    for name, measured in found.items():
        medians[name], spent = map(statistics.median, zip(*measured))
        print(f"{name:26}{medians[name]:14.2f}{spent:14.2f}")
    return int(min(medians.values()) > options.at_most)


def _start(options: argparse.Namespace, engine: str, home: Path) -> tuple[float, float]:
    """Seconds until the first answer, by the clock, and of the processor until the process ends."""
    command = [sys.executable, "-c", PROGRAM, str(options.model), engine, str(options.threads)]
    before, began = os.times(), time.perf_counter()
    variables = environment(**{VARIABLE: str(home), "PYTHONWARNINGS": "ignore"})
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE) as child:
        line = child.stdout.readline()
        passed = time.perf_counter() - began
    if not line:
        raise UserError(f"engine {engine} gave no answer; its message is above")
    after = os.times()
    spent = after.children_user + after.children_system
    return passed, spent - before.children_user - before.children_system


def _start_empty(options: argparse.Namespace) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as home:
        return _start(options, "openvino", Path(home))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py start", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="exported with --format both")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    add("--rounds", type=int, default=5, metavar="N", help="starts of each, after a first one (5)")
    text = "seconds by the clock that the fastest engine may take (no limit)"
    add("--at-most", type=float, default=float("inf"), metavar="S", help=text)
    return parser
