"""Weights & Biases: a run in a project, online or offline.

A run that is resumed goes on in the same run of Weights & Biases, whose id is kept in the run
folder. Read before: ../engine/loggers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.engine.loggers import Records, numbers_of, place_of
from ppcls_lite.system.files import write_text
from ppcls_lite.system.installed import require


@register("logger", aliases=("wandb",))
class WandB:
    """Weights & Biases (extra: .[wandb]).

    project, entity: where the run is listed. mode: offline keeps it in `RUN_FOLDER/wandb`, for
    `wandb sync`; null: what WANDB_MODE says, else online.
    """

    def __init__(
        self,
        project: str = "ppcls-lite",
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
    ) -> None:
        require("wandb")
        self._options = {"project": project, "entity": entity, "mode": mode}
        self._run: Any = None

    def open(self, run_dir: Path, hyper_parameters: Mapping[str, Any], kept: Records) -> None:
        import wandb

        path = Path(run_dir) / "wandb_run.txt"
        known = path.read_text(encoding="utf-8").strip() if kept and path.exists() else None
        self._run = wandb.init(
            **self._options,
            dir=str(run_dir),
            name=str(run_dir),
            id=known,
            resume="allow" if known else None,
            config=dict(hyper_parameters),
        )
        self._run.define_metric("epoch/*", step_metric="epoch")
        self._run.define_metric("step/*", step_metric="update")
        write_text(path, f"{self._run.id}\n")
        for record in () if known else kept:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        curve, chart, x = place_of(record)
        values = {f"{chart}/{curve}/{name}": v for name, v in numbers_of(record).items()}
        self._run.log(values | {"update" if chart == "step" else "epoch": x})

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        import wandb

        self._run.log({tag: wandb.Image(picture), "update": step})

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish()
