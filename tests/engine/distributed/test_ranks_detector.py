"""Two processes over gloo train a detector as one does, with images that show nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.engine.distributed import World
from ppcls_lite.system import safe_pickle
from tests.engine.distributed import detector_rank_program


def test_two_ranks_train_a_detector_as_one_does(tmp_path: Path, launch: Any) -> None:
    two = launch(tmp_path / "log", detector_rank_program.__file__, tmp_path / "2")
    detector_rank_program.run(World(), tmp_path / "1")
    output, _ = two.communicate(timeout=120)
    assert two.returncode == 0, output
    weights = [safe_pickle.load(tmp_path / n / "latest.pdparams") for n in "12"]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    first, second = (
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in "12"
    )
    assert len(first) == len(second) >= 4
    for one, other in zip(first, second):
        for term in ("loss_vfl", "loss_bbox", "loss_dfl"):
            assert one[term] == pytest.approx(other[term], rel=1e-3), (one, other)
    assert first[0]["loss_bbox"] > 0.1 and first[0]["loss_dfl"] > 0.1
