"""The published latency tables beside measured ones, pair by pair, and figure 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.latency import figure, paper
from ppcls_lite.benchmark.result import Result, Setting
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.models.create import list_models

PADDLE = Setting("paddle", "fp32", 1)


def result(model: str, *rounds: list[float], setting: Setting = PADDLE) -> Result:
    return Result(model, setting, 1, [list(turn) for turn in rounds], cpu=[1.0] * len(rounds))


def test_the_tables_are_the_zoos_numbers() -> None:
    assert set(paper.names()) <= set(ZOO)
    second, third, version_2 = paper.TABLES
    assert [second.published(n) for n in second.names] == [
        *(1.74, 1.92, 2.05, 2.29, 2.46, 3.19, 4.27, 5.39)
    ]
    published = {n: third.published(n) for n in third.names}
    assert published["ShuffleNetV2_x1_5"] is None
    assert published["MobileNetV2_x0_5"] == 2.85
    assert [version_2.published(n) for n in version_2.names] == [5.19, 7.25, 4.32]


def test_published_and_measured_stand_side_by_side() -> None:
    results = [result("PPLCNet_x0_5", [1.25]), result("PPLCNet_x1_0", [2.5])]
    rows = paper.table_rows(paper.TABLES[0], results)
    assert rows[0][-2:] == ["published (ms)", "paddle fp32, 1 thread"]
    assert [row[0] for row in rows[1:]] == [
        *("PPLCNet_x0_5", "PPLCNet_x0_5 (SSLD)", "PPLCNet_x1_0", "PPLCNet_x1_0 (SSLD)")
    ]
    assert rows[1][3:] == ["63.14", "2.05", "1.25"]
    assert rows[2][3:] == ["66.10", "2.05", "1.25"]
    assert paper.table_rows(paper.TABLES[2], results) == [rows[0]]


def test_the_ordering_is_told_pair_by_pair() -> None:
    results = [
        result("PPLCNet_x1_0", [1.0, 1.0]),
        result("MobileNetV1", [2.0, 2.0]),
        result("MobileNetV2", [1.01, 1.01]),
        result("ShuffleNetV2_x1_5", [0.5, 0.5]),
        result("MobileNetV1", [9.0], setting=Setting("openvino", "fp32", 1)),  # no PP-LCNet with it
    ]
    pairs = {pair.other: pair for pair in paper.ordering(results)}
    assert {name: pair.verdict for name, pair in pairs.items()} == {
        **{"MobileNetV1": "holds", "MobileNetV2": "equal"},
        "ShuffleNetV2_x1_5": "does not hold",
    }
    assert pairs["MobileNetV1"].published == pytest.approx(3.38 / 2.46)
    assert pairs["ShuffleNetV2_x1_5"].published is None


def test_an_unsteady_pair_is_judged_by_its_quiet_runs() -> None:
    noisy = [1.0] * 3 + [50.0] * 7
    fast = result("PPLCNet_x1_0", noisy, noisy)
    (pair,) = paper.ordering([fast, result("MobileNetV1", [2.0] * 10, [2.0] * 10)])
    assert pair.measured.middle < 1 < pair.measured.quiet
    assert pair.verdict == "holds"


def test_segmenters_have_a_table_of_their_own() -> None:
    published = paper.Published().of("segmentation")
    assert [*published.kinds][:2] == ["classification", "segmentation"]
    assert published.job.size == (512, 1024) and published.job.words == "512x1024"
    assert {*published.names()} <= {*list_models("deeplabv3p_*")}
    fast, slow = "deeplabv3p_PPLCNet_x0_5", "deeplabv3p_MobileNetV3_large_x0_5"
    results = [result(fast, [50.0]), result(slow, [60.0])]
    table, question = published.sections(results)
    assert table.rows[1][1:3] != ["-", "-"]
    assert [row[3:] for row in table.rows] == [
        ["mIoU (%)", "published (ms)", "paddle fp32, 1 thread"],
        *(["55.42", "135.00", "60.00"], ["58.36", "82.00", "50.00"]),
    ]
    assert [row[1:3] for row in table.rows[1:]] == [["1.33", "5912"], ["1.1", "5828"]]
    assert question.rows[1][:2] == [fast, slow] and "holds in 1 of 1" in question.text
    assert published.as_dict(results)["ordering"][0]["published_ratio"] == pytest.approx(135 / 82)


@pytest.mark.parametrize("kind", ["detection", "detection-416"])
def test_detectors_have_their_table(kind: str) -> None:
    published = paper.Published().of(kind)
    assert {*published.names()} <= {*list_models("picodet_*")}
    found = [result(name, [5.0 + i]) for i, name in enumerate(published.names())]
    table, question = published.sections(found)
    numbers = [row[1:] for row in table.rows[1:]]
    if kind == "detection":
        assert numbers[0] == ["1.09", "431", "19.20", "8.10", "5.00"]
        assert numbers[1] == ["1.03", "466", "20.30", "6.00", "6.00"]
        assert "holds in 0 of 2" in question.text
    else:
        assert float(numbers[1][1]) == pytest.approx(466 * (416 / 320) ** 2, rel=0.02)


def test_the_figure_has_a_point_for_each_accuracy(tmp_path: Path) -> None:
    lines = figure.points({"PPLCNet_x0_5": 2.0, "PPLCNet_x0_25": 1.0, "ResNet50": 9.0})
    assert lines == {"PPLCNet": [(1.0, 51.86, "PPLCNet_x0_25"), (2.0, 63.14, "PPLCNet_x0_5")]}
    assert figure.family("PPLCNetV2_base") == "PPLCNetV2"
    assert figure.family("MobileNetV3_small_x0_35") == "MobileNetV3_small"
    figure.draw([result("PPLCNet_x0_5", [1.0])], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
