"""The table of an ablation as files: ablation.md for people, ablation.json for programs.

Read before: table.py (the columns). Read next: ablate.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ablation import table
from experiments.ablation.plan import Run
from experiments.ablation.table import PUBLISHED, Row, Score
from ppcls_lite.data.image_list import read_lines
from ppcls_lite.system.files import write_text

Scores = Mapping[tuple[str, int], Score]  # by row and seed


@dataclasses.dataclass(frozen=True)
class Report:
    """What stays the same while scores come in.

    networks: the rows with their costs. tables: numbers of the paper's tables; chosen: rows that
    were asked for by file. folder: where the two files go. command: how to do it again.
    """

    runs: Sequence[Run]
    networks: Mapping[str, Row]
    tables: Sequence[str]
    chosen: Sequence[str]
    folder: Path
    command: str

    def markdown(self, scores: Scores) -> str:
        """The tables and the conditions under which they came about."""
        tables = table.markdown(self._rows(scores), self.tables, self.chosen)
        return f"{tables}\n\n{self._conditions()}\n\n{table.SOURCE}"

    def write(self, scores: Scores) -> None:
        """Write both files; runs without a score are `-` there."""
        text = f"# Ablation\n\n```bash\n{self.command}\n```\n\n{self.markdown(scores)}\n"
        write_text(self.folder / "ablation.md", text)
        first = self.runs[0].settings
        content = {
            "command": self.command,
            "units": "scores in percent; params and flops (multiply-adds) as numbers",
            "source": table.SOURCE,
            "train_images": self._images("Train"),
            "eval_images": self._images("Eval"),
            "tables": {number: list(table.TABLES[number].rows) for number in self.tables},
            "settings": {k: v for k, v in first.items() if not _is_own(k)},
            "rows": [self._entry(row) for row in self._rows(scores).values()],
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_text(self.folder / "ablation.json", text)

    def _rows(self, scores: Scores) -> dict[str, Row]:
        found: dict[str, list[Score]] = {name: [] for name in self.networks}
        for run in self.runs:
            if (run.row, run.seed) in scores:
                found[run.row].append(scores[run.row, run.seed])
        return {
            name: dataclasses.replace(network, scores=found[name])
            for name, network in self.networks.items()
        }

    def _entry(self, row: Row) -> dict[str, Any]:
        settings = next(run.settings for run in self.runs if run.row == row.name)
        published = PUBLISHED.get(row.name)
        return dataclasses.asdict(row) | {
            "mean_best": table.mean(score.best for score in row.scores),
            "mean_last": table.mean(score.last for score in row.scores),
            "arch": {k: v for k, v in settings.items() if k.startswith("Arch.")},
            "paper": published._asdict() if published else None,
        }

    def _conditions(self) -> str:
        tree, settings = self.runs[0].tree, self.runs[0].settings
        epochs, seeds = tree["Global"]["epochs"], list(dict.fromkeys(run.seed for run in self.runs))
        rate = settings.get("Optimizer.lr.learning_rate")
        several = " (mean ± standard deviation)" if len(seeds) > 1 else ""
        parts = [
            f"{self._images('Train'):,} training and {self._images('Eval'):,} evaluation images "
            f"in {tree['Arch']['class_num']} classes",
            "x".join(map(str, tree["Global"]["image_shape"][1:])) + " pixels",
            f"{epochs} epoch{'s' if epochs > 1 else ''}",
            f"batch {tree['DataLoader']['Train']['sampler']['batch_size']}",
            *([f"learning rate {float(rate):g}"] if rate else []),
            f"seed{'s' if several else ''} {_listed(seeds)}{several}",
        ]
        return f"Own runs: {', '.join(parts)}. {table.spread_note(self._images('Eval'))}"

    def _images(self, split: str) -> int:
        return len(read_lines(self.runs[0].tree["DataLoader"][split]["dataset"]["cls_label_path"]))


def _is_own(key: str) -> bool:
    """Whether a setting belongs to one run instead of to all."""
    return key.startswith("Arch.") or key == "Global.seed"


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)
