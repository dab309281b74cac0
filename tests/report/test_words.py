"""Classes in words: the worst first, in few lines, for images, objects and pixels."""

from __future__ import annotations

from ppcls_lite.report.facts import Classes
from ppcls_lite.report.words import confused, worst_first

ANIMALS = Classes(
    "images",
    ["ant", "bee", "cat", "none seen"],
    ["recall", "images"],
    [[0.5, 4], [1.0, 2], [0.25, 8], [None, 0]],
    "recall",
    [(0, 0, 2), (0, 1, 2), (1, 1, 2), (2, 2, 2), (2, 0, 6)],
)


def test_the_worst_class_comes_first_and_one_without_images_not_at_all() -> None:
    lines = worst_first(ANIMALS)
    assert [line.split()[0] for line in lines] == ["class", "cat", "ant", "bee"]
    assert lines[1].split() == ["cat", "0.2500", "8"]


def test_many_classes_fill_no_terminal() -> None:
    lines = worst_first(ANIMALS, limit=1)
    assert len(lines) == 3 and lines[-1] == "... and 2 classes with a higher recall"


def test_confusions_are_sentences_the_most_frequent_first() -> None:
    assert confused(ANIMALS) == [
        "6 of 8 images of 'cat' were taken for 'ant'",
        "2 of 4 images of 'ant' were taken for 'bee'",
    ]
    assert len(confused(ANIMALS, limit=1)) == 1


def test_objects_have_a_background_and_pixels_shares() -> None:
    objects = Classes("objects", ["car", "none"], ["f1", "objects"], [[0.5, 3]], "f1",
                      [(0, 0, 1), (0, 1, 2), (1, 0, 5)], nothing=1)  # fmt: skip
    assert confused(objects) == [
        "5 answers 'car' where there is nothing",
        "2 of 3 objects of 'car' were not found",
    ]
    pixels = Classes(
        "pixels", ["sky", "road"], ["IoU"], [[0.5], [0.5]], "IoU", [(0, 1, 1), (0, 0, 7)]
    )
    assert confused(pixels) == ["12.5% of the pixels of 'sky' were taken for 'road'"]


def test_nothing_to_score_gives_no_table() -> None:
    assert worst_first(Classes("images", ["a"], ["f1"], [[None]], "f1", [])) == []
