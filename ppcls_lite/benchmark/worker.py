"""One engine setting in a process of its own: pinned, loaded once, run when it is its turn.

The process reads one JSON request a line and answers each with one JSON line. Whatever libraries
write to the standard output goes to a file, where the profile finds oneDNN's lines. Nothing that
starts threads is imported before the process is pinned. Read next: turns.py (the other
end), profile.py.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.system.processes import end_with_parent

MARK, END = "ppcls_lite: run", "ppcls_lite: end"  # a line before each run, and after a turn
_WARM = 2  # runs at the beginning of each turn that are not counted
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
Run = Callable[[Any], Any]


def load(
    engine: str, model_dir: str, precision: str, threads: int, shape: list[int]
) -> tuple[Run, str]:
    """Make one engine for inputs of `shape`; the function that runs it, and what it says it is.

    Besides engines there are `paddle-default`, Paddle Inference with oneDNN and nothing else set,
    and `paddle-no-mkldnn`, the same without oneDNN.
    """
    if engine in ("paddle-default", "paddle-no-mkldnn"):
        return _untuned(model_dir, engine == "paddle-default", threads), engine
    from ppcls_lite.inference.engines import make_engine

    if engine == "auto":
        from ppcls_lite.inference.predictor import Predictor

        made = Predictor(model_dir, engine="auto", threads=threads).engine
    else:
        made = make_engine(model_dir, engine, precision, threads, warmup_shape=tuple(shape))
    return made.run, f"{made.name} {made.precision}"


def _untuned(model_dir: str, mkldnn: bool, threads: int) -> Run:
    """Paddle Inference as its shortest example has it."""
    from paddle import inference

    from ppcls_lite.inference.engines.files import find_program

    program, params = find_program(Path(model_dir))
    config = inference.Config(str(program), str(params))
    config.disable_glog_info()
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    if mkldnn:
        config.enable_mkldnn()
    else:
        config.disable_mkldnn()
    predictor = inference.create_predictor(config)
    entry = predictor.get_input_handle(predictor.get_input_names()[0])
    exits = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def run(inputs: Any) -> list[Any]:
        entry.copy_from_cpu(inputs)
        predictor.run()
        return [handle.copy_to_cpu() for handle in exits]

    return run


def resident() -> float:
    """MiB of this process in memory now; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0.0
    return int(pages) * _PAGE / 2**20


def _import_library(engine: str) -> float:
    """Import what an engine runs on; the MiB that this takes."""
    before = resident()
    library = {"openvino": "openvino", "onnxruntime": "onnxruntime", "auto": "numpy"}
    importlib.import_module(library.get(engine, "paddle.inference"))
    return resident() - before


class Worker:
    """Answers requests; the engines it holds are those of one setting."""

    def __init__(self, engine: str, precision: str, threads: int, profile: bool) -> None:
        self.setting = (engine, precision, threads)
        self.profile = profile
        self.library_mib: float | None = None
        self._runs: dict[str, Run] = {}
        self._inputs: dict[tuple[int, ...], Any] = {}

    def load(self, model: str, folder: str, shapes: list[list[int]]) -> dict[str, Any]:
        """Make the engine of one model for the first of `shapes` (N, C, H, W); run it on all."""
        engine, precision, threads = self.setting
        if self.library_mib is None:
            self.library_mib = _import_library(engine)
        before, start = resident(), time.perf_counter()
        self._runs[model], said = load(engine, folder, precision, threads, shapes[0])
        loaded = time.perf_counter() - start
        first, second, outputs = [], [], None
        for shape in shapes:
            inputs = self._input(shape)
            times = []
            for _ in range(2):
                start = time.perf_counter()
                found = self._runs[model](inputs)
                times.append(time.perf_counter() - start)
            first.append(times[0])
            second.append(times[1])
            outputs = outputs or [number for array in found for number in array[0].ravel()]
        return {
            "load_s": loaded + first[0],
            "first_s": first,
            "second_s": second,
            "memory_mib": resident() - before,
            "library_mib": self.library_mib,
            "output": [value.item() for value in outputs],
            "is": said,
        }

    def turn(self, model: str, shape: list[int], seconds: float, least: int) -> dict[str, Any]:
        """Run for `seconds`, at least `least` times; the time of each run in ms.

        `cpu` is the processor time per time by the clock: below the number of busy threads if
        another process had the core meanwhile.
        """
        run, inputs, clock = self._runs[model], self._input(shape), time.perf_counter
        for _ in range(_WARM):
            run(inputs)
        times: list[float] = []
        cpu, begin = time.process_time(), clock()
        while len(times) < least or clock() - begin < seconds:
            if self.profile:
                os.write(1, f"{MARK}\n".encode())
            start = clock()
            run(inputs)
            times.append(1000 * (clock() - start))
        if self.profile:
            os.write(1, f"{END}\n".encode())
        wall = clock() - begin
        return {"ms": times, "cpu": (time.process_time() - cpu) / wall}

    def forget(self) -> dict[str, Any]:
        """Let all models go."""
        self._runs.clear()
        self._inputs.clear()
        gc.collect()
        return {}

    def _input(self, shape: list[int]) -> Any:
        import numpy as np

        key = tuple(shape)
        if key not in self._inputs:
            self._inputs[key] = np.random.default_rng(0).standard_normal(key, np.float32)
        return self._inputs[key]


def main(argv: list[str]) -> int:
    """The life of the process: argv[0] is its setting as JSON."""
    end_with_parent()
    setting = json.loads(argv[0])
    if setting["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, setting["cores"])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log = os.open(setting["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    worker = Worker(*(setting[key] for key in ("engine", "precision", "threads", "profile")))
    for line in sys.stdin:
        request = json.loads(line)
        action = {"load": worker.load, "turn": worker.turn, "forget": worker.forget}[
            request.pop("do")
        ]
        try:
            answer = action(**request)
        except UserError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
