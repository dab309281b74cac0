"""From numbers in files to classes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ppcls_lite.data.mask_file import MaskFile, Palette
from ppcls_lite.data.mask_rules import MaskRules
from ppcls_lite.errors import UserError
from ppcls_lite.ops.palettes import voc_colours


def classes(*numbers: int, **rules: object) -> list[int]:
    found = MaskRules(**rules).classes(MaskFile(np.array([numbers], np.uint8)), "a.png")
    return found[0].tolist()


def test_numbers_are_classes_and_255_counts_nowhere() -> None:
    assert classes(0, 1, 2, 255, class_num=3) == [0, 1, 2, 255]
    assert classes(0, 11, 10, class_num=11, ignore_index=11) == [0, 255, 10]
    assert classes(0, 11, 255, class_num=11, ignore_index=[11, 255]) == [0, 255, 255]


def test_masks_of_0_and_255_when_said_so() -> None:
    assert classes(0, 255, class_num=2) == [0, 255]
    assert classes(0, 255, class_num=2, label_map={255: 1}) == [0, 1]


def test_a_map_names_other_numbers() -> None:
    """Labels of 1 to 7 for 7 classes, gaps, and classes that are put together."""
    assert classes(1, 3, 7, class_num=7, label_map={7: 0}) == [1, 3, 0]
    assert classes(0, 7, 8, class_num=2, label_map={7: 0, 8: 1, "other": 255}) == [255, 0, 1]
    assert classes(0, 4, 9, class_num=2, label_map={4: 1, 9: 1}) == [0, 1, 1]


def test_reduce_zero_label_is_ade20k_s() -> None:
    assert classes(0, 1, 150, class_num=150, reduce_zero_label=True) == [255, 0, 149]


def test_a_number_that_is_no_class_is_named_with_its_pixels() -> None:
    """254 or 160 "out of upper bound" before any loss sees it."""
    with pytest.raises(UserError, match=r"^a.png: has the value 254 \(2 pixels\); .* 0 to 1,"):
        classes(0, 254, 254, class_num=2)
    with pytest.raises(UserError, match=r"values 2 \(1 pixels\), 3 \(1 pixels\)"):
        classes(0, 2, 3, class_num=2)


def test_colours_need_a_palette() -> None:
    colours = MaskFile(None, voc_colours(3)[np.array([[0, 2]])])
    with pytest.raises(UserError, match=r"a.png: the mask has colours.*palette"):
        MaskRules(3).classes(colours, "a.png")
    rules = MaskRules(3, palette=Palette(voc_colours(256)))
    assert rules.classes(colours, "a.png").tolist() == [[0, 2]]
    # A palette file in which the numbers stand in another order counts by its colours then.
    other = MaskFile(np.array([[0, 1]], np.uint8), shown_as=voc_colours(3)[[2, 0]])
    assert rules.classes(other, "a.png").tolist() == [[2, 0]]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"class_num": 255}, "at most 254 classes"),
        ({"class_num": 2, "label_map": {1: 2}}, "label_map: 1: 2; .* a class from 0 to 1"),
        ({"label_map": {"road": 1}}, "label_map: 'road': 1"),
        ({"label_map": {256: 1}}, "label_map: 256: 1"),
        ({"label_map": {1: 0}, "reduce_zero_label": True}, "not both"),
    ],
)
def test_rules_that_cannot_be(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        MaskRules(**arguments)


def test_what_is_ignored_is_told_in_short() -> None:
    assert MaskRules(3).describe_ignored() == "255"
    many = MaskRules(2, label_map={"other": 255, 3: 0}).describe_ignored()
    assert re.fullmatch(r"0, 1, 2, 4 and 25\d more", many)
