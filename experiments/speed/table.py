"""All speeds in one table: training, evaluation and data, `tools/benchmark.py table`.

Every contender is a process of its own with its own cores. All are started first; then they take
turns, one round each, so that other work on the machine meets all of them, and a ratio is the
median of the ratios within the rounds. The networks see batches in memory; data is measured on one
core. PyTorch takes part where it is installed, here or in the environment of `--torch-python`.

Read next: contender.py (what each of them does), docs/performance.md (the table).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.speed.contender import ANSWER, READY, scale_of
from ppcls_lite.engine.ranks import place
from ppcls_lite.errors import UserError
from ppcls_lite.system.installed import missing
from ppcls_lite.system.machine import cpu_model, installed_versions, usable_processors
from ppcls_lite.system.outputs import require_writable
from ppcls_lite.system.processes import environment, free_ports
from ppcls_lite.system.timing import in_turns, median_ratio

PARTS = ("train", "eval", "data")


@dataclass(frozen=True)
class Row:
    """A contender: how it is called, what it runs, where, and the ratio that it aims at."""

    part: str
    name: str
    kind: str
    processes: int
    cores: int  # of each process
    aim: float | None = None  # times as fast as the part's first row


@dataclass
class Measured:
    """Images a second in every round, and milliseconds of processor per image."""

    speeds: list[float]
    cpu: list[float]


def rows(parts: Sequence[str], cores: int, torch: bool) -> list[Row]:
    """The contenders on a machine of `cores` cores; the first of a part is what ratios refer to."""
    several = int(torch and cores > 1)
    ours = f"toolkit, 1 process of {cores} threads"
    found = [
        Row("train", "Paddle as it is", "stock", 1, 1),
        Row("train", "toolkit, 1 thread", "toolkit", 1, 1, 2.5),
        *([Row("train", ours, "toolkit", 1, cores, 3.0)] if cores > 1 else []),
        *([Row("train", "toolkit, 2 processes", "toolkit", 2, cores // 2, 5.0)] * (cores > 1)),
        *([Row("train", "PyTorch channels_last, 1 thread", "torch", 1, 1)] * torch),
        *([Row("train", f"PyTorch channels_last, {cores} threads", "torch", 1, cores)] * several),
        Row("eval", "the network itself", "network", 1, cores),
        Row("eval", "its graph, oneDNN", "graph", 1, cores, 4.0),
        Row("data", "naive chain", "naive", 1, 1),
        Row("data", "toolkit", "chain", 1, 1, 1.6),
        Row("data", "toolkit, DecodeImage.reduced", "reduced", 1, 1),
        Row("data", "toolkit, cache: ram", "cached", 1, 1),
    ]
    return [row for row in dict.fromkeys(found) if row.part in parts]


def run(argv: Sequence[str]) -> int:
    """The command line; exit status 1 if `--strict` and an aim is missed."""
    options = _parser().parse_args(argv)
    if options.output:
        require_writable(Path(options.output).parent)
    cores = usable_processors()
    python = options.torch_python or sys.executable
    torch = scale_of(options.arch) is not None and not options.no_torch
    torch = torch and (options.torch_python is not None or missing("torch") is None)
    contenders = rows(options.parts, len(cores), torch)
    about = _about(options, len(cores))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        images = _images(options, Path(folder)) if "data" in options.parts else None
        found = measured(contenders, options, cores, images, python)
    about |= {"seconds": round(time.monotonic() - started), "load_after": os.getloadavg()[0]}
    lines = table(found)
    print(_title(about), *lines, sep="\n")
    if options.output:
        _write(Path(options.output), about, found, lines)
    missed = [row.name for row in found if row.aim and ratio(found, row) < row.aim]
    return int(bool(options.strict and missed))


def measured(
    contenders: Sequence[Row],
    options: argparse.Namespace,
    cores: list[int],
    images: Path | None = None,
    torch_python: str = sys.executable,
) -> dict[Row, Measured]:
    """The contenders, started together, in turns of `options.rounds`."""
    with contextlib.ExitStack() as at_end:
        teams = {}
        for row in contenders:
            python = torch_python if row.kind == "torch" else sys.executable
            teams[row] = at_end.enter_context(_team(row, options, cores, python, images))
        _require_same_networks(teams)
        return _take_turns({row: team.processes for row, team in teams.items()}, options.rounds)


def ratio(found: dict[Row, Measured], row: Row) -> float:
    """How many times as fast a contender is as the first one of its part, round by round."""
    first = next(other for other in found if other.part == row.part)
    return median_ratio(found[row].speeds, found[first].speeds)


def table(found: dict[Row, Measured]) -> list[str]:
    """Markdown."""
    lines = ["| | | images/s | | processor, ms/image | aim |", "|---|---|---:|---:|---:|---|"]
    for row, measured in found.items():
        times, aim = ratio(found, row), "" if row.aim is None else f"{row.aim:g}x"
        if row.aim is not None:
            aim += " met" if times >= row.aim else " missed"
        speed, cpu = statistics.median(measured.speeds), statistics.median(measured.cpu)
        lines.append(
            f"| {row.part} | {row.name} | {speed:.1f} | {times:.2f}x | {1000 * cpu:.2f} | {aim} |"
        )
    return lines


@dataclass
class _Team:
    processes: list[subprocess.Popen[str]]
    parameters: int


@contextlib.contextmanager
def _team(
    row: Row, options: argparse.Namespace, cores: list[int], python: str, images: Path | None
) -> Iterator[_Team]:
    """The processes of a contender, ready to run."""
    ports = free_ports(row.processes + 1)
    endpoints = [f"127.0.0.1:{port}" for port in ports[1:]]
    shared = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "PPCLS_LITE_T"))}
    quiet = {"GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore", "KMP_BLOCKTIME": "1"}
    shared = environment(shared, **quiet)
    # The toolkit gives its own kernels all cores, Paddle's operators one; others use OpenMP's.
    math = 1 if row.kind == "toolkit" else row.cores
    shared |= {"OMP_NUM_THREADS": str(math), "MKL_NUM_THREADS": str(math)}
    shared["PPCLS_LITE_THREADS"] = str(row.cores)
    command = [python, "-m", "experiments.speed.contender", "--kind", row.kind]
    command += ["--arch", options.arch, "--threads", str(row.cores)]
    for name in ("steps", "batch_size", "image_size", "rounds", "eval_images"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if images is not None:
        command += ["--data", str(images)]
    if row.processes == 1:
        command += ["--cores", *map(str, cores[: row.cores])]
    team = []
    try:
        for rank in range(row.processes):
            own = {} if row.processes == 1 else place(rank, ports[0], endpoints)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            team.append(subprocess.Popen(command, env=shared | own, **pipes))
        counts = [int(words[0]) for words in _lines(row, team, READY)]
        yield _Team(team, counts[0])
    finally:
        for process in team:
            process.kill()
            process.wait()


def _take_turns(teams: dict[Row, list[subprocess.Popen[str]]], rounds: int) -> dict[Row, Measured]:
    found = in_turns({row: partial(_turn, row, team) for row, team in teams.items()}, rounds)
    return {row: Measured(*map(list, zip(*turns))) for row, turns in found.items()}


def _turn(row: Row, team: list[subprocess.Popen[str]]) -> tuple[float, float]:
    """Images a second, and seconds of processor an image, in one round of a team."""
    for process in team:
        with contextlib.suppress(BrokenPipeError):  # its end is noticed below
            process.stdin.write("go\n")
            process.stdin.flush()
    answers = [tuple(map(float, words)) for words in _lines(row, team, ANSWER)]
    images, wall, cpu = (list(values) for values in zip(*answers))
    return sum(images) / max(wall), sum(cpu) / sum(images)


def _lines(row: Row, team: list[subprocess.Popen[str]], mark: str) -> list[list[str]]:
    """What follows `mark` in the next such line of each process."""
    answers = []
    for process in team:
        line = next((line for line in process.stdout if line.startswith(mark)), None)
        if line is None:
            raise UserError(
                f"the process of {row.name!r} ({row.part}) has ended; its message is above"
            )
        answers.append(line.removeprefix(mark).split())
    return answers


def _require_same_networks(teams: dict[Row, _Team]) -> None:
    counts = {row.name: team.parameters for row, team in teams.items() if row.part == "train"}
    if len(set(counts.values())) > 1:
        raise UserError(f"the networks have different numbers of parameters: {counts}")


def _images(options: argparse.Namespace, folder: Path) -> Path:
    """The JPEGs to read, as links in one folder."""
    from experiments.speed import data

    if options.data:
        paths = data.find(options.data)
    else:
        paths = data.generate(folder, min(options.images, 64))
    links = folder / "links"
    links.mkdir()
    for i in range(options.images):
        path = Path(paths[i % len(paths)]).resolve()
        (links / f"{i:06d}{path.suffix}").symlink_to(path)
    return links


def _about(options: argparse.Namespace, cores: int) -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": cores,
        "load_before": os.getloadavg()[0],
        "versions": installed_versions(("paddlepaddle", "numpy")),
        "options": {key: value for key, value in vars(options).items() if value is not None},
    }


def _title(about: dict[str, Any]) -> str:
    options, versions = about["options"], about["versions"]
    data = f"{options['images']} JPEGs ({options.get('data', 'generated, 500x375')})"
    return (
        f"{options['arch']}, {options['image_size']}x{options['image_size']}, batches of "
        f"{options['batch_size']}; {about['cores']} cores of {about['cpu']}, "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; medians of "
        f"{options['rounds']} rounds; evaluations of {options['eval_images']} images; {data}; "
        f"{about['seconds']} s; load {about['load_before']:.1f} before, "
        f"{about['load_after']:.1f} after (the benchmark's own included)\n"
    )


def _write(
    prefix: Path, about: dict[str, Any], found: dict[Row, Measured], lines: list[str]
) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {**vars(row), **vars(measured), "ratio": ratio(found, row)}
        for row, measured in found.items()
    ]
    text = json.dumps({**about, "rows": entries}, indent=2)
    prefix.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    markdown = "\n".join([_title(about), *lines])
    prefix.with_suffix(".md").write_text(markdown + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py table", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--arch", default="PPLCNet_x0_5", help="a network of the zoo")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=2, help="of training per round (2)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eval-images", type=int, default=1024, help="of an evaluation (1024)")
    parser.add_argument("--images", type=int, default=128, help="files read per round (128)")
    parser.add_argument("--data", metavar="DIR|LIST", help="JPEGs; default: generated ones")
    parser.add_argument("--torch-python", metavar="PATH", help="a Python that has PyTorch")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--output", metavar="PREFIX", help="write PREFIX.json and PREFIX.md")
    parser.add_argument("--strict", action="store_true", help="status 1 if an aim is missed")
    return parser
