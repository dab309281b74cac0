"""engine="auto": measure what is installed, once, and remember the fastest that is right.

Each engine and precision that can run the model is loaded, its answers on a few pictures are
compared with the reference (Paddle fp32 where the folder has Paddle's program), and those that
pass run in turns within a time budget. The choice is kept in a file per model, CPU, thread number
and versions, so the next start measures nothing; unless other programs left no time for some of
them. The engine itself is then made as by hand, in a process that has loaded no other: the
predictor has it measured `apart`, in a child process.
Read next: ../agreement.py (what passes), cache.py (the file), ../engines/.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import joined, mismatch
from ppcls_lite.inference.auto.cache import Choice, ChoiceCache, cache_folder
from ppcls_lite.inference.engines import (
    PRECISIONS,
    AutoName,
    Engine,
    EngineName,
    Precision,
    available_precisions,
    make_engine,
)
from ppcls_lite.inference.engines.files import ONNX_NAMES, find_onnx, find_program
from ppcls_lite.inference.onnx.metadata import QUANTIZATION_KEY, read_metadata
from ppcls_lite.inference.postprocess import build_postprocess
from ppcls_lite.inference.postprocess.base import Postprocess
from ppcls_lite.inference.spec import InferenceSpec, OutputKind, Outputs
from ppcls_lite.system.installed import missing
from ppcls_lite.system.machine import default_threads, in_the_way, usable_cores
from ppcls_lite.system.processes import environment, tied
from ppcls_lite.system.timing import in_turns, seconds

BUDGET_S = 10.0
_LATE = "the time budget was used up before it was loaded"
_PICTURES = 16
_TURN, _DROPPED = 12, 3  # runs of a contender at a time; the first ones warm it up again
_ROUNDS = 40  # at most
_SAME = 1.03  # medians closer than this are equal: the one with more precision wins
_INT8_LOSS = 0.01  # of top-1, on the evaluation images of deploy/quantize.py
_HOPELESS = 1.5  # times the fastest after two rounds: measured no further

logger = logging.getLogger("ppcls_lite")


def choose(
    model: Path,
    spec: InferenceSpec,
    shape: tuple[int, int, int, int],
    threads: int | None = None,
    precision: Precision | None = None,
    device: str = "cpu",
    budget_s: float = BUDGET_S,
    cache: ChoiceCache | None = None,
    apart: bool = False,
    by: AutoName = "auto",
) -> Choice:
    """The fastest engine and precision for one model on this machine; UserError if none runs it.

    Args:
        model, spec: an exported folder or an ONNX file, and its `inference.yml`.
        shape: (N, C, H, W) that is measured.
        threads: of one run; `None`: the usable cores, at most 4.
        precision: choose among the engines of this precision only.
        device: "gpu" leaves no choice: Paddle.
        budget_s: about how long loading, checking and measuring may take together.
        cache: where choices are kept; default: the user's folder.
        apart: measure in a child process, so that this one loads no engine that loses.
        by: what is compared: the median of an answer alone, or ("auto-p99") the time within which
            99 of 100 answers come while one caller more than there are cores asks.
    """
    if device != "cpu":
        return Choice("paddle", "fp32", model, {}, {})
    threads = default_threads() if threads is None else threads
    cache = cache or ChoiceCache(cache_folder())
    key = cache.key(model, shape, threads, precision, by)
    choice = cache.read(key, model)
    if choice is None and apart:
        asked = (threads, precision, budget_s, str(cache.folder), by)
        call = (str(model), spec.plugins, shape, *asked)
        return _measured_apart(call)
    if choice is not None:
        logger.info("%s", choice)
        return choice
    end = time.monotonic() + budget_s
    left_out: dict[str, str] = {}
    sources = _sources(model, spec, cache, key, precision, left_out)
    engines = _checked(sources, spec, shape, threads, left_out, end)
    if not engines:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UserError(f"{model}: engine auto: nothing here can run it: {reasons}")
    contenders = {_label(*pair): engine for pair, engine in engines.items()}
    times = _measure(contenders, shape, end, by)
    name, kind = _fastest(times, list(engines))
    choice = Choice(name, kind, sources[name, kind], times, left_out, by=by)
    busy = in_the_way(usable_cores()) if _LATE in left_out.values() else None
    if busy is None:
        cache.write(key, model, choice)
    else:
        logger.warning(f"auto: {busy}: the next start measures again")
    logger.info("%s", choice)
    return choice


def _measured_apart(call: Sequence[Any]) -> Choice:
    """`choose` in a child process: no engine that lost leaves memory and threads behind.

    What it has to say is said here, where the log goes as this process has it.
    """
    child = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import _answer; _answer()"],
        input=json.dumps(call),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=tied(signal.SIGKILL, to_ctrl_c=False),
    )
    if child.returncode:
        raise UserError(
            f"{call[0]}: engine auto: the process that measures ended with status "
            f"{child.returncode}; its message is above. Name an engine: engine paddle"
        )
    answer = json.loads(child.stdout.splitlines()[-1])
    for level, text in answer.pop("said"):
        logger.log(level, "%s", text)
    if "error" in answer:
        raise UserError(answer["error"])
    return Choice(**answer | {"model": Path(answer["model"])})


class _Kept(logging.Handler):
    """Level and text of every line, in `said`."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


def _answer() -> None:
    """The child of `_measured_apart`: the call on standard input, the choice as the last line."""
    model, plugins, shape, threads, precision, budget_s, folder, by = json.loads(sys.stdin.read())
    kept = _Kept()
    logger.addHandler(kept)
    logger.propagate = False  # libraries give the root logger handlers of their own
    logger.setLevel(logging.INFO)
    try:
        spec, cache = InferenceSpec.read(Path(model), plugins), ChoiceCache(Path(folder))
        asked = (threads, precision, "cpu", budget_s, cache)
        choice = choose(Path(model), spec, tuple(shape), *asked, by=by)
        answer = asdict(choice) | {"model": str(choice.model)}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"said": kept.said}), flush=True)


Pair = tuple[EngineName, Precision]


def _label(engine: EngineName, precision: Precision) -> str:
    return f"{engine} {precision}"


def _sources(
    model: Path,
    spec: InferenceSpec,
    cache: ChoiceCache,
    key: str,
    wanted: Precision | None,
    left_out: dict[str, str],
) -> dict[Pair, Path]:
    """What each engine would run; the reference comes first. Converts Paddle's program once."""
    found: dict[Pair, Path] = {}
    precisions = get_args(Precision) if wanted is None else (wanted,)
    for name, precision in ((n, p) for p in precisions for n in PRECISIONS if p in PRECISIONS[n]):
        pair, reason = (name, precision), available_precisions(name)[precision]
        try:
            if reason is not None:
                raise UserError(reason)
            if name == "paddle":
                find_program(model)
                found[pair] = model
            elif precision == "int8":
                if not model.is_file() and not (model / ONNX_NAMES["int8"]).is_file():
                    raise UserError("the folder has no int8 network (ppcls-lite quantize)")
                _require_small_loss(find_onnx(model, "int8"), name)
                found[pair] = model
            else:
                found[pair] = _onnx_source(model, spec, cache, key)
        except UserError as error:
            left_out[_label(*pair)] = str(error)
    return found


def _onnx_source(model: Path, spec: InferenceSpec, cache: ChoiceCache, key: str) -> Path:
    with contextlib.suppress(UserError):
        find_onnx(model)
        return model
    reason = missing("onnx")
    if reason is not None:
        raise UserError(f"the folder has no inference.onnx, and to convert its program: {reason}")
    converted = cache.folder / f"{key}.onnx"
    if not converted.is_file():
        from ppcls_lite.inference.onnx.export import write_onnx

        write_onnx(model, converted, spec.text(), spec.model_name)
        logger.info("auto: converted the program to %s", converted)
    return converted


def _require_small_loss(path: Path, engine: EngineName) -> None:
    """Refuse an int8 network that deploy/quantize.py measured to be worse, or did not measure."""
    text = read_metadata(path).get(QUANTIZATION_KEY)
    if text is None:
        raise UserError(f"{path.name} does not say what it costs; ppcls-lite quantize measures it")
    try:
        loss, metric = _loss(json.loads(text), engine)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name}: what it says it costs cannot be read ({error})") from error
    if not loss <= _INT8_LOSS:  # NaN as well
        raise UserError(
            f"it loses {100 * loss:.1f} points of {metric} on its evaluation images (allowed "
            f"{100 * _INT8_LOSS:.1f})"
        )


def _loss(report: dict[str, Any], engine: str) -> tuple[float, str]:
    """What int8 costs by `engine`, and of which metric; an error if it is no such report."""
    metric = report.get("metric", "top1")
    key = "score" if "metric" in report else "top1"  # of files before there were other metrics
    sign = 1 if report.get("higher_is_better", True) else -1
    losses = [
        sign * (float(item[f"{key}_before"]) - float(item[f"{key}_after"]))
        for item in report["engines"]
        if item["engine"] == engine
    ]
    return max(losses, default=0.0), str(metric)


def _checked(
    sources: dict[Pair, Path],
    spec: InferenceSpec,
    shape: tuple[int, int, int, int],
    threads: int,
    left_out: dict[str, str],
    end: float,
) -> dict[Pair, Engine]:
    """The engines whose answers are right, loaded, in the order of `sources`."""
    batch, answers = pictures(shape), build_postprocess(spec)
    engines: dict[Pair, Engine] = {}
    reference: Outputs | None = None
    for (name, precision), source in sources.items():
        label = _label(name, precision)
        if engines and time.monotonic() > end:
            left_out[label] = _LATE
            continue
        try:
            engine = make_engine(source, name, precision, threads, "cpu", shape)
            outputs = joined([spec.named(engine.run(picture)) for picture in batch])
        except UserError as error:
            left_out[label] = str(error)
            continue
        reference = reference or outputs
        reason = refusal(answers, reference, outputs, precision, spec.output)
        if reason is None:
            engines[name, precision] = engine
        else:
            left_out[label] = reason
    return engines


def refusal(
    answers: Postprocess, reference: Outputs, found: Outputs, precision: str, kind: OutputKind
) -> str | None:
    """What is wrong with the outputs `found` by an engine of `precision`, or `None`."""
    problem = mismatch(reference, found)
    if problem is not None:
        return f"gives {problem}"
    return answers.agreement(reference, found, kind).computed(precision)


def pictures(shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Network inputs to compare on, each of `shape`: tiles of several sizes and noise."""
    rng = np.random.default_rng(0)
    made = []
    number, channels, height, width = shape
    for index in range(_PICTURES):
        edge = 2 ** (index % 5)  # 1 is noise
        grid = (number, channels, -(-height // edge), -(-width // edge))
        tiles = rng.uniform(-2, 2, grid).astype(np.float32)
        large = tiles.repeat(edge, axis=2).repeat(edge, axis=3)
        made.append(np.ascontiguousarray(large[:, :, :height, :width]))  # (N, C, H, W)
    return made


def _measure(
    engines: dict[str, Engine], shape: tuple[int, int, int, int], end: float, by: AutoName
) -> dict[str, float]:
    """Milliseconds of each engine as `by` says, in turns until `end`, at least two rounds."""
    batch = np.random.default_rng(0).standard_normal(shape, np.float32)
    take, percentile = (_alone, 50) if by == "auto" else (_under_load, 99)

    def value(turns: Sequence[Sequence[float]]) -> float:
        return float(np.percentile(np.concatenate(turns), percentile))

    def worth_more(found: Mapping[str, list[list[float]]]) -> Collection[str]:
        if max(map(len, found.values())) < 2:
            return found
        values = {name: value(turns) for name, turns in found.items()}
        limit = _HOPELESS * min(values.values())
        racing = [name for name, its in values.items() if its <= limit]
        return racing if len(racing) > 1 and time.monotonic() < end else ()

    found = in_turns(
        {name: partial(take, partial(engine.run, batch)) for name, engine in engines.items()},
        rounds=_ROUNDS,
        warm_up=0,
        still_running=worth_more,
    )
    return {name: value(turns) * 1e3 for name, turns in found.items()}


def _alone(run: Callable[[], object]) -> list[float]:
    """Seconds of answers, one after another."""
    return seconds(run, _TURN, _DROPPED)


def _under_load(run: Callable[[], object]) -> list[float]:
    """Seconds from question to answer while one caller more than there are cores asks."""
    seconds(run, _DROPPED)
    with ThreadPoolExecutor(usable_cores() + 1) as callers:
        asked = [callers.submit(seconds, run, _TURN) for _ in range(usable_cores() + 1)]
        return [time for call in asked for time in call.result()]


def _fastest(times: dict[str, float], pairs: list[Pair]) -> Pair:
    """The quickest; among equals the first, since `pairs` begin with the most precise."""
    limit = min(times.values()) * _SAME
    equals = [pair for pair in pairs if times[_label(*pair)] <= limit]
    most_precise = [pair for pair in equals if pair[1] == equals[0][1]]
    return min(most_precise, key=lambda pair: times[_label(*pair)])
