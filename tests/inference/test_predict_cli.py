"""The predict command: what it takes, what it writes, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.cli import main
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.output import ResultFile, table_lines
from ppcls_lite.inference.cli.predict import Stopwatch, run
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.inference.postprocess.attributes import TableAttribute
from ppcls_lite.inference.postprocess.classify import Topk

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["a.png", "b.JPG", "more of them/c.jpeg", "ü 1.bmp"]  # sorted


@pytest.fixture
def predict(exported: Any) -> Any:
    def call(*arguments: object) -> int:
        return run(["--model", str(exported.folder), "--threads", "1", *map(str, arguments)])

    return call


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_is_searched_recursively(
    predict: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "results.jsonl"
    assert predict("--input", pictures, "--output", out, "--batch-size", 3) == 0
    results = read_lines(out)
    assert [r["file"] for r in results] == [str(pictures / name) for name in NAMES]
    for result in results:
        assert len(result["class_ids"]) == len(result["scores"]) == 3
        assert result["scores"] == sorted(result["scores"], reverse=True)
        assert isinstance(result["label_names"][0], str)
    shown = capsys.readouterr().out
    best = results[0]
    row = f"{best['class_ids'][0]:>6}  {best['scores'][0]:6.4f}  {best['label_names'][0]}"
    assert row in shown
    assert "4 images, 0 unreadable" in shown
    assert "batch 3, 1 thread, paddle fp32" in shown
    assert "inference " in shown and "pre-processing " in shown


def test_csv_holds_names_as_they_are(predict: Any, pictures: Path, tmp_path: Path) -> None:
    """A spreadsheet may compute them: docs/deployment.md says how to import them."""
    odd = pictures / "=1+1,@x.png"
    (pictures / "a.png").rename(odd)
    assert predict("--input", odd, "--output", tmp_path / "r.csv", "--topk", "1") == 0
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == str(odd)
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert "a spreadsheet may compute a cell that begins with" in " ".join(text.split())


def test_csv_has_one_row_per_class(predict: Any, pictures: Path, tmp_path: Path) -> None:
    lines, table = tmp_path / "r.jsonl", tmp_path / "r.csv"
    for out in (lines, table):
        assert predict("--input", pictures, "--topk", 2, "--output", out) == 0
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        [r["file"], str(rank), str(r["class_ids"][rank - 1]), str(r["scores"][rank - 1]), label, ""]
        for r in read_lines(lines)
        for rank, label in enumerate(r["label_names"], start=1)
    ]
    assert [list(row.values()) for row in rows] == expected
    assert len(rows) == 8


def test_bad_images_are_entries_and_the_status_is_1(
    predict: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "aa.jpg").write_bytes(b"")
    (pictures / "c.png").write_bytes((pictures / "a.png").read_bytes()[:100])
    for batch_size in (1, 4):
        out = tmp_path / f"{batch_size}.jsonl"
        assert predict("--input", pictures, "--output", out, "--batch-size", batch_size) == 1
        results = {Path(r["file"]).name: r for r in read_lines(out)}
        assert len(results) == 6
        assert "the file is empty" in results.pop("aa.jpg")["error"]
        assert "truncated PNG" in results.pop("c.png")["error"]
        assert all(len(r["class_ids"]) == 3 for r in results.values())
        shown = capsys.readouterr().out
        assert "6 images, 2 unreadable" in shown and "error: the file is empty" in shown
    assert predict("--input", pictures, "--output", tmp_path / "bad.csv") == 1
    with (tmp_path / "bad.csv").open(encoding="utf-8", newline="") as file:
        errors = [row["error"] for row in csv.DictReader(file) if row["error"]]
    assert len(errors) == 2


def test_only_bad_images(predict: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no jpeg")
    assert predict("--input", tmp_path / "x.jpg") == 1


def test_a_long_table_is_cut_only_if_a_file_has_the_rest(
    predict: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = tmp_path / "many.txt"
    many.write_text(f"{pictures / 'a.png'}\n" * 30, encoding="utf-8")
    assert predict("--input", many, "--topk", 1) == 0
    assert capsys.readouterr().out.count("a.png") == 30
    out = tmp_path / "r.jsonl"
    assert predict("--input", many, "--topk", 1, "--output", out) == 0
    shown = capsys.readouterr().out
    assert shown.count("a.png") == 20 and f"the other 10 only go to {out}" in shown
    assert len(read_lines(out)) == 30


def test_lists_of_paths(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = pictures / "list.txt"
    lines = [
        *("a.png 3", "b.JPG\t7", "more of them/c.jpeg", "ü 1.bmp,0", "", "gone.png 1"),
        *("more of them/no suffix", str(pictures / "a.png") + " 1,0,1", "a.png\r"),
    ]
    listed.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    expected = [*("a.png", "b.JPG", "more of them/c.jpeg", "ü 1.bmp", "gone.png")]
    expected += ["more of them/no suffix", "a.png", "a.png"]
    assert find_images([listed]) == [pictures / name for name in expected]

    monkeypatch.chdir(pictures)  # paths relative to where the command runs are found too
    elsewhere = tmp_path / "list.csv"
    elsewhere.write_text("a.png,0\n", encoding="utf-8")
    assert find_images([elsewhere]) == [Path("a.png")]
    assert find_images(["a.png", "more of them"]) == [Path("a.png"), Path("more of them/c.jpeg")]


def test_inputs_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder \(looked in"):
        find_images(["nowhere"])
    with pytest.raises(UserError, match="no images in this folder or below it"):
        find_images([tmp_path])
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"empty.txt: the list is empty"):
        find_images([tmp_path / "empty.txt"])
    (tmp_path / "latin.txt").write_bytes("ü.png".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt: not a UTF-8 text file"):
        find_images([tmp_path / "latin.txt"])


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in .jsonl or .csv"):
        ResultFile(tmp_path / "r.txt", Topk())
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        ResultFile(tmp_path / "file" / "r.csv", Topk())


def test_an_output_never_replaces_an_input(
    exported: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "list.csv"
    names.write_text("pictures/a.png\npictures/odd.csv\n", encoding="utf-8")
    (pictures / "odd.csv").write_bytes((pictures / "a.png").read_bytes())  # listed as a picture
    (tmp_path / "link.csv").symlink_to(names)
    (tmp_path / "hard.jsonl").hardlink_to(pictures / "a.png")
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = ["predict", "--model", str(exported.folder), "--input", str(names), "--output"]
    for output in (
        "list.csv",
        "pictures/../list.csv",
        "link.csv",
        "hard.jsonl",
        "pictures/odd.csv",
    ):
        for more in ([], ["--resume"]):
            assert main([*command, str(tmp_path / output), *more]) == 1
            assert "is read as an input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in whole} == whole


def test_the_results_of_other_post_processing(tmp_path: Path) -> None:
    nothing = {"file": "a.png", "class_ids": [], "scores": [], "label_names": []}
    attributes = {"file": "a.png", "attributes": ["Male"], "output": [1]}
    unnamed = {"file": "a.png", "class_ids": [4], "scores": [0.5], "label_names": []}
    assert "(no class)" in next(table_lines(nothing, Topk()))
    assert "Male" in next(table_lines(attributes, TableAttribute()))
    assert next(table_lines(unnamed, Topk())).split() == ["a.png", "4", "0.5000"]
    for result, postprocess in zip(
        (nothing, attributes, unnamed), (Topk(), TableAttribute(), Topk()), strict=True
    ):
        with ResultFile(tmp_path / "r.csv", postprocess, append=True) as file:
            file.write(result)
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["class_id"] for row in rows] == ["", "", "4"]
    assert json.loads(rows[1]["label_name"]) == {"attributes": ["Male"], "output": [1]}


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--batch-size", "0"], ["--threads", "-1"], ["--topk", "many"], ["--device", "tpu"]),
        *(["--model"], ["--what"]),
    ],
)
def test_wrong_arguments_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["--model", "m", "--input", "i", *arguments])
    assert caught.value.code == 2
    assert "usage: ppcls-lite predict" in capsys.readouterr().err


def test_a_mistake_is_one_message_without_traceback(
    exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", str(exported.folder), "--input", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: --input nowhere: no such file")
    assert (
        main(["predict", "--model", str(tmp_path / "no"), "--input", str(ROOT / "setup.py")]) == 1
    )
    assert "no such folder; expected one written by ppcls-lite export" in capsys.readouterr().err


def test_the_stopwatch_reports_per_image() -> None:
    watch = Stopwatch()
    assert watch.summary("x") == []
    for seconds in (0.2, 0.4, 0.6):
        watch("preprocess", seconds, 4)
        watch("inference", seconds, 2)
        watch("postprocess", seconds, 1)
    head, first, second, third, rate = watch.summary("batch 4")
    assert "batch 4" in head
    assert first.split()[:2] == ["pre-processing", "100.00"]
    assert second.split()[:2] == ["inference", "200.00"]
    assert third.split()[:2] == ["post-processing", "400.00"]
    assert rate.split()[-1] == "images/s" and float(rate.split()[2]) > 0


def test_the_script_works_from_anywhere(exported: Any, pictures: Path) -> None:
    command = [sys.executable, ROOT / "deploy" / "predict.py", "--model", exported.folder]
    done = subprocess.run(
        [*command, "--input", "a.png", "--threads", "1", "--no-mkldnn"],
        cwd=pictures,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "a.png" in done.stdout and "1 thread, paddle fp32 without oneDNN" in done.stdout


@pytest.mark.parametrize("name", ["export.py", "predict.py", "server.py"])
def test_the_deploy_scripts_are_thin(name: str) -> None:
    lines = (ROOT / "deploy" / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30


def test_engine_and_precision(
    exported_both: Any, pictures: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))
    inputs = ["predict", "--model", str(exported_both.folder), "--input", str(pictures)]
    options = ["--threads", "1", "--engine", "auto", "--precision", "fp32"]
    assert main([*inputs, *options]) == 0
    shown = capsys.readouterr().out
    chosen = shown.split("auto: ")[1].split(" ")[0]
    assert f"1 thread, {chosen} fp32" in shown and "left out" not in shown.split("ms per image")[1]
    assert main([*inputs, "--engine", "paddle", "--precision", "int8"]) == 1
    assert "paddle has fp32, bf16; int8 is of openvino" in capsys.readouterr().err


def test_arguments_of_the_post_processing_can_be_set(
    predict: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    assert predict("--input", pictures / "a.png", "--output", out, "--set", "topk=1") == 0
    assert len(read_lines(out)[0]["scores"]) == 1
    with pytest.raises(UserError, match=r"another inference\.yml"):
        predict("--input", pictures, "--output", out, "--set", "topk=2", "--resume")
    assert predict("--input", pictures, "--output", out, "--set", "topk=1", "--resume") == 0
    assert [len(result["scores"]) for result in read_lines(out)] == [1] * 4
    for text, message in (
        ("topk=x", r"inference\.yml with topk=x: .*Topk\.topk: expected"),
        ("top=1", r"Topk has no argument 'top'; did you mean 'topk'"),
    ):
        with pytest.raises(UserError, match=message):
            predict("--input", pictures, "--set", text)
    for text, message in (("=3", "expected key=value"), ("topk=[", "no valid YAML")):
        with pytest.raises(SystemExit):
            predict("--input", pictures, "--set", text)
        assert message in capsys.readouterr().err
