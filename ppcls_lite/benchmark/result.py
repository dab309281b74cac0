"""What was measured of one contender, and how two of them compare. Read next: turns.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

UNSTEADY = 0.15  # spread, or drift between rounds, above which a figure is called unsteady
PRIMITIVES = "onednn-primitives"  # the engine name of the sums of oneDNN's own times


@dataclass(frozen=True, order=True)
class Setting:
    """An engine as it is called: name, precision ("fp32", "bf16"; "any": it chooses), threads."""

    engine: str
    precision: str
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.name}, {threads}"

    @property
    def name(self) -> str:
        """Engine and precision."""
        return self.engine if self.precision == "any" else f"{self.engine} {self.precision}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie, linear between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@dataclass
class Result:
    """One model with one setting and batch size."""

    model: str
    setting: Setting
    batch_size: int
    rounds: list[list[float]] = field(default_factory=list)  # ms of each run, turn by turn
    cpu: list[float] = field(default_factory=list)  # processor time per time by the clock, by turns
    memory_mib: float = 0.0  # growth of the process by loading and first runs, all batch sizes
    library_mib: float = 0.0  # of the import of the engine's library before, once for all models
    load_s: float = 0.0  # until the first answer to the first of the batch sizes
    first_ms: float = 0.0  # the first run with this batch size, after that
    difference: float | None = None  # largest from the first engine, relative to the largest output
    chosen: str = ""  # what the engine says it is; for `auto` the choice

    @property
    def times(self) -> list[float]:
        """ms of all runs."""
        return [ms for turn in self.rounds for ms in turn]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def spread(self) -> float:
        """10th to 90th percentile, relative to the median."""
        return (quantile(self.times, 0.9) - quantile(self.times, 0.1)) / self.median

    @property
    def drift(self) -> float:
        """Lowest to highest median of a round, relative to the median."""
        medians = [statistics.median(turn) for turn in self.rounds]
        return (max(medians) - min(medians)) / self.median

    @property
    def disturbed(self) -> bool:
        """Whether another process had the core in a turn; only one thread can tell."""
        return self.setting.threads == 1 and bool(self.cpu) and min(self.cpu) < 0.95

    def as_dict(self) -> dict[str, Any]:
        times = self.times
        return {
            "model": self.model,
            **asdict(self.setting),
            "batch_size": self.batch_size,
            "median_ms": self.median,
            "p10_ms": quantile(times, 0.1),
            "p90_ms": quantile(times, 0.9),
            "p99_ms": quantile(times, 0.99),
            "min_ms": min(times),
            "spread": self.spread,
            "drift": self.drift,
            "runs": len(times),
            "images_per_s": 1000 * self.batch_size / self.median,
            "memory_mib": self.memory_mib,
            "library_mib": self.library_mib,
            "load_s": self.load_s,
            "first_run_ms": self.first_ms,
            "cpu_per_wall": statistics.median(self.cpu) if self.cpu else None,
            "relative_difference": self.difference,
            "chosen": self.chosen,
            "round_medians_ms": [statistics.median(turn) for turn in self.rounds],
        }


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contender takes than another."""

    middle: float  # of the rounds' medians, so that drift between rounds cancels
    low: float
    high: float
    quiet: float  # of the 10th percentiles of all runs, which other work hardly touches
    steady: bool  # both contenders were

    @property
    def value(self) -> float:
        """The one to judge by: of the medians, or of the quiet runs on a disturbed machine."""
        return self.middle if self.steady else self.quiet

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f}); quiet {self.quiet:.2f}"


def ratio(one: Result, other: Result) -> Ratio:
    """`one` / `other`."""
    pairs = zip(one.rounds, other.rounds)
    found = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    quiet = quantile(one.times, 0.1) / quantile(other.times, 0.1)
    steady = all(max(r.spread, r.drift) <= UNSTEADY for r in (one, other))
    return Ratio(statistics.median(found), min(found), max(found), quiet, steady)


@dataclass(frozen=True)
class Aim:
    """A ratio that is aimed at: `one` / `other` at most `limit` (`None`: only stated)."""

    text: str
    one: Result
    other: Result
    limit: float | None

    @property
    def ratio(self) -> Ratio:
        return ratio(self.one, self.other)

    @property
    def met(self) -> bool | None:
        return None if self.limit is None else self.ratio.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        found = self.ratio
        return {
            "text": self.text,
            "model": self.one.model,
            "threads": self.one.setting.threads,
            "batch_size": self.one.batch_size,
            **asdict(found),
            "limit": self.limit,
            "met": self.met,
        }


# engine, precision, against engine, precision, largest ratio, words
_AIMS = (
    ("paddle", "fp32", PRIMITIVES, "fp32", 2.0, "Paddle / sum of oneDNN primitives"),
    ("openvino", "fp32", PRIMITIVES, "fp32", 1.25, "OpenVINO / sum of oneDNN primitives"),
    ("onnxruntime", "fp32", PRIMITIVES, "fp32", None, "ONNX Runtime / sum of oneDNN primitives"),
    ("paddle-default", "fp32", "paddle", "fp32", None, "Paddle default / tuned"),
    ("paddle-no-mkldnn", "fp32", "paddle", "fp32", None, "Paddle without oneDNN / tuned"),
    ("openvino", "bf16", "openvino", "fp32", None, "OpenVINO bf16 / fp32"),
    ("paddle", "bf16", "paddle", "fp32", None, "Paddle bf16 / fp32"),
)
AUTO_SLACK = 1.03  # auto is one of the others; equal within what a round can tell


def aims(results: Sequence[Result]) -> list[Aim]:
    """The ratios that these results allow, model by model."""
    found = []
    groups = dict.fromkeys((r.model, r.setting.threads, r.batch_size) for r in results)
    for key in groups:
        mine = [r for r in results if (r.model, r.setting.threads, r.batch_size) == key]
        by_engine = {(r.setting.engine, r.setting.precision): r for r in mine}
        for *names, limit, text in _AIMS:
            one, other = by_engine.get((names[0], names[1])), by_engine.get((names[2], names[3]))
            if one and other:
                found.append(Aim(text, one, other, limit))
        automatic = [r for r in mine if r.setting.engine == "auto"]
        by_hand = [r for r in mine if r.setting.engine not in ("auto", PRIMITIVES)]
        if automatic and by_hand:
            best = min(by_hand, key=lambda r: r.median)
            for one in automatic:
                text = f"auto / best by hand ({best.setting.name})"
                found.append(Aim(text, one, best, AUTO_SLACK))
    return found
