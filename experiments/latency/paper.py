"""The published tables beside what is measured here, and whether their ordering holds.

Tables 2 and 3 of the PP-LCNet paper (arXiv:2109.15099; Xeon Gold 6148, batch 1, MKLDNN, 10 threads)
and the table of PaddleClas's PP-LCNetV2 document (Xeon Gold 6271C, OpenVINO), whose numbers are
data of the zoo; and the paper's tables 4, PicoDet, and 5, DeepLabV3+, on the same machine.
Read next: figure.py, ppcls_lite/config/zoo.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.latency import figure
from ppcls_lite.benchmark import cli
from ppcls_lite.benchmark.models import Job
from ppcls_lite.benchmark.report import Rows, Section
from ppcls_lite.benchmark.result import Ratio, Result, ratio
from ppcls_lite.config.zoo import ZOO, ZooEntry
from ppcls_lite.models.create import cost, create_model

_UNLISTED = ZooEntry("")  # of a network that is put together of a trunk and a head
TIE = 0.02  # a difference below this share is neither faster nor slower


@dataclass(frozen=True)
class PublishedTable:
    """A table: its title, and groups of networks of about the same accuracy.

    Attributes:
        groups: in each, the last one is the PP-LCNet that is to be the fastest.
        latency_ms: latencies of this table for networks that the zoo lists with another's.
        distilled: whether rows with SSLD scores are part of it.
        score: what `scores`, or else the zoo's, are called.
    """

    title: str
    groups: tuple[tuple[str, ...], ...]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    distilled: bool = False
    score: str = "Top-1 (%)"
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)

    def published(self, name: str) -> float | None:
        """ms as this table has it."""
        return self.latency_ms.get(name, ZOO.get(name, _UNLISTED).latency_ms)

    def published_score(self, name: str) -> float | None:
        """In percent, as this table has it."""
        return self.scores.get(name, ZOO.get(name, _UNLISTED).top1)


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
SEGMENTATION = PublishedTable(
    "Table 5: DeepLabV3+ on Cityscapes, output stride 32",
    (
        ("deeplabv3p_MobileNetV3_large_x0_5", "deeplabv3p_PPLCNet_x0_5"),
        ("deeplabv3p_MobileNetV3_large_x0_75", "deeplabv3p_PPLCNet_x1_0"),
    ),
    {
        "deeplabv3p_MobileNetV3_large_x0_5": 135,
        "deeplabv3p_PPLCNet_x0_5": 82,
        "deeplabv3p_MobileNetV3_large_x0_75": 151,
        "deeplabv3p_PPLCNet_x1_0": 96,
    },
    score="mIoU (%)",
    scores={
        "deeplabv3p_MobileNetV3_large_x0_5": 55.42,
        "deeplabv3p_PPLCNet_x0_5": 58.36,
        "deeplabv3p_MobileNetV3_large_x0_75": 64.53,
        "deeplabv3p_PPLCNet_x1_0": 66.03,
    },
)
_DETECTORS = {  # AP on COCO's val2017, and ms
    "picodet_legacy_MobileNetV3_large_x0_35": (19.2, 8.1),
    "picodet_legacy_PPLCNet_x0_5": (20.3, 6.0),
    "picodet_legacy_MobileNetV3_large_x0_75": (25.8, 11.1),
    "picodet_legacy_PPLCNet_x1_0": (26.9, 7.9),
}


def _detectors(
    title: str, groups: tuple[tuple[str, ...], ...], known: Mapping[str, tuple[float, float]]
) -> PublishedTable:
    latency, scores = ({n: pair[i] for n, pair in known.items()} for i in (1, 0))
    return PublishedTable(title, groups, latency, score="AP (%)", scores=scores)


DETECTION = _detectors(
    "Table 4: PicoDet on COCO",
    tuple(tuple(_DETECTORS)[start : start + 2] for start in (0, 2)),
    _DETECTORS,
)


@dataclass(frozen=True)
class Kind:
    """Tables of one problem, those of `compared` claim an ordering; `job`: as Comparison.job."""

    tables: tuple[PublishedTable, ...]
    compared: tuple[PublishedTable, ...]
    job: Job | None = None


KINDS = {
    "classification": Kind(TABLES, COMPARED),
    # The paper does not say at which size; its training takes crops of 1024 x 512 (width, height).
    "segmentation": Kind(
        (SEGMENTATION,), (SEGMENTATION,), Job((512, 1024), 19, {"Segmentation": {}})
    ),
    # Nor the size here; the scores are those of training at 320 pixels.
    "detection": Kind((DETECTION,), (DETECTION,), Job((320, 320), 80, {"DetectionNMS": {}})),
    "detection-416": Kind((DETECTION,), (DETECTION,), Job((416, 416), 80, {"DetectionNMS": {}})),
}


def names(tables: Sequence[PublishedTable] = TABLES) -> list[str]:
    """Every network of the tables, once."""
    return list(dict.fromkeys(name for table in tables for name in table.names))


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


def ordering(
    results: Sequence[Result], compared: Sequence[PublishedTable] = COMPARED
) -> list[Pair]:
    """Each pair of the tables of which both networks were measured with the same setting."""
    found = []
    for setting, batch_size in dict.fromkeys((r.setting, r.batch_size) for r in results):
        mine = {r.model: r for r in results if (r.setting, r.batch_size) == (setting, batch_size)}
        for table in compared:
            for *others, fast in table.groups:
                for other in others:
                    if fast in mine and other in mine:
                        times = table.published(other), table.published(fast)
                        published = times[0] / times[1] if None not in times else None
                        measured = ratio(mine[other], mine[fast])
                        where = f"{setting}, batch {batch_size}"
                        found.append(Pair(fast, other, published, measured, where))
    return found


def table_rows(
    table: PublishedTable, results: Sequence[Result], job: Job | None = None
) -> list[list[str]]:
    """Header and rows: name, costs and scores, published ms, then ms of each contender here.

    job: of networks that the zoo does not list, whose costs are counted.
    """
    contenders = list(dict.fromkeys((r.setting, r.batch_size) for r in results))
    found = {(r.model, r.setting, r.batch_size): r.median for r in results}
    many = len({size for _, size in contenders}) > 1
    heads = [f"{setting}{f', batch {size}' if many else ''}" for setting, size in contenders]
    rows = [["Model", "Params (M)", "FLOPs (M)", table.score, "published (ms)", *heads]]
    for name in table.names:
        measured = [_number(found.get((name, *contender))) for contender in contenders]
        if set(measured) == {"-"}:
            continue
        entry = ZOO.get(name) or _counted(name, job)
        costs = [_plain(entry.params_m), _plain(entry.flops_m)]
        latency = _number(table.published(name))
        score = _number(table.published_score(name))
        rows.append([name, *costs, score, latency, *measured])
        if table.distilled and entry.ssld_top1 is not None:
            rows.append([f"{name} (SSLD)", *costs, _number(entry.ssld_top1), latency, *measured])
    return rows


def _counted(name: str, job: Job | None) -> ZooEntry:
    """The costs of a network as it is measured."""
    if job is None:
        return _UNLISTED
    found = cost(create_model(name, class_num=job.class_num), (3, *job.size))
    return ZooEntry("", params_m=round(found.params / 1e6, 2), flops_m=round(found.flops / 1e6))


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

    option = "the published tables of a problem, and figure 1 (classification)"
    kinds = tuple(KINDS)

    def __init__(self, kind: str = "classification") -> None:
        self.kind, self.job = KINDS[kind], KINDS[kind].job

    def of(self, kind: str) -> Published:
        return Published(kind)

    def names(self) -> list[str]:
        return names(self.kind.tables)

    def sections(self, results: Sequence[Result]) -> list[Section]:
        rows = [table_rows(table, results, self.job) for table in self.kind.tables]
        tables = [Section(*pair) for pair in zip((t.title for t in self.kind.tables), rows)]
        pairs = ordering(results, self.kind.compared)
        question = "Does the paper's ordering hold here?"
        found = [table for table in tables if len(table.rows) > 1]
        return [*found, Section(question, _pair_rows(pairs), _verdict(pairs))]

    def as_dict(self, results: Sequence[Result]) -> dict[str, Any]:
        return {"ordering": [p.as_dict() for p in ordering(results, self.kind.compared)]}

    def write(self, results: Sequence[Result], folder: Path) -> list[Path]:
        if self.kind.tables != TABLES:  # the figure is of classifiers
            return []
        figure.draw(results, folder / "figure1.png")
        return [folder / "figure1.png"]


def run(argv: Sequence[str]) -> int:
    """`ppcls-lite benchmark` with the option `--paper`; returns the exit status."""
    return cli.run(argv, Published())
