"""In a distillation, too, two processes over gloo compute what one does, in all that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.engine.distributed import World
from ppcls_lite.system import safe_pickle
from tests.engine.distributed import distilled_rank_program


def test_student_fellow_and_adapter_learn_the_same_in_two_processes(
    tmp_path: Path, launch: Any
) -> None:
    two = launch(tmp_path / "log", distilled_rank_program.__file__, tmp_path / "2")
    distilled_rank_program.run(World(), tmp_path / "1")
    output, _ = two.communicate(timeout=120)
    assert two.returncode == 0, output
    one = safe_pickle.load(tmp_path / "1" / "rank_0.pdparams")
    ranks = [safe_pickle.load(tmp_path / "2" / f"rank_{rank}.pdparams") for rank in (0, 1)]
    assert {name.split(".")[0] for name in one} == {"model", "Fellow", "loss", "Teacher"}
    for name, value in one.items():
        assert np.array_equal(ranks[0][name], ranks[1][name]), name
        np.testing.assert_allclose(value, ranks[0][name], rtol=1e-3, atol=2e-5, err_msg=name)
