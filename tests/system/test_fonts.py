"""Text in any script on a picture, and what happens where no font has it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppcls_lite.system import fonts

FACE = cv2.FONT_HERSHEY_PLAIN


def written(text: str, scale: float = 1.0) -> np.ndarray:
    picture = np.zeros((40, 200, 3), np.uint8)
    fonts.put_text(picture, text, (5, 25), FACE, scale, (255, 255, 255), 1)
    return picture


def test_ascii_is_opencvs() -> None:
    picture = np.zeros((40, 200, 3), np.uint8)
    cv2.putText(picture, "cat 97%", (5, 25), FACE, 1, (255, 255, 255), 1)
    assert np.array_equal(written("cat 97%"), picture)
    assert fonts.text_size("cat", FACE, 1, 1) == cv2.getTextSize("cat", FACE, 1, 1)


@pytest.mark.parametrize("text", ["Vögel", "кошка", "猫と犬"])
def test_other_scripts_are_written_where_a_font_has_them(text: str) -> None:
    if fonts.font_file(text) is None:
        pytest.skip(f"no font of this system has {text}")
    picture = written(text)
    assert picture.any() and not np.array_equal(picture, written("?" * len(text)))
    (width, height), below = fonts.text_size(text, FACE, 1, 1)
    rows, columns = np.nonzero(picture.any(axis=2))
    assert columns.max() <= 5 + width + 1 and rows.min() >= 25 - height - 1
    assert rows.max() <= 25 + below + 1
    assert not np.array_equal(picture, written(text[::-1]))


def test_without_a_font_there_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts.logger, "handlers", [])
    monkeypatch.setattr(fonts.logger, "propagate", True)
    text = "\U0010fff0\U0010fff1"  # of private use
    fonts._font_with.cache_clear()
    assert fonts.font_file(text) is None
    assert np.array_equal(written(text), written("??"))
    (warning,) = [r for r in caplog.records if "no font of this system" in r.message]
    assert "fonts-noto-cjk" in warning.message


def test_letters_have_an_edge_around_them_alone() -> None:
    picture = np.full((30, 120, 3), 128, np.uint8)
    fonts.put_edged_text(picture, "tree  12.5%", (5, 20), FACE, 1)
    letters = np.flatnonzero((picture[..., 0] > 200).any(axis=0))
    columns = np.flatnonzero((picture != 128).any(axis=(0, 2)))
    assert letters.size > 20 and (picture < 60).any()
    assert columns[0] >= letters[0] - 2 and columns[-1] <= letters[-1] + 2
