"""How far a run is, in its folder: status.json, for whoever lists runs.

Written at the start, after every epoch and at the end. A run that was killed leaves `running`
behind; that it does not run is known by the lock of its folder (run_folder.py).
Read before: callbacks.py. Read next: run_list.py.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppcls_lite.engine.callbacks import Callback, FitResult, Progress
from ppcls_lite.engine.run_list import NAME, RUNNING, read_status
from ppcls_lite.system.files import write_text


class RunStatus(Callback):
    """Keeps status.json. With `failing()` around the run, an error is kept there, too."""

    def __init__(self) -> None:
        self._seconds, self._since = 0.0, time.monotonic()
        self._values: dict[str, Any] = {}
        self._path: Path | None = None

    @property
    def seconds(self) -> float:
        """How long the run has trained so far, before resumes included."""
        return self._seconds + time.monotonic() - self._since

    def on_start(self, run: Progress) -> None:
        self._path, self._since = run.run_dir / NAME, time.monotonic()
        earlier = read_status(run.run_dir) if run.updates else {}
        self._seconds = float(earlier.get("seconds", 0.0))
        began = earlier.get("began") or time.strftime("%Y-%m-%d %H:%M:%S")
        self._values |= {"began": began}
        self._write(RUNNING, "", run)

    def on_epoch(self, run: Progress, done: Mapping[str, Any]) -> None:
        self._write(RUNNING, "", run)

    def on_end(self, run: Progress, result: FitResult) -> None:
        self._write("done" if result.complete else "stopped", result.why, run)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """An error of the block is the run's."""
        try:
            yield
        except BaseException as error:
            if self._path is not None:
                first = (str(error) or type(error).__name__).splitlines()[0]
                self._values |= {"status": "failed", "why": first[:300], "seconds": self.seconds}
                with contextlib.suppress(OSError):  # the error itself may be a full disk
                    self._flush()
            raise

    def _write(self, status: str, why: str, run: Progress) -> None:
        scores = run.best.get("scores", {})
        main = next(iter(scores), None)
        self._values |= {
            "status": status,
            "why": why,
            "epoch": len(run.history),
            "epochs": run.epochs,
            "main": main,
            "higher_is_better": run.higher_is_better,
            "best": scores.get(main),
            "best_epoch": run.best.get("epoch"),
            "seconds": round(self.seconds, 1),
        }
        self._flush()

    def _flush(self) -> None:
        write_text(self._path, json.dumps(self._values, indent=2) + "\n")
