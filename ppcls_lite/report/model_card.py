"""model_card.md of an exported folder: what it is, what it was trained on, how good it is.

Only what files say is stated; what nobody has measured is said to be missing, for the owner to fill
in. Read before: summary.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.report.summary import RunSummary
from ppcls_lite.system.files import write_text

_CLASSES = 20  # names that are listed


def write_card(path: Path, spec: InferenceSpec, run_dir: Path) -> Path:
    """Write the card of the folder that `spec` describes, trained in `run_dir`; returns the file.

    A run's folder that holds nothing leaves its part out.
    """
    run = RunSummary.of(run_dir)
    lines = [f"# {spec.model_name}", ""]
    lines += _about(spec)
    lines += _scores(run)
    lines += _trained(run) if run.tree else []
    lines += _certainty(spec.calibration, spec)
    lines += ["", "## What is not known", ""]
    lines += [
        "- The licence of the images, and of weights that the training began with.",
        "- How it does on images unlike those of the evaluation: other cameras, places, years.",
        "",
        "Written by ppcls-lite export; change it as you like.",
    ]
    write_text(path, "\n".join(lines) + "\n")
    return path


def _about(spec: InferenceSpec) -> list[str]:
    shape = " x ".join("any" if edge == -1 else str(edge) for edge in spec.image_shape or ())
    names = spec.labels or []
    more = f", and {len(names) - _CLASSES} more" if len(names) > _CLASSES else ""
    lines = [f"- input: {shape} (channels, height, width); output: {', '.join(spec.outputs)}"]
    if names:
        lines.append(f"- {len(names)} classes: {', '.join(names[:_CLASSES])}{more}")
    return [*lines, "- to use it: `ppcls-lite predict --model FOLDER --input IMAGES`"]


def _scores(run: RunSummary) -> list[str]:
    if not run.scores:
        return ["", "## Scores", "", "None is known: no evaluation of the run was found."]
    intervals = run.scored.get("intervals", {})
    lines = ["", "## Scores", "", "| score | value | 95 % interval |", "|---|---:|---|"]
    for name, value in run.scores.items():
        low, high, how = intervals.get(name, (None, None, ""))
        known = f"{low:.4f} to {high:.4f} ({how})" if low is not None else ""
        lines.append(f"| {name} | {value:.4f} | {known} |")
    images = run.run.get("images", {}).get("Eval")
    what = f"the {images:,} images" if images else "the images"
    return [*lines, "", f"Of the run's best weights, on {what} by which they were chosen."]


def _trained(run: RunSummary) -> list[str]:
    loader = run.tree.get("DataLoader") or {}
    data = ((loader.get("Train") or {}).get("dataset") or {}) if isinstance(loader, Mapping) else {}
    places = [str(v) for k, v in data.items() if isinstance(v, str) and "/" in v and k != "name"]
    images = run.run.get("images", {}).get("Train")
    lines = ["", "## Training", "", f"- {run.about}"]
    lines += [f"- images: {images:,}" if images else "- images: not counted"]
    lines += [f"- data: {', '.join(places)}"] if places else []
    lines += [f"- {name}: {value}" for name, value in run.versions.items() if name != "command"]
    optimizer = yaml.safe_dump({"Optimizer": run.tree.get("Optimizer")}, sort_keys=False)
    return [*lines, "", "```yaml", optimizer.strip(), "```"]


def _certainty(facts: Mapping[str, Any], spec: InferenceSpec) -> list[str]:
    (arguments,) = spec.postprocess.values()
    if not facts:
        return []
    lines = ["", "## Certainty", ""]
    lines += [f"- {name}: {_shown(value)}" for name, value in facts.items()]
    used = {k: v for k, v in (arguments or {}).items() if k in ("temperature", "reject_below")}
    told = ", ".join(
        f"{name} {_listed(value)}" for name, value in used.items() if value is not None
    )
    return [*lines, f"- in use: {told or 'nothing; the scores are the own ones of the network'}"]


def _listed(value: Any) -> str:
    """A number, or one for each class."""
    return "; ".join(map(_listed, value)) if isinstance(value, list) else f"{value:g}"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
