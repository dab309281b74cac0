"""`ppcls-lite zoo`: the costs computed from the networks, beside the published numbers.

The columns `as published` are what `--check` compares. They count as the published table does:
most as `paddle.flops` (see `create.Cost`), newer ones weights and multiply-adds alone, and for the
image size of that table. Read next: ppcls_lite/config/zoo.py (the
published data), create.py (`cost`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ppcls_lite.config.zoo import ZOO, ZooEntry
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import Cost, cost, create_model, list_models
from ppcls_lite.models.network import Network


@dataclass(frozen=True)
class Row:
    """One network: its zoo entry, its computed cost after re-parameterisation, and in millions its
    parameters and FLOPs as the published table counts them."""

    name: str
    entry: ZooEntry
    cost: Cost
    params_m: float
    flops_m: float

    def differences(self) -> list[str]:
        """Published numbers that the computed ones do not round to; known ones left out."""
        found = []
        for label, published, computed, unit in (
            ("parameters", self.entry.params_m, self.params_m, 1),
            ("FLOPs", self.entry.flops_m, self.flops_m, self.entry.flops_unit),
        ):
            if published is None or label in self.entry.unmet:
                continue
            if not rounds_to(computed, published, unit):
                found.append(f"{self.name}: {label} {computed:.2f} M, published {published:g} M")
        return found


def rounds_to(computed: float, published: float, unit: float = 1) -> bool:
    """Whether `published` is `computed`, rounded or cut (578.88 to 578) to the digits it shows;
    to multiples of `unit` if it is whole."""
    if isinstance(published, float):
        unit = 10 ** -len(f"{published}".partition(".")[2])
    return -unit / 2 <= computed - published < unit


def compute(pattern: str | None = None) -> list[Row]:
    """Build every network whose name fits the shell pattern and count its cost.

    None: the classifiers alone, not the networks over their trunks.
    """
    rows = []
    for name in ZOO if pattern is None else list_models(pattern):
        model = create_model(name)
        model.reparameterize()
        rows.append(_row(name, model))
    return rows


def _row(name: str, model: Network) -> Row:
    entry, usual = ZOO.get(name, ZooEntry(name)), cost(model)
    size = entry.flops_size
    theirs = usual if size == 224 else cost(model, (3, size, size))
    pair = theirs[:2] if entry.plain else theirs[2:]
    return Row(name, entry, usual, *(number / 1e6 for number in pair))


_HEADER = (
    *("Model", "Params (M)", "as published", "published", "FLOPs (M)", "as published", "published"),
    *("Top-1 (%)", "Top-5 (%)", "Latency (ms)", "SSLD top-1 (%)", "Source, notes"),
)


def _cells(row: Row) -> tuple[str, ...]:
    entry = row.entry
    scores = (entry.top1, entry.top5, entry.latency_ms, entry.ssld_top1)
    return (
        row.name,
        f"{row.cost.params / 1e6:.2f}",
        f"{row.params_m:.2f}",
        _number(entry.params_m),
        f"{row.cost.flops / 1e6:.1f}",
        f"{row.flops_m:.1f}",
        _number(entry.flops_m),
        *("-" if score is None else f"{score:.2f}" for score in scores),
        "; ".join(text for text in (entry.source, entry.note) if text),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value}"


def markdown(rows: list[Row]) -> str:
    """The table of docs/models.md."""
    lines = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 2), "---"), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(rows: list[Row]) -> str:
    """The table for a terminal, without sources and notes."""
    lines = [cells[:-1] for cells in (_HEADER, *map(_cells, rows))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def run(argv: list[str]) -> int:
    """`ppcls-lite zoo`; returns the exit status."""
    options = argparse.ArgumentParser(
        prog="ppcls-lite zoo", description="List the networks with computed and published costs."
    )
    add = options.add_argument
    add("pattern", nargs="?", help="for example 'PPLCNet*'; without one: the classifiers")
    add("--markdown", action="store_true", help="print the table of docs/models.md")
    add("--check", action="store_true", help="fail where computed and published numbers differ")
    args = options.parse_args(argv)
    rows = compute(args.pattern)
    if not rows:
        raise UserError(f"no network is named like {args.pattern!r}; without a pattern all are")
    print(markdown(rows) if args.markdown else text(rows))
    if not args.check:
        return 0
    differences = [line for row in rows for line in row.differences()]
    known = [f"{row.name} ({row.entry.note})" for row in rows if row.entry.unmet]
    print("", *(differences or ["published costs are met"]), sep="\n")
    print(*(f"known difference: {line}" for line in known), sep="\n")
    return 1 if differences else 0
