"""The PP-LCNet paper's ablations as data, and the Markdown table that sets own runs beside them.

A row is a recipe of configs/ablation, known by its file's name. The published scores are the top-1
on ImageNet-1k's validation images in percent after 360 epochs, the latencies those of one 224x224
image with MKLDNN on a Xeon Gold 6148 with 10 threads (arXiv:2109.15099, tables 6 to 9). Two
networks stand in several tables: the whole PP-LCNet 0.5x (`full`), and the one without the 1x1
convolution after pooling, which table 9 calls "+SE".
Read next: plan.py (what a run is), ablate.py (the runs).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SOURCE = (
    "Paper: arXiv:2109.15099, ImageNet-1k, 360 epochs; latency of one 224x224 image, MKLDNN, "
    "Xeon Gold 6148, 10 threads."
)
REFERENCE = "full"  # the row that all others are compared with


class Published(NamedTuple):
    """Top-1 in percent and latency in milliseconds, as printed."""

    top1: float
    latency_ms: float


PUBLISHED: dict[str, Published] = {
    "full": Published(63.14, 2.05),
    "no_hswish": Published(61.93, 1.94),
    "no_se": Published(62.51, 1.87),
    "no_large_kernel": Published(62.44, 2.01),
    "no_last_conv": Published(59.91, 1.85),
    "se_first": Published(61.73, 2.06),
    "se_middle": Published(62.17, 2.03),
    "se_all": Published(64.27, 3.80),
    "kernel_all": Published(63.22, 2.08),
    "kernel_first": Published(62.70, 2.07),
    "ladder_1_basenet": Published(55.58, 1.61),
    "ladder_2_hswish": Published(58.18, 1.66),
    "ladder_3_large_kernel": Published(59.09, 1.70),
    "ladder_5_no_dropout": Published(62.50, 2.05),
}


@dataclass(frozen=True)
class Table:
    """One table of the paper: its subject, and its rows in the paper's order with what they are."""

    title: str
    rows: Mapping[str, str]


TABLES: dict[str, Table] = {
    "6": Table(
        "Table 6: one technique taken away",
        {
            "no_hswish": "ReLU instead of h-swish",
            "no_se": "no channel attention (SE)",
            "no_large_kernel": "3x3 kernels only",
            "no_last_conv": "no 1x1 convolution after pooling",
            "full": "all four techniques",
        },
    ),
    "7": Table(
        "Table 7: the place of channel attention (SE)",
        {
            "se_first": "blocks 1 and 2 of 13",
            "se_middle": "blocks 7 and 8 of 13",
            "full": "the last two blocks",
            "se_all": "all blocks",
        },
    ),
    "8": Table(
        "Table 8: the place of the 5x5 kernels",
        {
            "kernel_all": "all blocks",
            "kernel_first": "the first seven of 13",
            "full": "the last seven of 13",
        },
    ),
    "9": Table(
        "Table 9: one technique after the other",
        {
            "ladder_1_basenet": "BaseNet",
            "ladder_2_hswish": "+ h-swish",
            "ladder_3_large_kernel": "+ 5x5 kernels",
            "no_last_conv": "+ channel attention (SE)",
            "ladder_5_no_dropout": "+ 1x1 convolution after pooling",
            "full": "+ dropout",
        },
    ),
}


@dataclass(frozen=True)
class Score:
    """One finished run: its main score in percent, the best of all epochs and the last one's."""

    seed: int
    best: float
    best_epoch: int
    last: float
    metric: str = "top1"


@dataclass(frozen=True)
class Row:
    """One network: parameters that training changes, multiply-adds, and its finished runs."""

    name: str
    params: int
    flops: int
    scores: Sequence[Score] = ()

    def mean_last(self) -> float | None:
        """The last epoch's score, the seeds' mean; None before the first run is finished."""
        return mean(score.last for score in self.scores)


def _header(rows: Iterable[Row]) -> tuple[str, ...]:
    metric = next((score.metric for row in rows for score in row.scores), "Score")
    return (
        "Row",
        "Network",
        "Params (M)",
        "FLOPs (M)",
        f"{metric}, best (%)",
        f"{metric}, last (%)",
        f"Last, to {REFERENCE}",
        "Paper: top-1 (%)",
        f"Paper: to {REFERENCE}",
        "Paper: latency (ms)",
    )


def markdown(rows: Mapping[str, Row], tables: Iterable[str], chosen: Iterable[str] = ()) -> str:
    """The tables by number, and the rows that were chosen by file, as Markdown.

    Missing numbers are `-`; several seeds are `mean ± sample standard deviation`.
    """
    parts = [_table(TABLES[number].title, TABLES[number].rows, rows) for number in tables]
    names = {name: _network(name) for name in chosen}
    if names:
        parts.append(_table("Chosen rows", names, rows))
    return "\n\n".join(parts)


def spread_note(images: int) -> str:
    """How much of a difference is chance, for a score on so many images."""
    points = 100 * math.sqrt(0.25 / images)
    return (
        f"Chance alone: one standard error of a share of {images:,} images is up to {points:.1f} "
        "points, and another seed moves it as well; read nothing into smaller differences."
    )


def mean(values: Iterable[float]) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return statistics.fmean(values) if values else None


def _network(name: str) -> str:
    if name == REFERENCE:
        return "PP-LCNet 0.5x"
    found = [f"{t.rows[name]} (table {n})" for n, t in TABLES.items() if name in t.rows]
    return found[0] if found else "-"


def _table(title: str, networks: Mapping[str, str], rows: Mapping[str, Row]) -> str:
    reference = rows[REFERENCE].mean_last() if REFERENCE in rows else None
    header = _header(rows.values())
    lines = [header, ("---", "---", *["---:"] * (len(header) - 2))]
    lines += [_cells(rows[name], network, reference) for name, network in networks.items()]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def _cells(row: Row, network: str, reference: float | None) -> tuple[str, ...]:
    last, paper = row.mean_last(), PUBLISHED.get(row.name)
    return (
        row.name,
        network,
        f"{row.params / 1e6:.3f}",
        f"{row.flops / 1e6:.2f}",
        _mean_and_spread([score.best for score in row.scores]),
        _mean_and_spread([score.last for score in row.scores]),
        "-" if last is None or reference is None else _signed(last - reference),
        f"{paper.top1:.2f}" if paper else "-",
        _signed(paper.top1 - PUBLISHED[REFERENCE].top1) if paper else "-",
        f"{paper.latency_ms:.2f}" if paper else "-",
    )


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _signed(difference: float) -> str:
    return f"{difference:+.2f}" if round(difference, 2) else "0"
