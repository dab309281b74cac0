"""What is wrong with the masks of a data set, with what to do about it, before a training.

Read before: mask_census.py, mask_rules.py. Read next: mask_shares.py, scan.py.
"""

from __future__ import annotations

import numpy as np

from ppcls_lite.data.findings import Findings
from ppcls_lite.data.image_list import some
from ppcls_lite.data.mask_census import IN_COLOURS, NUMBERS, UNREADABLE, Census
from ppcls_lite.data.mask_file import colour_codes, colour_text
from ppcls_lite.data.mask_rules import WRONG, MaskRules
from ppcls_lite.data.mask_shares import Masks, facts, pixels_of_classes, strange_shares
from ppcls_lite.data.transforms.geometry import MASK_FILL
from ppcls_lite.errors import joined
from ppcls_lite.ops.palettes import voc_colours

_PALETTE_LINES = 12


def diagnose(data: Masks, census: Census) -> Findings:
    """All of it, in texts of bounded length."""
    found = Findings()
    found.errors += _unreadable(data, census)
    found.errors += _in_colours(data, census)
    found.errors += _sizes(data, census)
    wrong = _wrong_values(data, census)
    found.errors += wrong
    found.warnings += _looks_strange(data, census)
    if not wrong:
        found.errors += _only_one_class(data, census)
    if (census.kinds == NUMBERS).any():
        classes = pixels_of_classes(data.rules, census)
        found.warnings += strange_shares(data, classes, census)
        found.facts += facts(data, classes, census)
    return found


def _names(data: Masks, census: Census, chosen: np.ndarray) -> list[str]:
    """The mask files of the pairs that are true in `chosen` (n,)."""
    return [data.files[i] for i in census.places[chosen]]


def _unreadable(data: Masks, census: Census) -> list[str]:
    count = int((census.kinds == UNREADABLE).sum())
    if not count:
        return []
    return [f"{count:,} masks cannot be read: {joined(census.problems[:3], '; ', 700)}"]


def _in_colours(data: Masks, census: Census) -> list[str]:
    """Masks that are pictures, with what their colours are, and a palette to begin with."""
    files = _names(data, census, census.kinds == IN_COLOURS)
    if not files:
        return []
    known = colour_codes(voc_colours(256))
    codes = census.colours[:, 0]
    head = f"{len(files):,} of {len(census.kinds):,} masks are pictures of colours: {some(files)}"
    if np.isin(codes, known).all():
        return [f"{head}; the colours are PASCAL VOC's: set palette: voc"]
    if len(codes) > 100:
        return [
            f"{head}; more than 100 colours, as smooth edges or JPEG make them: save the masks as "
            "8-bit indices, without smoothing"
        ]
    shares = census.colours[:, 1] / census.colours[:, 1].sum()
    lines = [
        f"{colour_text(code)[1:-1].replace(',', '')} NAME  ({share:.1%})"
        for code, share in zip(codes[:_PALETTE_LINES].tolist(), shares)
    ]
    more = f", and {len(codes) - _PALETTE_LINES} more" if len(codes) > _PALETTE_LINES else ""
    return [
        f"{head}; set palette: FILE, a text file with one of these lines for each class in its "
        f"order, `r g b name`: {' | '.join(lines)}{more}"
    ]


def _sizes(data: Masks, census: Census) -> list[str]:
    """Masks of another size than their image's, as it is or as EXIF turns it."""
    known = (census.images[:, 0] > 0) & (census.kinds != UNREADABLE)
    stored, shown, upright = census.as_stored, census.as_shown, census.upright
    placed = data.rules.placed
    fits = {"auto": stored | shown, "stored": stored, "upright": shown}[placed]
    # A mask with an orientation of its own is upright already.
    fits = np.where(census.marks[:, 0], shown, fits)
    wrong = np.flatnonzero(known & ~fits)
    if not len(wrong):
        return []
    texts = [
        "{} ({}x{}, its image {}x{})".format(
            data.files[census.places[i]], *census.sizes[i], *upright[i]
        )
        for i in wrong[:3]
    ]
    more = f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
    return [
        f"{len(wrong):,} masks have another size than their image: {', '.join(texts)}{more}; a "
        "mask has the size of its image: correct the pairs, or save the masks again"
    ]


def _wrong_values(data: Masks, census: Census) -> list[str]:
    rules = data.rules
    bad = rules.table == WRONG  # (256,)
    by_file = census.counts[:, bad].sum(axis=1)  # (n,)
    files = np.flatnonzero(by_file)
    if not len(files):
        return []
    worst = int(by_file.argmax())
    file = data.files[census.places[worst]]
    total = np.flatnonzero(bad & (census.counts.sum(axis=0) > 0)).tolist()
    also = ""
    if len(files) > 1:
        also = f"; {len(files) - 1:,} other masks have wrong values, all together {some(total)}"
    return [f"{file}: {rules.describe_wrong(census.counts[worst])}{also}{_hint(rules, census)}"]


def _hint(rules: MaskRules, census: Census) -> str:
    """What the values may mean, all files taken together."""
    present = np.flatnonzero(census.counts.sum(axis=0)).tolist()
    wrong = [n for n in present if rules.table[n] == WRONG]
    count = rules.class_num
    if census.marks[census.counts[:, wrong].sum(axis=1) > 0, 1].any():
        return ". Masks are JPEG files, whose compression makes new values: save them as PNG"
    if len(present) == 2 and present[0] == 0:
        return (
            f". All masks hold 0 and {present[1]} alone: `label_map: {{{present[1]}: 1}}` makes 0 "
            "and 1 of them"
        )
    if count is None:
        return ""
    if wrong == [count] and 0 not in present:
        return (
            f". No mask has the value 0: if the classes count from 1, set reduce_zero_label: true, "
            f"or `label_map: {{{count}: 0}}`"
        )
    if wrong == [count]:
        return (
            f". If {count} marks pixels that count nowhere, set ignore_index: {count}; if it is a "
            f"class, Arch.class_num is {count + 1}"
        )
    if len(present) <= count + 1:
        ids = {n: i for i, n in enumerate(n for n in present if n != 255)}
        text = ", ".join(f"{n}: {i}" for n, i in list(ids.items())[:20])
        return f". The values that occur, numbered in their order: `label_map: {{{text}}}`"
    return f". The largest value is {max(wrong)}"


def _only_one_class(data: Masks, census: Census) -> list[str]:
    """Masks of 0 and 255 of which 255 is ignored: nothing is left to learn."""
    total = census.counts.sum(axis=0)
    classes = pixels_of_classes(data.rules, census)
    ignored = int(total[data.rules.ignored].sum())
    if np.count_nonzero(classes) != 1 or not ignored or (data.rules.class_num or 2) < 2:
        return []
    present = np.flatnonzero(total).tolist()
    lone = int(classes.argmax())
    text = f"all pixels are of class {lone} or count nowhere ({ignored / total.sum():.1%})"
    if present == [0, 255]:
        return [
            f"{text}: the masks hold 0 and 255, and 255 is ignored. If it is the foreground, set "
            "label_map: {255: 1}"
        ]
    return [f"{text}: nothing would be learnt; look at ignore_index and label_map"]


def _looks_strange(data: Masks, census: Census) -> list[str]:
    found = []
    lossy = _names(data, census, census.marks[:, 1])
    if lossy:
        found.append(
            f"{len(lossy):,} masks are JPEG files, whose compression changes values at edges: "
            f"{some(lossy)}; save masks as PNG"
        )
    empty = census.counts[:, data.rules.table != MASK_FILL].sum(axis=1) == 0
    blank = _names(data, census, empty & (census.kinds == NUMBERS))
    if blank:
        found.append(f"in {len(blank):,} masks every pixel counts nowhere: {some(blank)}")
    turned = (census.images[:, 0] > 1) & ~census.marks[:, 0]
    unclear = turned & census.as_stored & census.as_shown
    if data.rules.placed == "auto" and unclear.any():
        found.append(
            f"{int(unclear.sum()):,} images are turned by their EXIF orientation, and the size of "
            "their masks does not say whether they are, too: "
            f"{some(_names(data, census, unclear))}; they turn with the image: set mask_pixels: "
            "upright if they were made on the image as it is shown, or stored"
        )
    return found
