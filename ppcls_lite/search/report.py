"""What a search found, as `report.md` and `pareto.svg`. Read before: run.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.search.run import Finalist, Result
from ppcls_lite.system.files import write_text

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 56
_SHOWN = 12  # choices


def kendall(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orders: 1 alike, -1 opposite; None where either has no order."""
    agree = ties_one = ties_other = pairs = 0
    for i, j in itertools.combinations(range(len(one)), 2):
        a, b = (one[i] > one[j]) - (one[i] < one[j]), (other[i] > other[j]) - (other[i] < other[j])
        pairs, agree = pairs + 1, agree + a * b
        ties_one, ties_other = ties_one + (a == 0), ties_other + (b == 0)
    norm = ((pairs - ties_one) * (pairs - ties_other)) ** 0.5
    return agree / norm if norm else None


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (latency, score), those that no faster one reaches, fastest first."""
    found: list[tuple[float, float]] = []
    for ms, score in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or score > found[-1][1]:
            found.append((ms, score))
    return found


def write(result: Result, folder: Path) -> list[Path]:
    """Both files; returns their paths."""
    paths = [folder / "report.md", folder / "pareto.svg"]
    write_text(paths[0], text(result, folder))
    write_text(paths[1], picture(result))
    return paths


def text(result: Result, folder: Path) -> str:
    """The report."""
    best = result.finalists[0]
    lines = [
        f"# A network of {result.asked} with {result.setting}",
        "",
        f"The best is {_called(best, result)}: {best.ms:.2f} ms ({best.ms / result.target:.0%} of "
        f"the target), score {best.rungs[-1]:.4f} on the images that judge.",
        "",
        "![latency and score](pareto.svg)",
        "",
        "## Trained alone",
        "",
        f"| network | ms | parameters | score by {result.price} | {_rungs(result)} |",
        f"|---|---:|---:|---:|{'---:|' * _depth(result)}",
    ]
    for finalist in result.finalists:
        scores = [f"{s:.4f}" for s in finalist.rungs] + [""] * _depth(result)
        lines.append(
            f"| {_called(finalist, result)} | {finalist.ms:.2f} | "
            f"{result.params[finalist.name]:,} | {finalist.score:.4f} | "
            f"{' | '.join(scores[: _depth(result)])} |"
        )
    lines += ["", "## How far each price can be trusted", ""]
    lines += [f"- {line}" for line in _trust(result)]
    lines += [
        f"- {_latencies(result)}",
        f"- The images that judge are {result.judging}.",
        "",
        *_choices(result),
        "## Go on",
        "",
        f"    ppcls-lite train -c {folder / 'recipe.yaml'}",
        "",
    ]
    return "\n".join(lines)


def _choices(result: Result) -> list[str]:
    """A section with the choices whose options differ most surely; nothing where there are none."""
    if not result.choices:
        return []
    lines = [
        "## What pays",
        "",
        f"Mean scores of the {result.scored} candidates that {result.price} scored, by what they "
        f"have; of {len(result.choices)} choices those whose best and worst option differ most "
        "surely. By chance alone one of twenty with two options differs by two standard errors.",
        "",
        "| choice | option: mean score (candidates) | best less worst | s.e. |",
        "|---|---|---:|---:|",
    ]
    return [*lines, *(choice.row(".4f", ".4f") for choice in result.choices[:_SHOWN]), ""]


def _latencies(result: Result) -> str:
    count = len(result.measured)
    if result.estimates is None:
        return f"The latencies of all {count} networks were measured as a whole."
    median, largest = result.estimates
    return (
        f"Latencies added up from pieces, against the same {count} networks measured as a whole: "
        f"off by {median:.1%} (median), {largest:.1%} at most."
    )


def _trust(result: Result) -> list[str]:
    """How well cheap prices order what the first training alone orders."""
    proxies = [f.rungs[0] for f in result.finalists]
    prices = {
        f"the score by {result.price}": [f.score for f in result.finalists],
        "the number of parameters": [float(result.params[f.name]) for f in result.finalists],
        "the latency": [f.ms for f in result.finalists],
        **{f"{name} (untrained)": values for name, values in result.untrained.items()},
    }
    count, found = len(proxies), []
    for name, values in prices.items():
        tau = kendall(values, proxies)
        found.append(
            f"Kendall's tau of {name} and the first training alone, over {count} networks: "
            f"{'no order' if tau is None else f'{tau:.2f}'}"
        )
    pairs = [(f.rungs[0], f.rungs[-1]) for f in result.finalists if len(f.rungs) == _depth(result)]
    if len(pairs) > 2:
        tau = kendall(*zip(*pairs))
        shown = "no order" if tau is None else f"{tau:.2f}"
        found.append(
            f"Kendall's tau of the first and the last training, over {len(pairs)}: {shown}"
        )
    return found


def _depth(result: Result) -> int:
    return max(len(finalist.rungs) for finalist in result.finalists)


def _rungs(result: Result) -> str:
    return " | ".join(f"training {number}" for number in range(1, _depth(result) + 1))


def _called(finalist: Finalist, result: Result) -> str:
    """What the report calls it; the zoo's own network says what it is there for."""
    chosen = finalist.name == result.budgets_choice
    return f"{finalist.name} (what the target alone would choose)" if chosen else finalist.name


def picture(result: Result) -> str:
    """Latency against score of all that were measured, the front as a line (SVG)."""
    points = result.measured
    low_x, high_x = _bounds([x for x, _ in points] + [result.target])
    low_y, high_y = _bounds([y for _, y in points])

    def place(ms: float, score: float) -> tuple[float, float]:
        x = _MARGIN + (ms - low_x) / (high_x - low_x) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - (score - low_y) / (high_y - low_y) * (_HEIGHT - 2 * _MARGIN)
        return round(x, 1), round(y, 1)

    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{right}" stroke="#666" fill="none"/>',
    ]
    limit = place(result.target, low_y)[0]
    parts.append(
        f'<path d="M{limit} {_MARGIN}V{bottom}" stroke="#999" stroke-dasharray="4 4"/>'
        f'<text x="{limit}" y="{_MARGIN - 8}" text-anchor="middle">{result.target:.4g} ms</text>'
    )
    line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in front(points)))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    for point in points:
        x, y = place(*point)
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="#0072b2" fill-opacity="0.5"/>')
    best = result.finalists[0]
    x, y = place(best.ms, best.score)
    parts.append(f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke="#d55e00" stroke-width="2"/>')
    for value in (low_x, high_x):
        x = place(value, low_y)[0]
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{value:.2f}</text>')
    for value in (low_y, high_y):
        y = place(low_x, value)[1]
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4}" text-anchor="end">{value:.3f}</text>')
    parts += [
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 14}" text-anchor="middle">latency in ms</text>',
        f'<text x="14" y="{_HEIGHT / 2}" transform="rotate(-90 14 {_HEIGHT / 2})" '
        f'text-anchor="middle">score by {result.price}</text>',
        "</svg>\n",
    ]
    return "\n".join(parts)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """A little below the smallest and above the largest."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
