"""The row of an epoch on a terminal of any width."""

from __future__ import annotations

import pytest

from ppcls_lite.engine.epoch_table import table_row

DONE = {
    "epoch": 7,
    "lr": 0.1,
    "train": {"top1": 0.75, "CELoss": 1.25, "loss": 1.25},
    "eval": {"top1": 0.8125, "top5": 0.99, "macro_precision": 0.7, "CELoss": 0.5, "loss": 0.5},
}


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 220])
def test_it_fits_and_shows_what_matters_first(columns):
    head, row = table_row(DONE, 100, "0:01:02", True, columns)
    assert len(head) <= columns and len(row) <= columns and row.endswith(" *")
    assert head.split()[:2] == ["epoch", "loss"] and row.split()[:2] == ["7/100", "1.2500"]
    assert ("eval top1" in head and "0.8125" in row) == (columns >= 60)
    assert ("macro_precision" in head) == (columns >= 120)
    assert head.endswith("time") and row.removesuffix(" *").endswith("0:01:02")


def test_columns_stand_below_each_other():
    head, row = table_row(DONE, 100, "0:01:02", False, 120)
    other = {"epoch": 100, "train": {"loss": 12345.0, "top1": 0.1}, "eval": DONE["eval"]}
    later = table_row(other, 100, "1:01:02", False, 120)
    assert later[0] == head and len(later[1]) == len(row)


def test_an_epoch_without_evaluation():
    head, row = table_row({**DONE, "eval": None}, 100, "0:01:02", False, 80)
    assert "eval" not in head and "1.2500" in row
