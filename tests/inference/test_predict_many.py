"""A list in blocks: how it is cut, what is written, what is never done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli import blocks, predict
from ppcls_lite.inference.cli.blocks import Block, Job, cut_list, predict_block
from ppcls_lite.inference.cli.predict_many import on_ray, run
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.system.installed import missing


@pytest.fixture
def listed(pictures: Path, tmp_path: Path) -> Path:
    """Thirteen lines, of which three are blank and two name no image."""
    names = ["a.png 0", "b.JPG 1", "", "no such.png", "ü 1.bmp 2", "more of them/c.jpeg"]
    lines = [f"pictures/{name}" if name else "" for name in [*names, *names]]
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


@pytest.fixture
def many(exported: Any, listed: Path, tmp_path: Path) -> Any:
    def call(*more: object) -> int:
        start = ["--model", exported.folder, "--input", listed, "--output", tmp_path / "answers"]
        return run([*map(str, start), "--block", "5", "--processes", "1", *map(str, more)])

    return call


@pytest.mark.parametrize("lines", [1, 2, 3, 100])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_every_line_is_in_one_block(
    listed: Path, lines: int, chunk: int, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_CHUNK", chunk)
    listed.write_text(listed.read_text(encoding="utf-8").rstrip() + end, encoding="utf-8")
    found, _ = cut_list(listed, lines, "--input")
    data = listed.read_bytes()
    parts = [data[block.start : block.end] for block in found]
    assert b"".join(parts) == data
    assert all(part.count(b"\n") == lines for part in parts[:-1])
    assert parts[-1] and parts[-1].count(b"\n") <= lines
    job = Job(str(listed), "", "", "", 1)
    images = [image for block in found for image in blocks._images(job, block)]
    assert images == find_images([listed])


def test_the_answers_are_those_of_predict_and_made_once(
    many: Any, exported: Any, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert many() == 1  # some files are missing
    assert "10 images in 3 blocks, 2 unreadable\n10 in " in capsys.readouterr().out
    parts = sorted((tmp_path / "answers").glob("*.jsonl"))
    assert [path.name for path in parts] == [f"part-00000{number}.jsonl" for number in range(3)]
    one = tmp_path / "one.jsonl"
    model, source = str(exported.folder), str(listed)
    predict.run(["--model", model, "--threads", "1", "--input", source, "--output", str(one)])
    assert b"".join(path.read_bytes() for path in parts) == one.read_bytes()

    parts[1].unlink()
    (tmp_path / "answers" / ".part-000002.jsonl.0a.tmp").touch()  # of a process that was killed
    kept = {path: path.stat() for path in (parts[0], parts[2])}
    assert many() == 1
    assert "10 images in 3 blocks, 2 unreadable\n6 of them were in" in capsys.readouterr().out
    assert b"".join(path.read_bytes() for path in parts) == one.read_bytes()
    assert kept == {path: path.stat() for path in kept}
    assert len(list((tmp_path / "answers").iterdir())) == 4


def test_two_at_once_into_one_folder(many: Any, tmp_path: Path) -> None:
    """The second is refused and touches nothing; afterwards it finds all done."""
    assert many() == 1
    answers = tmp_path / "answers"
    (unfinished := answers / ".part-000002.jsonl.0a.tmp").touch()  # what the first is writing
    code = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(1)\n"
    code += "sys.stdout.flush(); sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(answers / "origin.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert first.stdout is not None and first.stdout.readline() == b"1\n"
        with pytest.raises(UserError, match="another process is writing there; wait for its end"):
            many()
        assert unfinished.exists()
    finally:
        first.communicate()
    assert many() == 1
    assert not unfinished.exists()


def test_answers_of_another_network_list_or_option_are_refused(
    many: Any, listed: Path, tmp_path: Path
) -> None:
    origin = tmp_path / "answers" / "origin.json"
    origin.parent.mkdir()
    (origin.parent / "diary.txt").touch()
    with pytest.raises(UserError, match="answers: holds something already; name a new folder"):
        many()
    (origin.parent / "diary.txt").unlink()
    listed.write_text("pictures/a.png\n", encoding="utf-8")
    many()
    with pytest.raises(UserError, match=r"made otherwise \(topk None, now 2\); name a new folder"):
        many("--topk", "2")
    known = json.loads(origin.read_text()) | {"network": ["x"], "list": "y"}
    origin.write_text(json.dumps(known))
    with pytest.raises(UserError, match=r"made otherwise \(another list, another network\)"):
        many()


def test_a_file_with_other_lines_than_the_list_is_no_answer(listed: Path, tmp_path: Path) -> None:
    block = cut_list(listed, 5, "--input")[0][0]
    (tmp_path / "part-000000.jsonl").write_text('{"file": "a"}\n{"file": "b"}\n{"file": ')
    with pytest.raises(UserError, match=r"part-000000\.jsonl: holds 2 answers to 4 lines of"):
        predict_block(Job(str(listed), str(tmp_path), str(Path.cwd()), "{}", 1), block)


def test_a_machine_without_the_list_says_what_it_needs(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "list.txt"), str(tmp_path), str(tmp_path), "{}", 1)
    with pytest.raises(UserError, match="every machine needs the list"):
        predict_block(job, Block(0, 0, 10))


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "the list is empty"), (b"a.png\n\xff.png\n", "not a UTF-8"), (None, "No such file")],
)
def test_what_is_no_list_is_named(
    many: Any, listed: Path, tmp_path: Path, content: bytes | None, says: str
) -> None:
    listed.unlink()
    if content is not None:
        listed.write_bytes(content)
    with pytest.raises(UserError, match=f"--input .*list.txt: {says}"):
        many()
    assert not (tmp_path / "answers").exists()


def test_options_that_cannot_be_meant(many: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--engine auto: measures"):
        many("--engine", "auto")
    with pytest.raises(SystemExit):
        many("--input", "pictures")
    assert "expected a list (.txt" in capsys.readouterr().err


@pytest.mark.skipif(missing("ray") is not None, reason=f"{missing('ray')}")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:99999", "a:b"])
def test_a_cluster_that_is_not_there_is_named(address: str, tmp_path: Path) -> None:
    job = Job("list.txt", str(tmp_path), str(tmp_path), "{}", 1)
    with pytest.raises(UserError, match=f"--ray {address}: no cluster answers .*auto or HOST:PORT"):
        next(on_ray(job, [Block(0, 0, 1)], address, None, 1))
