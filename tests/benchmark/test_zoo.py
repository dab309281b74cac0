"""The table that decides: its file, its front, its page and picture, and a tiny measurement."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ppcls_lite.benchmark import models as networks
from ppcls_lite.benchmark import zoo_choice, zoo_command, zoo_figure, zoo_file, zoo_run
from ppcls_lite.benchmark.result import Result, Setting
from ppcls_lite.benchmark.zoo_file import Line, ZooFile
from ppcls_lite.cli import main
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import UserError

HOW = {"settings": ["openvino fp32, 1 thread"], "rounds": 3, "seconds": 0.3}


def line(model: str, ms: float, engine: str = "openvino", precision: str = "fp32") -> Line:
    return Line(model, engine, precision, 1, ms, False)


LINES = [
    line("PPLCNet_x0_25", 0.5),  # 51.86
    line("PPLCNet_x0_5", 0.9),  # 66.10 distilled
    line("PPLCNet_x0_5", 0.7, "onnxruntime"),
    line("MobileNetV2_x0_25", 0.8),  # 53.21: behind PPLCNet_x0_5
    line("PPHGNetV2_B0", 3.0),  # 77.77, distilled alone
    line("PPLCNetV2_base", 3.0),  # 77.04: as fast, less accurate
    line("PPLCNet_x0_25", 0.9, "paddle", "bf16"),
]


def test_every_network_with_an_accuracy_is_chosen() -> None:
    names = zoo_run.chosen(["*"])
    assert {"PPHGNetV2_B3", "LeViT_128", "PPLCNet_x0_25"} <= set(names)
    assert "PPLCNetV3_x1_0" not in names  # nothing is published
    assert zoo_run.chosen(["StarNet*", "PPLCNet_x0_25"])[0] == "PPLCNet_x0_25"
    with pytest.raises(UserError, match="is named like 'NoNet"):
        zoo_run.chosen(["PPLCNet*", "NoNet*"])


def test_the_front_has_what_nothing_beats() -> None:
    columns = zoo_choice.fastest(LINES)
    assert list(columns) == [("fp32", 1), ("bf16", 1)]
    assert columns["fp32", 1]["PPLCNet_x0_5"].engine == "onnxruntime"
    found = zoo_choice.front(columns["fp32", 1])
    assert found == ["PPLCNet_x0_25", "PPLCNet_x0_5", "PPHGNetV2_B0"]
    for name in columns["fp32", 1]:  # by the definition
        beaten = any(
            ZOO[other].accuracy >= ZOO[name].accuracy
            and times.ms <= columns["fp32", 1][name].ms
            and other != name
            for other, times in columns["fp32", 1].items()
        )
        assert beaten == (name not in found)


def test_the_table_marks_it_and_names_sizes() -> None:
    file = ZooFile("a machine", HOW, [*LINES, line("MobileNetV4_conv_medium", 9.0)])
    heads, *rows = zoo_choice.table(file)
    assert heads[3:5] == ["fp32, 1 thread (ms)", "bf16, 1 thread (ms)"]
    by_name = {row[0]: row for row in rows}
    assert rows[0][0] == "MobileNetV4_conv_medium"  # the most accurate first
    assert by_name["PPLCNet_x0_5"][1:4] == ["66.10 SSLD (63.14)", "224", "**0.70** R"]
    assert by_name["MobileNetV2_x0_25"][3:5] == ["0.80 V", "-"]
    medium = by_name["MobileNetV4_conv_medium"]
    assert medium[2] == "256" and "FLOPs are for 320 x 320; accuracy at 256 x 256" in medium[-1]
    assert [row[0] for row in zoo_choice.table(file, 0.75)[1:]] == ["PPLCNet_x0_5", "PPLCNet_x0_25"]
    assert "2 of 6 networks fit 0.75 ms; the most accurate is PPLCNet_x0_5" in zoo_choice.fits(
        file, 0.75
    )
    assert "the next is PPLCNet_x0_25: 0.5 ms" in zoo_choice.fits(file, 0.1)
    assert "R ONNX Runtime" in zoo_choice.legend(file)


def test_an_unsteady_result_is_judged_by_its_quiet_runs() -> None:
    steady = Result("PPLCNet_x0_25", Setting("paddle", "fp32", 1), 1, [[1.0, 1.0], [1.0, 1.02]])
    shaky = Result("PPLCNet_x0_25", Setting("paddle", "fp32", 1), 1, [[1.0, 1.0], [3.0, 9.0]])
    assert (Line.of(steady).ms, Line.of(steady).unsteady) == (1.0, False)
    assert (Line.of(shaky).ms, Line.of(shaky).unsteady) == (1.0, True)


def test_the_file_goes_on_only_as_it_began(tmp_path: Path) -> None:
    path = tmp_path / "zoo.json"
    file = ZooFile("a machine", HOW, LINES, {"LeViT_128": "cannot"})
    file.write(path)
    assert zoo_file.read(path) == file
    assert json.loads(path.read_text())["lines"][0][0] == "PPLCNet_x0_25"
    assert zoo_file.goes_on(path, "a machine", HOW).models == file.models
    with pytest.raises(UserError, match="rounds: 3 -> 5"):
        zoo_file.goes_on(path, "a machine", HOW | {"rounds": 5})
    ZooFile("a machine", HOW, [line("NoNet", 1.0)]).write(path)
    with pytest.raises(UserError, match="the zoo has no NoNet"):
        zoo_file.read(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="is no measurement of the zoo"):
        zoo_file.read(path)


def test_the_picture_has_a_dot_for_each_network(tmp_path: Path) -> None:
    path = tmp_path / "zoo.svg"
    zoo_figure.draw(ZooFile("a machine", HOW, LINES), path)
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    tips = [node.text for node in root.iter(f"{space}title")]
    assert len(tips) == 6 and "PPHGNetV2_B0: 77.77 %, 3.00 ms, openvino" in tips
    assert len(list(root.iter(f"{space}polyline"))) == 2  # a front for each precision


def test_a_page_takes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "kept.json", tmp_path / "page.md"
    ZooFile("a machine", HOW, LINES).write(path)
    page.write_text(f"before\n{zoo_choice.BEGIN}\nold\n{zoo_choice.END}\nafter\n")
    assert main(["benchmark", "--report", str(path), "--into", str(page)]) == 0
    text = page.read_text()
    assert "| PPHGNetV2_B0 | 77.77 SSLD |" in text and "\nold\n" not in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert (tmp_path / "kept.svg").is_file() and (tmp_path / "kept.md").is_file()
    page.write_text("no marks")
    assert main(["benchmark", "--report", str(path), "--into", str(page)]) == 1
    assert "expected one line <!-- zoo: begin -->" in capsys.readouterr().err
    assert main(["benchmark", "--report", str(tmp_path / "none.json")]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert main(["benchmark", "--into", str(page)]) == 1
    assert "goes with --report" in capsys.readouterr().err


def test_a_measurement_goes_on_and_names_what_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With images of 32 pixels; a network that cannot be exported costs the others nothing."""
    real = networks.prepare

    def prepare(names, folder, job, *others):
        if "MobileNetV2_x0_25" in names:
            raise UserError("cannot be exported\nat all")
        return real(names, folder, networks.Job((32, 32)), *others)

    monkeypatch.setattr(networks, "prepare", prepare)
    monkeypatch.setattr(zoo_run, "_groups", lambda names: [(32, names)])
    command = ["benchmark", "--engines", "paddle", "--precisions", "fp32", "--threads", "1"]
    command += ["--rounds", "1", "--seconds", "0", "--output", str(tmp_path), "--zoo"]
    wanted = ["--filter", "PPLCNet_x0_25", "MobileNetV2_x0_25"]
    assert main([*command, *wanted]) == 0
    printed = capsys.readouterr().out
    assert "2 networks, 2 to be measured with 1 settings" in printed
    assert "Not measured: MobileNetV2_x0_25: cannot be exported." in printed
    before = (tmp_path / "zoo.json").read_bytes()
    assert main([*command, *wanted, "--latency-budget", "9999ms"]) == 0
    printed = capsys.readouterr().out
    assert "2 networks, 0 to be measured" in printed and "1 of 1 networks fit 9999 ms" in printed
    assert (tmp_path / "zoo.json").read_bytes() == before
    assert main([*command, "--filter", "PPLCNet_x0_25", "--batch-sizes", "2"]) == 1
    assert "one image at a time" in capsys.readouterr().err


def test_what_is_measured_as_the_zoo() -> None:
    from ppcls_lite.benchmark.cli import _fill_defaults, _parser

    for words, expected in {
        "--zoo": True,
        "--zoo PPLCNet*": True,
        "--latency-budget 2ms": True,
        "--arch PPLCNet_x0_25 --latency-budget 2ms": False,
        "--model folder": False,
    }.items():
        options = _parser(None).parse_args(words.split())
        budget = 2.0 if "budget" in words else None
        assert zoo_command.wanted(options, budget) == expected, words
        _fill_defaults(options, expected)
        assert options.rounds == (3 if expected else 5)
        all_of_them = expected and budget is None
        assert options.precisions == (["fp32", "bf16", "int8"] if all_of_them else ["fp32"])
