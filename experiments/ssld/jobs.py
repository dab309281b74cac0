"""The trainings behind prove_ssld.py and segmentation/compare.py, and running them side by side.

Each is an ordinary `train` command of a recipe in a process of its own, with one thread, in
`<output>/<name>`. `row.json` there holds its settings and, at the end, its score, so that the same
call goes on where it was stopped. Read before: prove.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablation import record
from experiments.ablation.plan import Data
from experiments.ablation.table import Score
from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_text
from ppcls_lite.system.processes import environment, toolkit_command

STATUS_SECONDS = 30  # between two lines about what is running


@dataclass(frozen=True)
class Job:
    """One training: its place `<row>_<seed>`, its recipe with overrides, and what it waits for."""

    row: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    folder: Path
    teacher: str | None = None  # the row whose network it needs
    network: str | None = None  # of a teacher: which, to export it when it is trained
    metric: str = "top1"  # of the last evaluation, that is its score

    @property
    def name(self) -> str:
        return f"{self.row}_{self.seed}"

    def settings(self) -> record.Settings:
        """What decides the result; raises ConfigError for a recipe that is wrong."""
        tree = load_config(self.recipe, list(self.overrides))
        check(tree)
        return record.settings_of(tree)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind that the run has written so far."""
        lines = [line for path in self.folder.glob("*/metrics.jsonl") for line in path.open()]
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [item for item in found if item["kind"] == kind]


def split_labels(data: Data, count: int, limit: int | None, folder: Path) -> Mapping[str, Path]:
    """Write the lists of the proof into `folder`: as many labels of each class as fit in `count`.

    limit: take so many images of each class only. Returns the lists `all`, `labeled`, `unlabeled`
    (the rest, paths without labels) and `eval`. Raises UserError if `count` is not part of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, evaluation = (
        _first_of_each_class(path.read_text(encoding="utf-8").splitlines(), limit)
        for path in (data.train_list, data.eval_list)
    )
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    chosen = set(_first_of_each_class([images[i] for i in order], count // data.class_num))
    if not 0 < len(chosen) < len(images):
        raise UserError(
            f"--labeled {count}: expected at least one label for each of the {data.class_num} "
            f"classes and fewer than the {len(images)} images of {data.train_list}"
        )
    lists = {
        "all": images,
        "labeled": [line for line in images if line in chosen],
        "unlabeled": [line.rsplit(maxsplit=1)[0] for line in images if line not in chosen],
        "eval": evaluation,
    }
    for name, lines in lists.items():
        write_text(folder / f"{name}_list.txt", "\n".join(lines) + "\n")
    return {name: folder / f"{name}_list.txt" for name in lists}


def _first_of_each_class(lines: Sequence[str], limit: int | None) -> list[str]:
    lines = [line for line in lines if line.strip()]
    if limit is None:
        return lines
    seen: dict[str, int] = {}
    kept = []
    for line in lines:
        label = line.rsplit(maxsplit=1)[-1]
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= limit:
            kept.append(line)
    return kept


def finished(jobs: Sequence[Job]) -> dict[str, float]:
    """The scores, in percent, of the jobs that an earlier call has finished, by name.

    Raises UserError naming every setting that differs from those of an earlier call.
    """
    scores: dict[str, float] = {}
    problems = []
    for job in jobs:
        earlier = record.read(job.folder)
        if earlier is None:
            continue
        if changed := record.differences(earlier.settings, job.settings()):
            problems.append("\n    ".join([f"{job.folder}:", *changed]))
        elif earlier.score:
            scores[job.name] = earlier.score.last
    if problems:
        raise UserError(
            "an earlier call had other settings (earlier -> now):\n  "
            + "\n  ".join(problems)
            + "\nrestore them, choose another --output, or remove those folders"
        )
    return scores


def train(
    jobs: Sequence[Job], done: Mapping[str, float], processes: int
) -> Iterator[tuple[Job, float, float]]:
    """Train what is not done, `processes` at a time; yields job, score and seconds as they end.

    A job starts when its teacher is ready. Raises UserError when one fails and KeyboardInterrupt
    when the user stops; then all others are stopped too and leave a checkpoint.
    """
    ready = set()
    for job in jobs:
        if job.name in done:
            _export(job)
            ready.add(job.row)
    waiting = [job for job in jobs if job.name not in done]
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    told = time.monotonic()
    try:
        while waiting or running:
            for job in [j for j in waiting if j.teacher is None or j.teacher in ready]:
                if len(running) < processes:
                    waiting.remove(job)
                    running[job] = (_start(job), time.monotonic())
            time.sleep(0.2)
            for job, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                score = _score(job, process.returncode)
                _export(job)
                ready.add(job.row)
                yield job, score, time.monotonic() - began
            if running and time.monotonic() - told > STATUS_SECONDS:
                told = time.monotonic()
                print(f"  running: {', '.join(map(_state, running))}", flush=True)
    finally:
        for process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for process, _ in running.values():
            process.wait()


def _start(job: Job) -> subprocess.Popen:
    job.folder.mkdir(parents=True, exist_ok=True)
    record.write(job.folder, job.settings(), None)
    return _command(job, "train", "Global.checkpoints=auto")


def _export(job: Job) -> None:
    """Make a teacher's inference model of its last weights, which no test image has chosen."""
    if job.network is None or (job.folder / "inference" / "inference.yml").exists():
        return
    weights = json.dumps(str(job.folder / job.network / "latest"))
    status = _command(job, "export", f"Global.pretrained_model={weights}").wait()
    if status:
        raise _failed(job, status)


def _command(job: Job, verb: str, *more: str) -> subprocess.Popen:
    command = toolkit_command([verb, "-c", job.recipe])
    for text in (*job.overrides, *more):
        command += ["-o", text]
    with (job.folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"),
        )


def _failed(job: Job, status: int) -> UserError:
    path = job.folder / "output.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return UserError("\n  ".join([f"{job.name} ended with status {status}; {path} ends:", *lines]))


def _score(job: Job, status: int) -> float:
    if status:
        raise _failed(job, status)
    last = job.records("eval")[-1]
    score = 100 * last[job.metric]
    record.write(job.folder, job.settings(), Score(job.seed, score, int(last["epoch"]), score))
    return score


def _state(job: Job) -> str:
    steps = job.records("step")
    return f"{job.name} epoch {steps[-1]['epoch']}" if steps else f"{job.name} starts"
