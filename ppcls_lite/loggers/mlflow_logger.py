"""MLflow: parameters, metrics and pictures of a run in a tracking store.

A run that is resumed goes on in the same MLflow run, whose id is kept in the run folder.
Read before: ../engine/loggers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.engine.loggers import Records, numbers_of, place_of
from ppcls_lite.system.files import write_text
from ppcls_lite.system.installed import require


@register("logger", aliases=("mlflow",))
class MLflow:
    """MLflow's store (extra: .[mlflow]).

    tracking_uri: a server or a folder (`file:./mlruns`); null: what MLFLOW_TRACKING_URI says, else
    MLflow's default. experiment: its name.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "ppcls-lite") -> None:
        require("mlflow")
        self._uri, self._experiment = tracking_uri, experiment
        self._client: Any = None

    def open(self, run_dir: Path, hyper_parameters: Mapping[str, Any], kept: Records) -> None:
        from mlflow import MlflowClient

        client, path = MlflowClient(self._uri), Path(run_dir) / "mlflow_run.txt"
        if kept and path.exists():
            self._run = path.read_text(encoding="utf-8").strip()
            client.update_run(self._run, "RUNNING")
            kept = ()
        else:
            found = client.get_experiment_by_name(self._experiment)
            number = found.experiment_id if found else client.create_experiment(self._experiment)
            self._run = client.create_run(number, run_name=str(run_dir)).info.run_id
            write_text(path, f"{self._run}\n")
            for name, value in hyper_parameters.items():
                client.log_param(self._run, name, value)
        self._client = client
        for record in kept:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        curve, chart, x = place_of(record)
        for name, value in numbers_of(record).items():
            self._client.log_metric(self._run, f"{chart}/{curve}/{name}", value, step=x)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        from PIL import Image

        self._client.log_image(self._run, Image.fromarray(picture), f"{tag}_{step}.png")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.set_terminated(self._run)
