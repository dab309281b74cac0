"""Going on with an interrupted `predict`, wherever it was cut off."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli import output
from ppcls_lite.inference.cli.origin import origin_path, require_origin
from ppcls_lite.inference.cli.output import ResultFile, csv_columns
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.cli.resume import Kept, keep
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.system import files

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = csv_columns(Topk())
RESULTS = [
    {"file": "a,ü.jpg", "class_ids": [1, 0], "scores": [0.9, 0.1], "label_names": ["x\ny", "猫"]},
    {"file": "b.jpg", "error": "truncated, sorry"},
    {"file": "a,ü.jpg", "class_ids": [1, 0], "scores": [0.9, 0.1], "label_names": ["x\ny", "猫"]},
    {"file": "c.jpg", "class_ids": [], "scores": [], "label_names": []},
    {"file": "d.jpg", "class_ids": [2, 1], "scores": [0.7, 0.3], "label_names": ['"', "b"]},
]


def written(path: Path) -> bytes:
    with ResultFile(path, Topk()) as file:
        for result in RESULTS:
            file.write(result)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_cut_anywhere_is_completed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    whole = written(path)
    images = [Path(result["file"]) for result in RESULTS]
    first = whole.index(b"\n") + 1  # less than one whole line of JSON may be a foreign file
    for cut in range(first, len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = keep(path, COLUMNS)
        left = kept.others(images)
        done = len(images) - len(left)
        assert left == images[done:]
        assert kept.bad == ([("b.jpg", "truncated, sorry")] if done > 1 else [])
        with ResultFile(path, Topk(), append=True) as file:
            for result in RESULTS[done:]:
                file.write(result)
        assert path.read_bytes() == whole
        assert not list(path.parent.glob(files.TEMPORARY))


def test_whole_lines_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = written(path)
    assert sum(keep(path, COLUMNS).files.values()) == 5
    path.write_bytes(whole[:-1])
    assert sum(keep(path, COLUMNS).files.values()) == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.jsonl", "my diary"),
        ("r.jsonl", '{"file": "a"}\nnot ours\n{"file": "b"}\n'),
        ("r.jsonl", '{"path": "a"}\n'),
        ("r.csv", "my,diary\n1,2\n"),
    ],
)
def test_a_foreign_file_stays_as_it_is(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is no result of this command"):
        keep(path, COLUMNS)
    assert path.read_text(encoding="utf-8") == text and len(list(tmp_path.iterdir())) == 1


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert keep(tmp_path / "no.jsonl", COLUMNS) == Kept()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_name_that_is_no_utf8_is_not_done_twice(tmp_path: Path, suffix: str) -> None:
    name = os.fsdecode(b"a\xff.jpg")
    path = tmp_path / f"r{suffix}"
    with ResultFile(path, Topk()) as file:
        for one in (name, "b.jpg", "c.jpg"):
            file.write({"file": one, "error": "no"})
    left = keep(path, COLUMNS).others([Path(name), Path("b.jpg")])
    assert left == []


CHANGES = {
    "topk": (["--topk", "2"], r"topk None, now 2"),
    "engine": (["--engine", "onnxruntime"], r"engine paddle, now onnxruntime"),
    "onednn": (["--no-mkldnn"], r"onednn True, now False"),
}


@pytest.mark.parametrize("change", [*CHANGES, "network", "labels", "unknown", "damaged"])
def test_results_of_two_origins_are_not_mixed(
    change: str, exported_both: Any, pictures: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "r.csv"
    shutil.copytree(exported_both.folder, model)
    arguments = ["--model", str(model), "--threads", "1", "--output", str(out), "--input"]
    assert run([*arguments, str(pictures / "a.png"), str(pictures / "b.JPG")]) == 0
    whole, origin = out.read_bytes(), origin_path(out)
    assert run([*arguments, str(pictures / "a.png"), "--resume"]) == 0
    more, says = CHANGES.get(change, ([], ""))
    if change == "network":
        weights = model / "inference.pdiparams"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        says = "another network"
    elif change == "labels":
        yml = model / "inference.yml"
        yml.write_text(yml.read_text(encoding="utf-8").replace("great dog", "dog"), "utf-8")
        says = "another inference.yml"
    elif change == "unknown":
        origin.unlink()
        says = "nothing says which network"
    elif change == "damaged":
        origin.write_text("[1]", encoding="utf-8")
        says = "cannot be read"
    out.write_bytes(whole)
    with pytest.raises(UserError, match=f"--resume: .*{says}"):
        run([*arguments, str(pictures), "--resume", *more])
    assert out.read_bytes() == whole


def test_a_new_file_forgets_where_an_older_one_came_from(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultFile(path, Topk(), origin={"topk": 1}) as file:
        file.write(RESULTS[0])
    require_origin(path, {"topk": 1})
    with ResultFile(path, Topk()):
        pass
    assert not origin_path(path).exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_full_disk_leaves_whole_results(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"r{suffix}"
    whole = written(path)
    path.unlink()
    monkeypatch.setattr(output, "_BUFFER", 1)
    room = len(whole) * 2 // 3  # ends within a result
    with (
        pytest.raises(UserError, match=r"could not be written: .*large.*--resume"),
        limited_file_size(room),
        ResultFile(path, Topk()) as file,
    ):
        for result in RESULTS:
            file.write(result)
    kept = path.read_bytes()
    assert 0 < len(kept) < room and whole.startswith(kept)
    assert kept.endswith(b"\n")
    with path.open("ab") as file:
        file.write(whole[len(kept) :])
    assert path.read_bytes() == whole


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Let every file that is written end at `size` bytes, as on a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_pipe_whose_reader_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with (
        pytest.raises(UserError, match="could not be written: Broken pipe"),
        ResultFile(path, Topk(), append=True) as file,
    ):
        os.close(reader)
        file.write(RESULTS[0])


def test_the_command_goes_on(
    exported: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "bad.jpg").write_bytes(b"")
    out = tmp_path / "r.jsonl"
    arguments = ["--model", str(exported.folder), "--threads", "1", "--input", str(pictures)]
    assert run([*arguments, "--output", str(out)]) == 1
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    capsys.readouterr()
    assert run([*arguments, "--output", str(out), "--resume"]) == 1
    shown = capsys.readouterr().out
    assert out.read_bytes() == whole
    assert "3 of them were in" in shown and "5 images, 1 unreadable" in shown
    assert f"unreadable: {pictures / 'bad.jpg'}: the file is empty" in shown
    assert run([*arguments, "--output", str(out), "--resume"]) == 1  # nothing left to do
    assert out.read_bytes() == whole
    with pytest.raises(SystemExit):
        run([*arguments, "--resume"])
    assert "--resume needs --output" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as on POSIX")
def test_a_killed_run_goes_on_with_decoding_ahead(
    exported: Any, pictures: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many.txt"
    many.write_text(f"{pictures / 'a.png'}\n{pictures / 'b.JPG'}\n" * 1500, encoding="utf-8")
    out = tmp_path / "r.jsonl"
    script = str(ROOT / "deploy" / "predict.py")
    command = [sys.executable, script, "--model", str(exported.folder), "--input", str(many)]
    command += ["--output", str(out), "--resume", "--batch-size", "4", "--decode-threads", "2"]
    command += ["--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out.exists() and out.stat().st_size > 0):
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = out.read_bytes()
    assert 0 < before.count(b"\n") < 3000
    assert subprocess.run(command, capture_output=True).returncode == 0
    found = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert out.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert [Path(r["file"]).name for r in found] == ["a.png", "b.JPG"] * 1500
    assert found[0] != found[1] and len({tuple(r["class_ids"]) for r in found}) <= 2
