"""Text in any script on pictures: OpenCV's letters where they do, else a font of the system.

OpenCV draws ASCII alone, and matplotlib's own font has no Chinese, Japanese or Korean. A font that
has all characters is looked for once; where there is none, one warning says what to install.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

logger = logging.getLogger("ppcls_lite")
Place = tuple[int, int]
UNKNOWN = "?"


def font_file(text: str) -> str | None:
    """A font file with all characters of `text`; None where the system has none."""
    return _font_with("".join(sorted({*text})))


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font with all characters of `text`, or matplotlib's own: Latin, Greek, Cyrillic."""
    return _font(font_file(text) or font_file("") or "", size)


def fitting(text: str, width: int, size: int) -> str:
    """A text of letters of `size`, cut where it is wider than `width` pixels."""
    while text and font_for(text, size).getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…" if len(text.rstrip("…")) > 1 else ""
    return text


@functools.cache
def _font_with(characters: str) -> str | None:
    own = _own_font()
    if characters.isascii():  # without a look, for which matplotlib would have to be imported
        return own
    from matplotlib.font_manager import findSystemFonts

    if _has(own, characters):
        return own
    others = sorted(findSystemFonts(), key=_oddity)
    found = next((path for path in others if _has(path, characters)), None)
    if found is None:
        lacking = "".join(c for c in characters if not _has(own, c))[:20]
        logger.warning(
            f"no font of this system has the characters {lacking}: pictures show numbers or "
            f"{UNKNOWN} for them. Install one, e.g. the package fonts-noto-cjk"
        )
    return found


def _own_font() -> str:
    """The font that comes with matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    home = Path(spec.origin or "").parent if spec else Path()
    return str(home / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


def _oddity(path: str) -> tuple[int, str]:
    """The plainer the font, the smaller."""
    name = Path(path).name.lower()
    odd = [word for word in ("bold", "italic", "oblique", "mono", "serif", "light") if word in name]
    return len(odd) + ("regular" not in name), name


def _has(path: str, characters: str) -> bool:
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
    except (OSError, RuntimeError):  # bitmap fonts, damaged ones
        return False
    return all(font.get_char_index(ord(character)) for character in characters)


@functools.lru_cache(maxsize=32)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def text_size(text: str, face: int, scale: float, thickness: int) -> tuple[Place, int]:
    """((width, height above the baseline), depth below it), as `cv2.getTextSize`."""
    (width, height), below = cv2.getTextSize(text, face, scale, thickness)
    font = _pillow_font(text, face, scale)
    if font is None:
        return (width, height), below
    left, top, right, bottom = font.getbbox(text, anchor="ls", stroke_width=thickness // 2)
    return (int(right - min(left, 0)), int(-top)), int(max(bottom, below))


def put_text(
    picture: np.ndarray,
    text: str,
    place: Place,
    face: int,
    scale: float,
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """Write `text` on a picture (H, W, 3) uint8, in place, as `cv2.putText` does; in any script.

    place: (x, y) of the baseline's left end.
    """
    font = _pillow_font(text, face, scale)
    if font is None:
        shown = "".join(c if c.isascii() else UNKNOWN for c in text)
        cv2.putText(picture, shown, place, face, scale, colour, thickness)
        return
    image = Image.fromarray(picture)
    pen, bold = ImageDraw.Draw(image), thickness // 2
    pen.text(place, text, tuple(colour), font, anchor="ls", stroke_width=bold)
    picture[:] = np.asarray(image)


def put_edged_text(picture: np.ndarray, text: str, place: Place, face: int, scale: float) -> None:
    """`put_text` in white with a black edge, readable on any colour.

    The edge of OpenCV's letters is the same letters, moved: thicker ones may have other widths.
    """
    black, white = (0, 0, 0), (255, 255, 255)
    if _pillow_font(text, face, scale) is not None:
        put_text(picture, text, place, face, scale, black, 3)
    else:
        for right, down in itertools.product((-1, 0, 1), repeat=2):
            near = place[0] + right, place[1] + down
            put_text(picture, text, near, face, scale, black, 1)
    put_text(picture, text, place, face, scale, white, 1)


def _pillow_font(text: str, face: int, scale: float) -> ImageFont.FreeTypeFont | None:
    """The font for a text that OpenCV cannot write; None for one that it can, or without any."""
    if text.isascii():
        return None
    path = font_file(text)
    if path is None:
        return None
    height = cv2.getTextSize("H", face, scale, 1)[0][1]
    return _font(path, max(9, round(1.4 * height)))
