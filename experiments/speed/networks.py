"""Training speed over the zoo: `tools/benchmark.py networks`, one line for each network.

For each network stock Paddle and the toolkit, with one thread, with all and in two processes, take
turns as in `benchmark.py table`; ratios are medians over the rounds.

Read next: table.py (how they take turns).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.speed.table import Measured, Row, measured, ratio, rows
from ppcls_lite.errors import UserError
from ppcls_lite.system.machine import cpu_model, installed_versions, usable_processors


@dataclass(frozen=True)
class Network:
    """What is measured of a network: images of a batch; how many times stock Paddle it is to be."""

    batch: int
    alone: float = 3.5  # with one thread
    together: float = 4.5  # in one process, on all cores


NETWORKS = {
    "PPLCNet_x0_5": Network(64),
    "PPLCNet_x1_0": Network(32),
    "PPLCNet_x2_5": Network(16),
    "PPLCNetV2_base": Network(16),
    "PPLCNetV3_x1_0": Network(16),
    "MobileNetV1": Network(32),
    "MobileNetV2": Network(32),
    "MobileNetV3_large_x1_0": Network(32),
    "MobileNetV4_conv_small": Network(32),
    "ShuffleNetV2_x1_0": Network(32),
    "ResNet18_vd": Network(8, alone=2.5),
    "ResNet50_vd": Network(8, alone=2.5),
}


def run(argv: Sequence[str]) -> int:
    """The command line; exit status 1 if `--strict` and an aim is missed."""
    options = _parser().parse_args(argv)
    cores = usable_processors()
    contenders = rows(("train",), len(cores), torch=False)
    load, started, lines, missed = os.getloadavg()[0], time.monotonic(), header(contenders), False
    about = f"{len(cores)} cores of {cpu_model()}, " + ", ".join(
        f"{name} {version}" for name, version in installed_versions(("paddlepaddle",)).items()
    )
    title = f"{about}, {options.image_size} pixels, load {load:.1f} before\n"
    print(title, *lines, sep="\n")
    _write(options.output, [title, *lines])
    for name in options.arch or NETWORKS:
        network = NETWORKS.get(name) or Network(options.batch_size or 16)
        of = vars(options) | {"arch": name, "batch_size": options.batch_size or network.batch}
        found = measured(contenders, argparse.Namespace(**of), cores)
        lines.append(line(name, of["batch_size"], found))
        print(lines[-1], flush=True)
        _write(options.output, [title, *lines])
        missed |= any(ratio(found, row) < aim for row, aim in aims(network, found).items())
    print(f"\n{time.monotonic() - started:.0f} s, medians of {options.rounds} rounds")
    return int(bool(options.strict and missed))


def header(contenders: Sequence[Row]) -> list[str]:
    """The first lines of the table, in Markdown."""
    first, *others = (row.name for row in contenders)
    cells = ["", "batch", f"{first}, images/s", *others]
    return ["| " + " | ".join(cells) + " |", "|---|" + "---:|" * (len(cells) - 1)]


def line(name: str, batch: int, found: dict[Row, Measured]) -> str:
    """A network's line: images per second of stock Paddle, and how many times that the others."""
    first, *others = found
    cells = [name, str(batch), f"{statistics.median(found[first].speeds):.1f}"]
    cells += [f"{ratio(found, row):.2f}x" for row in others]
    return "| " + " | ".join(cells) + " |"


def aims(network: Network, found: dict[Row, Measured]) -> dict[Row, float]:
    """What the toolkit's rows of one process are to reach."""
    own = [row for row in found if row.kind == "toolkit" and row.processes == 1]
    return dict(zip(own, (network.alone, network.together)))


def _write(path: Path | None, lines: list[str]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="benchmark.py networks", description=about)
    parser.add_argument("--arch", nargs="+", help="networks of the zoo (twelve of them)")
    parser.add_argument("--batch-size", type=int, help="of all; default: by network")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=2, help="of training per round (2)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the table")
    parser.add_argument("--strict", action="store_true", help="status 1 if an aim is missed")
    parser.set_defaults(eval_images=1)
    return parser
