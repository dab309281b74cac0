"""What an evaluation found out about classes, as lines for a terminal. Read before: facts.py."""

from __future__ import annotations

from collections import defaultdict

from ppcls_lite.report.facts import Classes

_CLASSES, _PAIRS = 12, 8  # lines, so that a thousand classes do not fill the terminal
_SINGULAR = {"images": "image", "objects": "object", "pixels": "pixel"}


def worst_first(classes: Classes, limit: int = _CLASSES) -> list[str]:
    """A table of the classes with the lowest scores, those without any left out."""
    key = classes.columns.index(classes.key)
    rows = [(name, row) for name, row in zip(classes.names, classes.scores) if row[key] is not None]
    rows.sort(key=lambda pair: pair[1][key])
    shown = rows[:limit]
    if not shown:
        return []
    width = max(len("class"), *(len(name) for name, _ in shown))
    widths = [max(len(column), 7) for column in classes.columns]
    titles = "  ".join(f"{c:>{w}}" for c, w in zip(classes.columns, widths))
    lines = [f"{'class':<{width}}  {titles}"]
    for name, row in shown:
        cells = "  ".join(f"{_number(v):>{w}}" for v, w in zip(row, widths))
        lines.append(f"{name:<{width}}  {cells}")
    if len(rows) > limit:
        lines.append(f"... and {len(rows) - limit:,} classes with a higher {classes.key}")
    return lines


def confused(classes: Classes, limit: int = _PAIRS) -> list[str]:
    """What was taken for what most often, a sentence each."""
    sizes: dict[int, int] = defaultdict(int)
    for row, _, count in classes.cells:
        sizes[row] += count
    wrong = sorted((c for c in classes.cells if c[0] != c[1]), key=lambda c: (-c[2], c[0], c[1]))
    return [_sentence(classes, *cell, sizes[cell[0]]) for cell in wrong[:limit]]


def _sentence(classes: Classes, true: int, answered: int, count: int, of: int) -> str:
    names, unit = classes.names, classes.unit
    if true == classes.nothing:
        return f"{count:,} answers {names[answered]!r} where there is nothing"
    what = f"{count:,} of {of:,} {_SINGULAR[unit] if of == 1 else unit}"
    if unit == "pixels":
        what = f"{count / of:.1%} of the pixels"
    if answered == classes.nothing:
        return f"{what} of {names[true]!r} were not found"
    return f"{what} of {names[true]!r} were taken for {names[answered]!r}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
