"""The published tables beside what is measured here, and whether their ordering holds.

Tables 2 and 3 of the PP-LCNet paper (arXiv:2109.15099; Xeon Gold 6148, batch 1, MKLDNN, 10 threads)
and the table of PaddleClas's PP-LCNetV2 document (Xeon Gold 6271C, OpenVINO). The published numbers
themselves are data of the zoo. Read next: figure.py, ppcls_lite/config/zoo.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.latency import figure
from ppcls_lite.benchmark import cli
from ppcls_lite.benchmark.report import Rows, Section
from ppcls_lite.benchmark.result import Ratio, Result, ratio
from ppcls_lite.config.zoo import ZOO

TIE = 0.02  # a difference below this share is neither faster nor slower


@dataclass(frozen=True)
class PublishedTable:
    """A table: its title, and groups of networks of about the same accuracy.

    Attributes:
        groups: in each, the last one is the PP-LCNet that is to be the fastest.
        latency_ms: latencies of this table for networks that the zoo lists with another's.
        distilled: whether rows with SSLD scores are part of it.
    """

    title: str
    groups: tuple[tuple[str, ...], ...]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    distilled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)

    def published(self, name: str) -> float | None:
        """ms as this table has it."""
        return self.latency_ms.get(name, ZOO[name].latency_ms)


_SCALES = ("0_25", "0_35", "0_5", "0_75", "1_0", "1_5", "2_0", "2_5")
TABLES = (
    PublishedTable(
        "Table 2: PP-LCNet by scale",
        (tuple(f"PPLCNet_x{scale}" for scale in _SCALES),),
        distilled=True,
    ),
    PublishedTable(
        "Table 3: networks of about the same accuracy",
        (
            (
                *("MobileNetV2_x0_25", "MobileNetV3_small_x0_35", "ShuffleNetV2_x0_33"),
                "PPLCNet_x0_25",
            ),
            (
                *("MobileNetV2_x0_5", "MobileNetV3_large_x0_35", "ShuffleNetV2_x0_5"),
                "PPLCNet_x0_5",
            ),
            (
                *("MobileNetV1", "MobileNetV2", "MobileNetV3_small_x1_25", "ShuffleNetV2_x1_5"),
                "PPLCNet_x1_0",
            ),
        ),
    ),
    PublishedTable(
        "PP-LCNetV2: the table of its document (OpenVINO)",
        (("MobileNetV3_large_x1_25", "PPLCNet_x2_5", "PPLCNetV2_base"),),
        {"PPLCNet_x2_5": 7.25},
    ),
)
COMPARED = TABLES[1:]  # those that claim who is the fastest of a group


def names() -> list[str]:
    """Every network of the tables, once."""
    return list(dict.fromkeys(name for table in TABLES for name in table.names))


@dataclass(frozen=True)
class Pair:
    """PP-LCNet against another network of the same group.

    Attributes:
        published: the other's latency / PP-LCNet's in the table; `None` if it states none.
        measured: the same here.
    """

    fast: str
    other: str
    published: float | None
    measured: Ratio
    where: str

    @property
    def verdict(self) -> str:
        """ "holds", "does not hold" or "equal"."""
        if abs(self.measured.value - 1) <= TIE:
            return "equal"
        return "holds" if self.measured.value > 1 else "does not hold"

    def as_dict(self) -> dict[str, Any]:
        return {
            "faster": self.fast,
            "other": self.other,
            "published_ratio": self.published,
            **asdict(self.measured),
            "verdict": self.verdict,
            "contender": self.where,
        }


def ordering(results: Sequence[Result]) -> list[Pair]:
    """Each pair of the tables of which both networks were measured with the same setting."""
    found = []
    for setting, batch_size in dict.fromkeys((r.setting, r.batch_size) for r in results):
        mine = {r.model: r for r in results if (r.setting, r.batch_size) == (setting, batch_size)}
        for table in COMPARED:
            for *others, fast in table.groups:
                for other in others:
                    if fast in mine and other in mine:
                        times = table.published(other), table.published(fast)
                        published = times[0] / times[1] if None not in times else None
                        measured = ratio(mine[other], mine[fast])
                        where = f"{setting}, batch {batch_size}"
                        found.append(Pair(fast, other, published, measured, where))
    return found


def table_rows(table: PublishedTable, results: Sequence[Result]) -> list[list[str]]:
    """Header and rows: name, costs and scores, published ms, then ms of each contender here."""
    contenders = list(dict.fromkeys((r.setting, r.batch_size) for r in results))
    found = {(r.model, r.setting, r.batch_size): r.median for r in results}
    many = len({size for _, size in contenders}) > 1
    heads = [f"{setting}{f', batch {size}' if many else ''}" for setting, size in contenders]
    rows = [["Model", "Params (M)", "FLOPs (M)", "Top-1 (%)", "published (ms)", *heads]]
    for name in table.names:
        entry = ZOO[name]
        measured = [_number(found.get((name, *contender))) for contender in contenders]
        if set(measured) == {"-"}:
            continue
        costs = [_plain(entry.params_m), _plain(entry.flops_m)]
        latency = _number(table.published(name))
        rows.append([name, *costs, _number(entry.top1), latency, *measured])
        if table.distilled and entry.ssld_top1 is not None:
            rows.append([f"{name} (SSLD)", *costs, _number(entry.ssld_top1), latency, *measured])
    return rows


def _pair_rows(pairs: Sequence[Pair]) -> Rows:
    rows = [["PP-LCNet", "against", "contender", "published ratio", "measured ratio", "ordering"]]
    for pair in pairs:
        published = "-" if pair.published is None else f"{pair.published:.2f}"
        rows.append(
            [pair.fast, pair.other, pair.where, published, str(pair.measured), pair.verdict]
        )
    return rows


def _verdict(pairs: Sequence[Pair]) -> str:
    count = {v: sum(p.verdict == v for p in pairs) for v in ("holds", "equal", "does not hold")}
    failed = [f"{p.fast} / {p.other} ({p.where})" for p in pairs if p.verdict == "does not hold"]
    line = (
        f"The ordering holds in {count['holds']} of {len(pairs)} pairs; {count['equal']} are equal "
        f"within {TIE:.0%}, {count['does not hold']} are the other way round"
    )
    return line + (f": {', '.join(failed)}." if failed else ".")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


class Published:
    """What the report says with `--paper`: tables, ordering and figure 1."""

    option = "the published tables and figure 1"
    names = staticmethod(names)

    def sections(self, results: Sequence[Result]) -> list[Section]:
        tables = [Section(table.title, table_rows(table, results)) for table in TABLES]
        pairs = ordering(results)
        question = "Does the paper's ordering hold here?"
        found = [table for table in tables if len(table.rows) > 1]
        return [*found, Section(question, _pair_rows(pairs), _verdict(pairs))]

    def as_dict(self, results: Sequence[Result]) -> dict[str, Any]:
        return {"ordering": [pair.as_dict() for pair in ordering(results)]}

    def write(self, results: Sequence[Result], folder: Path) -> Path:
        figure.draw(results, folder / "figure1.png")
        return folder / "figure1.png"


def run(argv: Sequence[str]) -> int:
    """`ppcls-lite benchmark` with the option `--paper`; returns the exit status."""
    return cli.run(argv, Published())
