"""Which network? The table of accuracy against latency, its Pareto front, and what fits a budget.

A column is a precision and a number of threads; a network's time there is that of its fastest
engine. A network is on the front of a column where no other one is as accurate and as fast. The
accuracies are the published ones, of fp32: what int8 costs of them, `deploy/quantize.py` measures.
Read before: zoo_file.py. Read next: zoo_figure.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcls_lite.benchmark.zoo_file import Line, ZooFile
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_text

Column = tuple[str, int]  # precision, threads
Rows = list[list[str]]
FRONT = "**"  # around a time on the front, which is bold in Markdown
BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"  # what a page has around the table
_SHORT = {"paddle": "P", "openvino": "V", "onnxruntime": "R"}


def fastest(lines: Sequence[Line]) -> dict[Column, dict[str, Line]]:
    """Of each column the fastest line of each network; fp32 first, few threads first."""
    order = {"fp32": 0, "bf16": 1, "int8": 2}
    found: dict[Column, dict[str, Line]] = {}
    for line in sorted(lines, key=lambda one: (order[one.precision], one.threads, one.ms)):
        found.setdefault((line.precision, line.threads), {}).setdefault(line.model, line)
    return found


def front(times: Mapping[str, Line]) -> list[str]:
    """The networks that no other one beats, the fastest first."""
    chosen: list[str] = []
    best = 0.0
    for name in sorted(times, key=lambda n: (times[n].ms, -ZOO[n].accuracy)):
        if ZOO[name].accuracy > best:
            chosen.append(name)
            best = ZOO[name].accuracy
    return chosen


def table(file: ZooFile, budget: float | None = None) -> Rows:
    """A row for each network, the most accurate first: those within `budget` ms in some column."""
    columns = fastest(file.lines)
    fronts = {column: set(front(times)) for column, times in columns.items()}
    heads = [f"{precision}, {_threads(count)} (ms)" for precision, count in columns]
    rows = [["Model", "Top-1 (%)", "at", *heads, "Source, notes"]]
    for name in sorted({line.model for line in file.lines}, key=lambda n: -ZOO[n].accuracy):
        own = {column: times[name] for column, times in columns.items() if name in times}
        if budget is not None and min(line.ms for line in own.values()) > budget:
            continue
        cells = [_cell(own.get(c), name in fronts[c]) for c in columns]
        rows.append([name, _accuracy(name), str(ZOO[name].top1_size), *cells, _note(name)])
    return rows


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _cell(line: Line | None, on_front: bool) -> str:
    if line is None:
        return "-"
    mark = FRONT if on_front else ""
    return f"{mark}{line.ms:.2f}{mark} {_SHORT.get(line.engine, line.engine)}{'~' * line.unsteady}"


def _accuracy(name: str) -> str:
    entry = ZOO[name]
    both = entry.ssld_top1 is not None and entry.top1 is not None
    distilled = "" if entry.accuracy != entry.ssld_top1 else " SSLD"
    return f"{entry.accuracy:.2f}{distilled}" + (f" ({entry.top1:.2f})" if both else "")


def _note(name: str) -> str:
    return "; ".join(filter(None, (ZOO[name].source, ZOO[name].note)))


def legend(file: ZooFile) -> str:
    """What the table's signs mean, and what it was measured on."""
    shaky = sum(line.unsteady for line in file.lines)
    engines = {line.engine for line in file.lines}
    names = {"paddle": "Paddle Inference", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
    signs = ", ".join(f"{_SHORT[e]} {names[e]}" for e in names if e in engines)
    how = f"{file.how['rounds']} rounds, {file.how['seconds']:g} s a contender"
    text = (
        f"One image, random weights, at the size that the accuracy is for (`at`); the fastest of "
        f"the engines: {signs}. Bold: no other network is as accurate and as fast (Pareto). "
        "Accuracies are published and of fp32; behind SSLD without distillation. "
        f"{file.machine}; {how}."
    )
    if shaky:
        text += f" ~: unsteady ({shaky} of {len(file.lines)}), the 10th percentile of its runs."
    failed = "; ".join(f"{name}: {words}" for name, words in file.failed.items())
    return f"{text} Not measured: {failed}." if failed else text


def fits(file: ZooFile, budget: float) -> str:
    """The most accurate network within a budget, in words."""
    own = [line for line in file.lines if line.ms <= budget]
    if not own:
        nearest = min(file.lines, key=lambda line: line.ms)
        return f"None of the measured networks fits; the next is {nearest.model}: {nearest.ms} ms."
    best = min(own, key=lambda line: (-ZOO[line.model].accuracy, line.ms))
    setting = f"{best.engine} {best.precision}, {_threads(best.threads)}"
    count = len({line.model for line in own})
    of = len({line.model for line in file.lines})
    return (
        f"{count} of {of} networks fit {budget:g} ms; the most accurate is {best.model} "
        f"({_accuracy(best.model)} %): {best.ms:.2f} ms with {setting}."
    )


def put_into(page: Path, content: str) -> None:
    """Replace what stands between the marks of a Markdown page; UserError without them."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(
            f"{page}: expected one line {BEGIN} and one line {END}, between them goes it"
        )
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_text(page, f"{before}{BEGIN}\n{content}\n{END}{after}")
