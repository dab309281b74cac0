"""The benchmark of cold starts, cut short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.speed import start
from ppcls_lite.errors import UserError
from ppcls_lite.inference.engines import available_engines
from ppcls_lite.inference.export import export_model
from ppcls_lite.models.create import create_model
from ppcls_lite.system.installed import missing


@pytest.mark.skipif(bool(missing("onnx")), reason=str(missing("onnx")))
def test_every_engine_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    network = create_model("PPLCNet_x0_25", class_num=2)
    network.eval()
    steps = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    answers = {"Topk": {"topk": 1}}
    export_model(network, tmp_path / "model", (3, 32, 32), steps, answers, format="both")
    arguments = ["--model", str(tmp_path / "model"), "--rounds", "1", "--at-most", "0"]
    capsys.readouterr()
    assert start.run(arguments) == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = [re.fullmatch(r"(\w[\w, ]*?) +([\d.]+) +([\d.]+)", line) for line in lines]
    here = [name for name, reason in available_engines().items() if reason is None]
    assert {row[1] for row in rows} == {*here, *([start.EMPTY] if "openvino" in here else [])}
    assert all(float(row[2]) > 0 for row in rows)


def test_a_folder_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="gave no answer"):
        start.run(["--model", str(tmp_path), "--rounds", "1"])
