"""A network whose answer for some images is NaN or infinite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.cli import main
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.postprocess.base import finite
from ppcls_lite.inference.predictor import Predictor


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images of four greys; the answer is NaN for the second, infinite for the last."""
    files = [tmp_path / f"{level}.png" for level in (0, 80, 160, 240)]
    for file in files:
        cv2.imwrite(str(file), np.full((64, 64, 3), int(file.stem), np.uint8))
    run = PaddleEngine.run

    def broken(self: PaddleEngine, inputs: np.ndarray) -> list[np.ndarray]:
        outputs = run(self, inputs)
        order = np.searchsorted([-1.0, 0.3, 1.5], inputs.mean(axis=(1, 2, 3)))  # (N,)
        outputs[0][order == 1, 0] = np.nan
        outputs[0][order == 3, 0] = np.inf
        return outputs

    monkeypatch.setattr(PaddleEngine, "run", broken)
    return files


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_an_error_entry_where_the_answer_is_no_number(
    exported: Any, levels: list[Path], batch_size: int
) -> None:
    predictor = Predictor(exported.folder, threads=1)
    found = list(predictor.stream(levels, batch_size, keep_going=True))
    assert [result["file"] for result in found] == list(map(str, levels))
    assert ["error" in result for result in found] == [False, True, False, True]
    assert "not a number" in found[1]["error"]
    expected = predictor.predict([levels[0], levels[2]])
    assert [found[0], found[2]] == expected
    with pytest.raises(UserError, match=r"80\.png: the network's answer is not a number"):
        predictor.predict(levels, batch_size)


def test_the_command_ends_with_status_1(
    exported: Any, levels: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.jsonl"
    command = ["predict", "--model", exported.folder, "--input", *levels, "--output", output]
    assert main([*map(str, command), "--threads", "1"]) == 1
    assert "80.png: the network's answer is not a number" in capsys.readouterr().out
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, True, False, True]


def test_which_images_are_finite() -> None:
    scores = np.ones((3, 4), np.float32)
    boxes = np.full((3, 2, 2), 3e38, np.float32)  # their sum is no float32
    assert finite({"scores": scores, "boxes": boxes, "ids": np.ones((3, 1), int)}, 3).all()
    boxes[1, 0, 0] = np.inf
    scores[2, 3] = np.nan
    assert finite({"scores": scores, "boxes": boxes}, 3).tolist() == [True, False, False]
