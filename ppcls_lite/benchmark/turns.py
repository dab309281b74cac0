"""Starts a process for each engine setting and lets the contenders take turns.

A contender is a model with a setting and a batch size. In every round each has one turn, so that
what disturbs the machine meets all of them alike. The other processes are stopped meanwhile: the
threads of an OpenMP pool go on spinning for 0.2 s after a run, and would take the next contender's
cores. Read next: worker.py (the processes), result.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppcls_lite.benchmark import profile as latency_profile
from ppcls_lite.benchmark.result import PRIMITIVES, Result, Setting
from ppcls_lite.errors import UserError
from ppcls_lite.system.processes import environment, tied

Say = Callable[[str], None]
LEAST_RUNS = 20  # of a contender, over all rounds
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Process:
    """The parent's end of one worker; a context that ends it."""

    def __init__(self, setting: Setting, cores: Sequence[int], log: Path) -> None:
        profile = setting.engine == PRIMITIVES
        self.setting, self.log, self.profile = setting, log, profile
        variables = dict.fromkeys(_THREAD_VARIABLES, str(setting.threads)) | {
            "GLOG_minloglevel": "2",
            "PYTHONWARNINGS": "ignore",
        }
        if profile:
            variables |= {"ONEDNN_VERBOSE": "1", "DNNL_VERBOSE": "1"}
        engine = {"engine": "paddle"} if profile else {}
        place = {"cores": list(cores[: setting.threads]), "log": str(log), "profile": profile}
        asked = {**asdict(setting), **engine, **place}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ppcls_lite.benchmark.worker", json.dumps(asked)],
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=tied(signal.SIGKILL, to_ctrl_c=False),
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer; UserError if it fails or the process dies."""
        self.send(**request)
        return self.receive()

    def send(self, **request: Any) -> None:
        """Wake the process up with a request."""
        with contextlib.suppress(BrokenPipeError):  # `receive` says so
            self._process.send_signal(signal.SIGCONT)
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The answer to what was sent; the process is stopped after it."""
        line = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not line:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-1500:]
            raise UserError(f"{self.setting}: its process has ended; its last words:\n{tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(f"{self.setting}: {answer['error']}")
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


Profiles = dict[tuple[str, int, int], latency_profile.Profile]


def measure(
    models: dict[str, Path],
    settings: Sequence[Setting],
    batch_sizes: Sequence[int],
    image_shape: tuple[int, int, int],
    cores: Sequence[int],
    folder: Path,
    rounds: int = 5,
    seconds: float = 0.5,
    say: Say = print,
) -> tuple[list[Result], Profiles]:
    """Measure every model (name to exported folder) with every setting and batch size.

    Args:
        settings: with the engine `PRIMITIVES` for the sums of oneDNN's own times (Paddle's run).
        image_shape: (C, H, W) of the inputs, which are noise.
        cores: logical processors to pin to, the first ones for few threads.
        folder: for the processes' logs.
        rounds: turns of each contender.
        seconds: of each contender over all rounds, without warm-up; at least 20 runs are made.

    Returns one result for each contender, and the profile of each (model, threads, batch size) of
    which the primitives were measured. A model that one engine cannot run is a UserError: a table
    with holes would compare different models.
    """
    with Team(settings, cores, folder, say) as team:
        return team.measure(models, batch_sizes, image_shape, rounds, seconds)


class Team:
    """The processes of several settings, for one measurement after another; a context."""

    def __init__(
        self, settings: Sequence[Setting], cores: Sequence[int], folder: Path, say: Say = print
    ) -> None:
        self._say = say
        self._stack = contextlib.ExitStack()
        self._processes = []
        for number, setting in enumerate(dict.fromkeys(settings)):
            process = Process(setting, cores, folder / f"worker{number}.log")
            self._processes.append(self._stack.enter_context(process))

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(
        self,
        models: dict[str, Path],
        batch_sizes: Sequence[int],
        image_shape: tuple[int, int, int],
        rounds: int,
        seconds: float,
    ) -> tuple[list[Result], Profiles]:
        """See `measure` above. The models stay loaded until `forget`."""
        teams: list[tuple[Process, list[Result]]] = []
        profiled: list[tuple[Process, Result]] = []
        outputs: dict[tuple[str, Setting], list[float]] = {}
        expected = 0.0
        for process in self._processes:
            mine = []
            for model, path in models.items():
                shapes = [[size, *image_shape] for size in batch_sizes]
                answer = process.ask(do="load", model=model, folder=str(path), shapes=shapes)
                outputs[model, process.setting] = answer["output"]
                for place, size in enumerate(batch_sizes):
                    run_s = answer["second_s"][place]
                    expected += max(seconds, LEAST_RUNS * run_s) + 2 * rounds * run_s
                    costs = {key: answer[key] for key in ("memory_mib", "library_mib", "load_s")}
                    first_ms = 1000 * answer["first_s"][place]
                    named = {"first_ms": first_ms, "chosen": answer["is"]}
                    mine.append(Result(model, process.setting, size, **costs, **named))
            teams.append((process, mine))
            self._say(f"ready: {process.setting}")
        results = [result for _, mine in teams for result in mine]
        _differences(results, outputs)
        self._say(f"{len(results)} contenders, {rounds} rounds: about {expected:.0f} s")
        least = -(-LEAST_RUNS // rounds)
        chance = random.Random(0)
        for _ in range(rounds):
            for process, result in _in_turn(teams, chance):
                shape = [result.batch_size, *image_shape]
                asked = {"model": result.model, "shape": shape, "seconds": seconds / rounds}
                answer = process.ask(do="turn", least=least, **asked)
                result.rounds.append(answer["ms"])
                result.cpu.append(answer["cpu"])
                if process.profile:
                    profiled.append((process, result))
        return results, _primitive_sums(profiled)

    def forget(self) -> None:
        """Let the models go that are loaded."""
        for process in self._processes:
            process.ask(do="forget")


def _in_turn(
    teams: Sequence[tuple[Process, list[Result]]], chance: random.Random
) -> Iterator[tuple[Process, Result]]:
    """All contenders, those of the same model one after another, in a new order every time.

    On a busy machine the system lets a process wait that has just had more than its share, so a
    contender that always followed the same other one would pay for it.
    """
    groups = list(zip(*(results for _, results in teams)))
    for place in chance.sample(range(len(groups)), len(groups)):
        pairs = [(process, groups[place][i]) for i, (process, _) in enumerate(teams)]
        yield from chance.sample(pairs, len(pairs))


def _differences(
    results: Sequence[Result], outputs: dict[tuple[str, Setting], list[float]]
) -> None:
    """State how far each engine's answers are from those of the model's first.

    Of whole numbers, which are classes and no amounts, it is the share that differs.
    """
    first = results[0].setting
    for result in results:
        if result.setting != first:
            reference = outputs[result.model, first]
            found = outputs[result.model, result.setting]
            if all(isinstance(number, int) for number in reference):
                other = sum(a != b for a, b in zip(reference, found))
                result.difference = other / len(reference)
                continue
            largest = max(map(abs, reference)) or 1.0
            result.difference = max(abs(a - b) for a, b in zip(reference, found)) / largest


def _primitive_sums(
    turns: Sequence[tuple[Process, Result]],
) -> Profiles:
    """Replace the times of the profiled turns, in their order, by the sums of oneDNN's lines."""
    profiles: Profiles = {}
    for process in dict.fromkeys(process for process, _ in turns):
        runs = iter(latency_profile.read(process.log))
        done: dict[int, int] = {}
        for result in (result for p, result in turns if p is process):
            number = done.get(id(result), 0)
            done[id(result)] = number + 1
            walls = result.rounds[number]
            part = list(itertools.islice(runs, len(walls)))
            key = (result.model, result.setting.threads, result.batch_size)
            profiles.setdefault(key, latency_profile.Profile()).add(part, walls)
            result.rounds[number] = [sum(p.ms for p in run) for run in part]
    return profiles
