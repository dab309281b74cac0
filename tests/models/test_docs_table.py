"""docs/models.md is what `tools/zoo.py --markdown` prints."""

from __future__ import annotations

from pathlib import Path

from ppcls_lite.config.zoo import ZOO
from ppcls_lite.models.zoo_table import compute, markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_the_page_holds_the_generated_rows() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for line in markdown(compute("PPLCNet_x*")).splitlines():
        assert line in lines


def test_the_page_has_a_row_for_every_network() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in ZOO if f"\n| {name} |" not in text] == []
