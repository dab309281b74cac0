"""What the folder of a run says of it: scores, curves, settings, versions. Read next: page.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ppcls_lite.report.facts import read_facts
from ppcls_lite.report.panels import LEARNING_RATE, Panel, panels_of

RUN = "run.json"  # what a training says of itself at its end
EVALUATION = Path("eval") / "best_model"
_BESIDE = ("epoch", "step", "kind")


@dataclass(frozen=True)
class RunSummary:
    """A run: its folder, its resolved recipe (YAML text and tree), versions, records, and facts.

    run: of run.json, empty while it trains. scored: of an evaluation's scores.json, or empty.
    """

    folder: Path
    recipe: str
    tree: dict[str, Any]
    versions: dict[str, str]
    records: list[dict[str, Any]]
    run: dict[str, Any]
    scored: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> RunSummary:
        """Read the folder; what is not there is empty."""
        text = _text(folder / "config.yaml")
        return cls(
            folder,
            recipe=text,
            tree=yaml.safe_load(text) or {},
            versions=json.loads(_text(folder / "versions.json") or "{}"),
            records=[json.loads(line) for line in _text(folder / "metrics.jsonl").splitlines()],
            run=read_facts(folder / RUN) or {},
            scored=read_facts(folder / EVALUATION / "scores.json") or {},
        )

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.resolve().name

    @property
    def evaluation(self) -> Path:
        """Where the latest facts about classes and images are."""
        return self.folder / EVALUATION if self.scored else self.folder

    @property
    def best(self) -> dict[str, Any] | None:
        """The best epoch and its scores; None where the run did not say."""
        return self.run.get("best") or None

    @property
    def scores(self) -> dict[str, float]:
        """Of the best weights, the main one first."""
        best = {k: v for k, v in (self.best or {}).items() if k not in _BESIDE}
        return self.scored.get("scores") or best

    @property
    def about(self) -> str:
        """The network and the recipe in a line."""
        arch, run = self.tree.get("Arch") or {}, self.tree.get("Global") or {}
        updates, epochs = run.get("iters"), run.get("epochs")
        length = f"{updates} updates" if updates else f"{epochs} epochs"
        return f"{arch.get('name', 'network')}, {length}"

    def cards(self) -> list[tuple[str, Any, str]]:
        """The figures that matter: name, value, note."""
        intervals = self.scored.get("intervals", {})
        found = []
        for name, value in list(self.scores.items())[:6]:
            low, high, *_ = intervals.get(name, (None, None))
            found.append((name, value, f"95 %: {low:.4f} to {high:.4f}" if low is not None else ""))
        images = self.run.get("images", {})
        found += [(f"images, {split}", count, "") for split, count in images.items()]
        found += [("best epoch", self.best["epoch"], "")] if self.best else []
        if self.run.get("parameters"):
            found.append(("parameters", self.run["parameters"], ""))
        return found

    def notes(self) -> list[str]:
        """What a reader has to know of the figures."""
        if not self.scored:
            return [
                "These figures are of the best epoch of the training. Wrong images, intervals and "
                f"calibration are missing: ppcls-lite report {self.folder} adds them."
            ]
        methods = {m for *_, m in self.scored.get("intervals", {}).values()}
        how = f" Intervals: {', '.join(sorted(methods))}." if methods else ""
        return [
            "These figures are of the best weights, on the images of DataLoader.Eval, by which "
            f"they were chosen: on new images they will be a little lower.{how}"
        ]

    def curves(self) -> list[Panel]:
        """Every value over the epochs, the main score first."""
        values = (
            (record["kind"], LEARNING_RATE if name == "lr" else name, record["epoch"], value)
            for record in self.records
            if record["kind"] in ("eval", "train")
            for name, value in record.items()
            if type(value) in (int, float) and name not in (*_BESIDE, "peak_rss_mb")
        )
        return panels_of(values, next(iter(self.scores), ""))

    def repeat(self) -> str:
        """The commands that make the same run again."""
        lines = [f"ppcls-lite train -c {self.folder / 'config.yaml'}"]
        if self.versions.get("command"):
            lines.append(f"# it was started by: {self.versions['command']}")
        return "\n".join([*lines, f"ppcls-lite report {self.folder}"])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
