"""How long candidates take on this machine: measured, piece by piece and as a whole.

The latencies of a network's pieces are kept in a table for each machine, engine, precision and
thread count; their sum, brought to scale by some networks that were measured as a whole, is the
estimate that a search filters by. Whoever comes near the end is measured as a whole.
Read before: space.py, ../benchmark/turns.py (the measurement). Read next: whole.py, budget.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_lite.benchmark.models import steady
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.benchmark.turns import Process
from ppcls_lite.inference.auto.cache import ChoiceCache
from ppcls_lite.inference.auto.choose import choose
from ppcls_lite.inference.engines.files import ONNX_NAMES
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.onnx.export import write_onnx
from ppcls_lite.inference.shipped import Shipped, save_program
from ppcls_lite.inference.spec import InferenceSpec
from ppcls_lite.search.space import Piece
from ppcls_lite.system.files import write_text
from ppcls_lite.system.home import home_folder
from ppcls_lite.system.machine import cpu_model, installed_versions, usable_cores

logger = logging.getLogger("ppcls_lite")
TOGETHER = 40  # networks that take turns
_PACKAGES = ("paddlepaddle", "openvino", "onnxruntime")
_ROUNDS, _LEAST = 7, 4  # turns of each network, and its runs in each of them at least
_SECONDS = 0.02  # of a turn
_CHOICE_S = 30.0  # for finding the fastest engine


class _Start(nn.Layer):
    """A piece whose feature is cut to one place, so that nothing large has to be handed over."""

    def __init__(self, piece: nn.Layer) -> None:
        super().__init__()
        self.piece = piece

    def forward(self, x: Tensor) -> Tensor:
        x = self.piece(x)
        return x[:, :, :1, :1].flatten(1) if x.ndim == 4 else x  # (N, C)


class Meter:
    """Measures networks with one engine setting, pinned, in turns.

    cores: logical processors, as many as the setting has threads.
    say: gets a line now and then.
    """

    def __init__(
        self, setting: Setting, cores: Sequence[int], say: Callable[[str], None] = logger.info
    ) -> None:
        self.setting, self.cores, self.say = setting, cores, say

    def __call__(self, pieces: Sequence[Piece]) -> dict[str, float]:
        """The latency of each, in ms, batch 1: the median of its best turn.

        Other programs of the machine spoil whole turns, never all of them.
        """
        found: dict[str, float] = {}
        for start in range(0, len(pieces), TOGETHER):
            with tempfile.TemporaryDirectory() as folder:
                found |= self._measured(pieces[start : start + TOGETHER], Path(folder))
            if len(pieces) > TOGETHER:
                self.say(f"latency: {len(found)} of {len(pieces)} measured")
        return found

    def _measured(self, pieces: Sequence[Piece], folder: Path) -> dict[str, float]:
        for number, piece in enumerate(pieces):
            self._export(piece, folder / str(number))
        turns: dict[str, list[float]] = {piece.name: [] for piece in pieces}
        with Process(self.setting, self.cores, folder / "worker.log") as process:
            for number, piece in enumerate(pieces):
                place, shape = str(folder / str(number)), [1, *piece.shape]
                process.ask(do="load", model=piece.name, folder=place, shapes=[shape])
            chance = np.random.default_rng(0)
            for _ in range(_ROUNDS):
                for number in chance.permutation(len(pieces)):
                    piece = pieces[number]
                    asked = {"model": piece.name, "shape": [1, *piece.shape]}
                    answer = process.ask(do="turn", least=_LEAST, seconds=_SECONDS, **asked)
                    turns[piece.name].append(statistics.median(answer["ms"]))
        return {name: min(medians) for name, medians in turns.items()}

    def _export(self, piece: Piece, folder: Path) -> None:
        """What the engine runs, without the checks of an export: these weights are noise."""
        folder.mkdir()
        with paddle.utils.unique_name.guard():
            network = piece.build()
            network = _Start(network) if piece.feature else network
        steady(network, (piece.shape[1], piece.shape[2]), piece.shape[0])
        shipped = Shipped(network)
        shipped.eval()
        shipped.reparameterize()
        save_program(shipped, folder, piece.shape)
        if self.setting.engine != "paddle":
            write_onnx(folder, folder / ONNX_NAMES["fp32"], "")


class LatencyTable:
    """The latencies of pieces, in ms, kept in the user's folder for this machine and setting."""

    def __init__(
        self,
        setting: Setting,
        measure: Callable[[Sequence[Piece]], Mapping[str, float]],
        folder: Path | None = None,
    ) -> None:
        self._measure = measure
        key = [cpu_model(), usable_cores(), installed_versions(_PACKAGES)]
        key += [setting.engine, setting.precision, setting.threads]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        self.path = (folder or home_folder() / "latency") / f"{name}.json"
        self._times: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            self._times = {str(piece): float(ms) for piece, ms in kept["pieces"].items()}
        self._setting = setting

    def require(self, pieces: Iterable[Piece]) -> None:
        """Measure those that the table lacks, and keep them."""
        new = {piece.name: piece for piece in pieces if piece.name not in self._times}
        if not new:
            return
        self._times |= self._measure([*new.values()])
        content = {"cpu": cpu_model(), "setting": str(self._setting), "pieces": self._times}
        write_text(self.path, json.dumps(content, indent=1, sort_keys=True))

    def total(self, pieces: Sequence[Piece]) -> float:
        """The sum of the pieces' latencies, which must be in the table."""
        return sum(self._times[piece.name] for piece in pieces)

    def __len__(self) -> int:
        return len(self._times)


class Scale:
    """From sums of pieces to latencies of networks: a factor, and an amount for each piece.

    A piece alone pays for the call of the engine and for bringing its input into the engine's
    order, which inside a network nobody does. Fitted by least squares on networks of which both
    are known; before there are three, the sum itself is the estimate.
    """

    def __init__(self) -> None:
        self._factors = np.array([1.0, 0.0, 0.0])  # of the sum, of the count, alone

    def fit(self, sums: Sequence[float], counts: Sequence[int], ms: Sequence[float]) -> None:
        """`sums` and `counts` of the pieces of networks that take `ms` as a whole."""
        if len(ms) < 3:
            return
        columns = [np.asarray(sums), np.asarray(counts, float), np.ones(len(ms))]
        varied = [i for i in range(3) if i != 1 or np.ptp(columns[1]) > 0]
        rows = np.stack([columns[i] for i in varied], 1) / np.asarray(ms)[:, None]  # relative
        found = np.linalg.lstsq(rows, np.ones(len(ms)), rcond=1e-6)[0]
        self._factors = np.zeros(3)
        self._factors[varied] = found

    def __call__(self, total: float, count: int) -> float:
        """The estimate for a network, ms."""
        return float(self._factors @ [total, count, 1.0])


def fastest(piece: Piece, setting: Setting) -> tuple[str, str]:
    """Engine and precision that answer fastest for a whole network, as engine="auto" chooses.

    Of `setting` threads and precision count; "any" leaves the latter open too.
    """
    precision = None if setting.precision == "any" else setting.precision
    shape = piece.shape
    network = steady(piece.build(), (shape[1], shape[2]), shape[0])
    steps = [{"ResizeImage": {"size": [shape[2], shape[1]]}}, {"NormalizeImage": {"order": ""}}]
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "model"
        export_model(network, folder, shape, steps, format="both")
        spec = InferenceSpec.read(folder)
        cache = ChoiceCache(Path(room) / "choices")
        asked = {"precision": precision, "budget_s": _CHOICE_S, "cache": cache, "apart": True}
        choice = choose(folder, spec, (1, *shape), setting.threads, **asked)
    return choice.engine, choice.precision


def errors(estimated: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Median and largest relative error of estimates."""
    off = [abs(e - m) / m for e, m in zip(estimated, measured)]
    return statistics.median(off), max(off)
