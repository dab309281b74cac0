"""An output that cannot be written is refused before any work, and nothing is made for it."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
from pathlib import Path

import pytest

from ppcls_lite.cli import guarded, main
from ppcls_lite.errors import UserError
from ppcls_lite.system.outputs import fresh_folder, new_folder, output_folder, require_writable

COMMANDS = {  # each with all that it asks for; none of the inputs is there
    "fit": ["no_photos"],
    "check": ["no_photos"],
    "suspects": ["no_photos"],
    "explain": ["-c", "no.yaml", "no.png"],
    "predict": ["--model", "none", "--input", "no.png"],
    "benchmark": [],
    "search": ["-c", "no.yaml", "--latency", "1ms"],
    "prepare digits": [],
    "prepare folder": ["no_photos"],
    "prepare scenes": [],
    "prepare coco": ["no_photos"],
    "prepare voc": ["no_photos"],
    "prepare yolo": ["no_photos"],
    "prepare labelme": ["no_photos"],
    "prepare masks": ["no_photos"],
    "prepare camvid": ["no_photos"],
    "prepare cifar10": ["no.tar.gz"],
    "prepare relabel": ["no.txt", "--map", "no.yaml"],
    "prepare shards": ["no.txt"],
    "prepare shrink": ["no.txt"],
    "select": ["none", "no_photos"],
}
OPTIONS = {"predict": ("--draw", "--save-png")}  # whose --output is a file of its own


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    return tmp_path / "taken"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_the_way_is_named_before_anything_is_read(
    taken: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for option in OPTIONS.get(command, ("--output",)):
        with pytest.raises(SystemExit) as end:
            main([*command.split(), *COMMANDS[command], option, "taken/results"])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert f"argument {option}: taken" in said and "is no folder" in said, said
    assert [path.name for path in taken.parent.iterdir()] == ["taken"]
    assert taken.read_text() == "mine"


def test_folders_that_are_there_or_can_be_made(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "new", tmp_path / "new" / "below"):
        assert output_folder(str(place)) == place
        assert new_folder(str(place)) == place
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert output_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (output_folder, "file", r"file: is no folder"),
        (output_folder, "file/a/b", r"file/a/b: .*file is no folder"),
        (output_folder, "lost", r"lost: is no folder"),
        (output_folder, "", r"expected a place on a file system, found ''"),
        (output_folder, "s3://bucket/run", r"a place on a file system, found 's3://bucket/run'"),
        (output_folder, 300 * "a", r"name too long"),
        (new_folder, ".", r"\.: is not empty; give a new folder"),
    ],
)
def test_places_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(argparse.ArgumentTypeError, match=f"(?i){said}"):
        kind(text)


def test_two_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    names = [tmp_path / "runs" / name for name in "abc"]
    with fresh_folder(None, names) as first, fresh_folder(None, names) as second:
        assert [first, second] == names[:2]
        (second / "file").touch()
    assert second.is_dir() and not first.exists()
    with fresh_folder(None, [tmp_path / "new" / "below"]):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with fresh_folder(tmp_path / "empty", names) as given:
        assert given == tmp_path / "empty"
    assert given.is_dir()  # it was there before
    with fresh_folder(tmp_path / "mine", names) as given:
        assert given.is_dir() and given == tmp_path / "mine"
        (given / "file").touch()
    with pytest.raises(UserError, match="mine: is not empty"), fresh_folder(given, names):
        pass


def test_a_folder_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"new: {tmp_path} cannot be written in"):
        require_writable(tmp_path / "new")
    with pytest.raises(UserError, match=f"{tmp_path}: it cannot be written in"):
        require_writable(tmp_path)


def test_a_full_disk_is_named(
    taken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(argv: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write raises it

    usage = shutil.disk_usage
    place = str(taken.parent / "out" / "below")
    for free, said in ((0, f"{place}: "), (2**30, "")):
        there = usage(taken.parent)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, there=there: there)
        assert guarded(full, ["--output", place]) == 1
        error = f"error: {said}No space left on device; free disk space\n"
        assert capsys.readouterr().err == error
