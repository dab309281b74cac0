"""`benchmark.py table`: its contenders do what their names say, and its ratios are right."""

from __future__ import annotations

import json

import pytest

from experiments.speed import contender, table
from experiments.speed.data import generate
from experiments.speed.table import Measured, Row
from ppcls_lite.errors import UserError

SMALL = ["--arch", "PPLCNet_x0_25", "--batch-size", "2", "--image-size", "32", "--steps", "1"]
SMALL += ["--rounds", "1", "--eval-images", "4"]


def test_the_contenders_of_a_machine():
    names = [row.name for row in table.rows(table.PARTS, 2, torch=True)]
    assert names[:4] == [
        "Paddle as it is",
        "toolkit, 1 thread",
        "toolkit, 1 process of 2 threads",
        "toolkit, 2 processes",
    ]
    assert "PyTorch channels_last, 2 threads" in names
    assert [row.aim for row in table.rows(["train"], 2, torch=False)] == [None, 2.5, 3.0, 5.0]
    assert len(table.rows(["train"], 1, torch=True)) == 3  # one core: one thread, one process
    eight = table.rows(["train"], 8, torch=False)
    assert [(row.processes, row.cores) for row in eight] == [(1, 1), (1, 1), (1, 8), (2, 4)]


def test_ratios_are_taken_round_by_round():
    first, second = Row("eval", "network", "network", 1, 2), Row("eval", "graph", "graph", 1, 2, 4)
    other = Row("data", "naive", "naive", 1, 1)
    found = {
        first: Measured([10, 100, 20], [0.1, 0.1, 0.1]),  # a machine that was busy in two rounds
        second: Measured([50, 400, 60], [0.02, 0.025, 0.03]),
        other: Measured([7, 7, 7], [0.2, 0.2, 0.2]),
    }
    assert table.ratio(found, second) == 4
    assert table.ratio(found, other) == table.ratio(found, first) == 1
    lines = table.table(found)
    assert lines[3] == "| eval | graph | 60.0 | 4.00x | 25.00 | 4x met |"
    found[second].speeds = [39, 390, 60]
    assert table.table(found)[3].endswith("| 4x missed |")


def test_a_run_in_processes(tmp_path, capsys):
    prefix = tmp_path / "out" / "speed"
    options = [*SMALL, "--parts", "train", "--no-torch", "--output", str(prefix)]
    assert table.run(options) == 0
    printed = capsys.readouterr().out
    assert "| train | Paddle as it is |" in printed and "1.00x" in printed
    assert prefix.with_suffix(".md").read_text(encoding="utf-8").strip() == printed.strip()
    saved = json.loads(prefix.with_suffix(".json").read_text(encoding="utf-8"))
    assert saved["options"]["arch"] == "PPLCNet_x0_25" and saved["versions"]["paddlepaddle"]
    for row in saved["rows"]:
        assert len(row["speeds"]) == 1 and row["speeds"][0] > 0 and row["cpu"][0] > 0


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is no folder"):
        table.run(["--output", str(tmp_path / "file" / "table")])


def test_a_contender_that_ends_is_named(capfd):
    with pytest.raises(UserError, match=r"the process of 'Paddle as it is' \(train\) has ended"):
        table.run([*SMALL, "--parts", "train", "--no-torch", "--arch", "PPLCNet_x9"])
    assert "PPLCNet_x9" in capfd.readouterr().err


@pytest.fixture
def options(tmp_path):
    """What a contender is told."""
    (tmp_path / "images").mkdir()
    generate(tmp_path / "images", 3)
    told = ["--kind", "graph", "--threads", "1", "--data", str(tmp_path / "images")]
    parsed = contender.parser().parse_args([*SMALL, *told])
    parsed.folder = str(tmp_path)
    return parsed


@pytest.mark.parametrize(
    ("kind", "images"),
    [("stock", 2), ("network", 4), ("graph", 4), ("naive", 3), ("chain", 3), ("reduced", 3)],
)
def test_what_a_contender_measures(kind, images, options):
    one_round, parameters = contender.KINDS[kind](options)
    found, wall, cpu = one_round()
    assert found == images and min(wall, cpu) > 0
    assert parameters == (0 if kind in ("naive", "chain", "reduced") else 1_521_184)


def test_the_cache_is_full_after_the_first_round(options, monkeypatch):
    from ppcls_lite.data.transforms import decode

    reads, read = [], decode.read_file
    monkeypatch.setattr(decode, "read_file", lambda path: reads.append(path) or read(path))
    one_round, _ = contender.KINDS["cached"](options)
    one_round()
    one_round()
    assert len(reads) == 3


def test_the_network_in_pytorch_is_the_same():
    pytest.importorskip("torch", reason="PyTorch is an option of the benchmark")
    from experiments.speed.torch_pplcnet import pplcnet
    from ppcls_lite.models.create import create_model

    for scale, name in ((0.25, "PPLCNet_x0_25"), (0.5, "PPLCNet_x0_5"), (2.5, "PPLCNet_x2_5")):
        shapes = sorted(tuple(p.shape) for p in pplcnet(scale, 7).parameters())
        ours = [p for p in create_model(name, class_num=7).parameters() if not p.stop_gradient]
        as_torch = sorted(tuple(p.shape[::-1] if p.ndim == 2 else p.shape) for p in ours)
        assert shapes == as_torch
