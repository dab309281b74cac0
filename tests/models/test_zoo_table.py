"""Computed costs against published ones, and the three outputs of tools/zoo.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import paddle
import pytest

from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.models import zoo_table
from ppcls_lite.models.create import cost


@pytest.fixture(scope="module", autouse=True)
def nothing_drawn() -> Iterator[None]:
    """Costs do not depend on the weights, so none are drawn."""
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.0))
    yield
    paddle.nn.initializer.set_global_initializer(None)


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.source])
def test_every_published_cost_is_met(name: str) -> None:
    assert zoo_table.run([name, "--check"]) == 0


def test_the_tables_are_in_the_zoo() -> None:
    """Tables 2 and 3 of the PP-LCNet paper and the PP-LCNetV2 table, complete."""
    published = {name for name, entry in ZOO.items() if "PP-LCNet" in entry.source}
    assert len([name for name in published if name.startswith("PPLCNet_")]) == 8
    assert published - {name for name in published if name.startswith("PPLCNet_")} == {
        "MobileNetV2_x0_25",
        "MobileNetV3_small_x0_35",
        "ShuffleNetV2_x0_33",
        "MobileNetV2_x0_5",
        "MobileNetV3_large_x0_35",
        "ShuffleNetV2_x0_5",
        "MobileNetV1",
        "MobileNetV2",
        "MobileNetV3_small_x1_25",
        "ShuffleNetV2_x1_5",
        "MobileNetV3_large_x1_25",
        "PPLCNetV2_base",
    }
    for name in published:
        entry = ZOO[name]
        assert None not in (entry.params_m, entry.flops_m, entry.top1, entry.top5), name
        assert entry.note or not entry.unmet, name


def test_a_difference_fails_the_check_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = dataclasses.replace(ZOO["PPLCNet_x0_25"], flops_m=20, params_m=1.7)
    monkeypatch.setitem(ZOO, "PPLCNet_x0_25", wrong)
    assert zoo_table.run(["PPLCNet_x0_25", "--check"]) == 1
    printed = capsys.readouterr().out
    assert "PPLCNet_x0_25: parameters 1.52 M, published 1.7 M" in printed
    assert "PPLCNet_x0_25: FLOPs 18.25 M, published 20 M" in printed


@pytest.mark.parametrize(
    ("computed", "published", "expected"),
    [
        (18.25, 18, True),
        (578.88, 578, True),  # truncated
        (161.0, 161, True),
        (18.25, 20, False),
        (1.643, 1.6, True),
        (1.643, 1.7, False),
        (1.66, 1.7, True),
        (1.66, 1.6, True),
        (1.643, 1.5, False),
        (2.98, 3.0, True),
        (2.94, 3.0, False),
    ],
)
def test_rounding(computed: float, published: float, expected: bool) -> None:
    assert zoo_table.rounds_to(computed, published) is expected
    tens = isinstance(published, int) and -5 <= computed - published < 10
    assert zoo_table.rounds_to(computed, published, 10) is (expected or tens)


def test_newer_tables_count_plainly_and_at_their_size() -> None:
    """242.2 million at 256 x 256 are published as 240; at 224 x 224 they are 186."""
    (row,) = zoo_table.compute("MobileNetV4_conv_small")
    assert row.flops_m == pytest.approx(242.18, abs=0.01)
    assert row.cost.flops / 1e6 == pytest.approx(186.01, abs=0.01)
    assert row.params_m == pytest.approx(row.cost.params / 1e6)
    assert not row.differences()
    wrong = dataclasses.replace(row, entry=dataclasses.replace(row.entry, flops_m=260))
    assert wrong.differences() == [
        "MobileNetV4_conv_small: FLOPs 242.18 M, published 260 M",
    ]


def test_markdown_has_a_row_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo_table.run(["PPLCNet_x[02]_5", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(
        "| PPLCNet_x0_5 | 1.88 | 1.89 | 1.9 | 44.7 | 47.3 | 47 | 63.14 | 84.66 |"
    )
    assert "arXiv:2109.15099" in lines[2]


def test_a_pattern_without_match_is_an_error() -> None:
    with pytest.raises(UserError, match="no network is named like 'VGG"):
        zoo_table.run(["VGG*"])


def test_the_count_of_operations_by_hand() -> None:
    model = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False),
        paddle.nn.BatchNorm2D(8),
        paddle.nn.Conv2D(8, 8, 3, padding=1, groups=8),
        paddle.nn.AdaptiveAvgPool2D(1),
        paddle.nn.Flatten(),
        paddle.nn.Linear(8, 5),
    )
    model.train()
    got = cost(model, (3, 16, 16))
    convs = 8 * 8 * 8 * 27 + 8 * 8 * 8 * 9
    assert got.flops == convs + 8 * 5
    assert got.tool_flops == got.flops + 2 * 512 + 512 + (512 + 8)
    assert got.tool_params == got.params + 16
    assert got.params == 8 * 27 + 16 + 8 * 9 + 8 + 8 * 5 + 5
    assert model.training
