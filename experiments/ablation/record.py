"""What a row has to show for itself: the settings that decide its result, and the result.

`row.json` in a row's folder is written when its training begins, without a score, and again when it
has ended. So a later call knows whether the row is finished, was interrupted, or was trained under
other settings. Read before: plan.py. Read next: ablate.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.ablation.table import Score
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import write_text

FILE = "row.json"
Settings = dict[str, Any]  # flat: dotted key -> plain value

# They leave the result as it is: a finished row stays valid when they change.
WITHOUT_EFFECT = (
    *("Global.output_dir", "Global.checkpoints", "Global.print_batch_step"),
    *("Global.use_visualdl", "Global.save_interval", "Global.save_inference_dir"),
    *("DataLoader.Train.loader", "DataLoader.Eval.loader", "Infer"),
)


@dataclasses.dataclass(frozen=True)
class Record:
    """A row as an earlier call left it; without `score` it was interrupted."""

    settings: Settings
    score: Score | None


def read(folder: Path) -> Record | None:
    """The record of a row's folder, None if it has none; UserError if it is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        score = found["score"] and Score(**found["score"])
        return Record(dict(found["settings"]), score)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a record of this tool ({error}); remove the folder {folder} to train "
            "the row again, or choose another --output"
        ) from None


def write(folder: Path, settings: Mapping[str, Any], score: Score | None) -> None:
    """Keep the settings, and the score once there is one."""
    found = {"score": score and dataclasses.asdict(score), "settings": dict(settings)}
    write_text(folder / FILE, json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def settings_of(tree: dict[str, Any]) -> Settings:
    """What decides a run's result, with digests of its two lists."""
    flat = {
        key: value
        for key, value in flatten(tree).items()
        if not any(key == skip or key.startswith(f"{skip}.") for skip in WITHOUT_EFFECT)
    }
    for split in ("Train", "Eval"):
        key = f"DataLoader.{split}.dataset.cls_label_path"
        path = flat.get(key)
        if isinstance(path, str) and Path(path).is_file():
            flat[f"{key} (content)"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return json.loads(json.dumps(flat))  # as it comes back from a file


def flatten(tree: Any, path: str = "") -> Settings:
    """Leaves by dotted key; lists of plain values and empty maps are leaves."""
    if isinstance(tree, list) and any(isinstance(item, (dict, list)) for item in tree):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    prefix = f"{path}." if path else ""
    return {k: v for key, item in tree.items() for k, v in flatten(item, f"{prefix}{key}").items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for every setting that is not the same."""
    shown = {key: (_shown(old, key), _shown(new, key)) for key in dict.fromkeys([*old, *new])}
    return [f"{key}: {was} -> {now}" for key, (was, now) in shown.items() if was != now]


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "(not set)"
