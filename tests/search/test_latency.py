"""Estimates from pieces: the table, its file, the scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from paddle import nn

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.search.latency import LatencyTable, Meter, Scale, errors
from ppcls_lite.search.pieces import pointwise
from ppcls_lite.search.space import Piece

SETTING = Setting("paddle", "fp32", 1)


def piece(name: str) -> Piece:
    return Piece(name, (8, 6, 6), lambda: pointwise(8, 16, "relu"))


def test_a_piece_is_measured_once_and_kept(tmp_path: Path) -> None:
    asked: list[str] = []

    def measure(pieces: Sequence[Piece]) -> dict[str, float]:
        asked.extend(p.name for p in pieces)
        return {p.name: float(len(p.name)) for p in pieces}

    table = LatencyTable(SETTING, measure, tmp_path)
    table.require([piece("a"), piece("bb"), piece("a")])
    again = LatencyTable(SETTING, measure, tmp_path)
    again.require([piece("a"), piece("ccc")])
    assert asked == ["a", "bb", "ccc"]
    assert again.total([piece("a"), piece("a"), piece("ccc")]) == 5.0
    other = LatencyTable(Setting("paddle", "fp32", 2), measure, tmp_path)
    assert len(other) == 0 and other.path != again.path


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pieces": 3}'])
def test_a_damaged_table_is_measured_anew(tmp_path: Path, damage: str) -> None:
    table = LatencyTable(SETTING, lambda pieces: {p.name: 1.0 for p in pieces}, tmp_path)
    table.require([piece("a")])
    assert json.loads(table.path.read_text())["pieces"] == {"a": 1.0}
    table.path.write_text(damage)
    assert len(LatencyTable(SETTING, table._measure, tmp_path)) == 0


def test_the_scale_finds_what_a_piece_pays_for_the_call() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(10, 30, 12)
    inside = rng.uniform(0.5, 3.0, 12)  # what a network really takes
    sums = inside + 0.02 * counts  # each piece alone pays for the call
    scale = Scale()
    assert scale(1.5, 10) == 1.5
    scale.fit(sums, counts, inside + 0.02)
    found = [scale(total, count) for total, count in zip(sums, counts)]
    assert errors(found, inside + 0.02)[1] < 1e-6
    alike = Scale()
    alike.fit([1.0, 2.0, 3.0], [7, 7, 7], [1.1, 2.1, 3.1])
    assert alike(4.0, 7) == pytest.approx(4.1)


def test_a_real_measurement(tmp_path: Path) -> None:
    def wide() -> nn.Layer:
        return pointwise(8, 2048, "relu")

    pieces = [piece("small"), Piece("large", (8, 40, 40), wide)]
    found = Meter(SETTING, [0])(pieces)
    assert 0 < found["small"] < found["large"]
