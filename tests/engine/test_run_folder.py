"""A run folder has one owner, and what an earlier run has left there stays."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from ppcls_lite.engine import run_folder
from ppcls_lite.errors import UserError


@contextlib.contextmanager
def owner(run_dir):
    """A process that owns the folder; gives its id."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with run_folder.owned(run_dir):
            os.write(told, b"!")
            signal.pause()
    os.read(ready, 1)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_a_second_owner_is_refused_and_told_who_is_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    run_dir = run_folder.prepare(tmp_path / "PPLCNet_x0_5")
    with owner(run_dir) as child:
        refused = pytest.raises(UserError, match=rf"that is running: process {child} on ")
        with refused, run_folder.owned(run_dir):
            pass
        with run_folder.owned(tmp_path / "PPLCNet_x1_0"):
            pass
    for _ in range(2):  # its owner was killed; and it is given back
        with run_folder.owned(run_dir):
            assert f"process {os.getpid()} on " in (tmp_path / ".PPLCNet_x0_5.lock").read_text()
    assert not list(run_dir.iterdir())


def test_an_owner_that_is_just_ending_is_waited_for(tmp_path, monkeypatch):
    with owner(tmp_path / "run") as child:
        sleep = run_folder.time.sleep
        monkeypatch.setattr(
            run_folder.time, "sleep", lambda s: (os.kill(child, signal.SIGKILL), sleep(s))
        )
        with run_folder.owned(tmp_path / "run"):
            pass


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "other")
    refused = pytest.raises(UserError, match=r"\.run\.lock cannot be opened")
    with refused, run_folder.owned(tmp_path / "run"):
        pass
    assert (tmp_path / "other").read_text() == "precious"


def leave_run(run_dir, text):
    run_dir.mkdir(exist_ok=True)
    for name in ("best_model.pdparams", "latest.pdstate", "latest_raw.pdparams", "train.log"):
        (run_dir / name).write_text(text)


def test_earlier_runs_are_kept_beside_the_newest(tmp_path):
    run_dir = tmp_path / "run[1]"
    for text in ("first", "second", "third"):
        run_folder.make_room(run_folder.prepare(run_dir), "keep")
        assert not list(run_dir.iterdir())
        leave_run(run_dir, text)
    found = {p.parent.name: p.read_text() for p in tmp_path.glob("*/best_model.pdparams")}
    assert found == {"run[1].run-1": "first", "run[1].run-2": "second", "run[1]": "third"}


def test_a_folder_without_checkpoints_is_used_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("a mistake in the list")
    run_folder.make_room(tmp_path / "run", "error")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_link_goes_on_naming_the_newest_run(tmp_path):
    leave_run(tmp_path / "large_disk", "first")
    (tmp_path / "run").symlink_to(tmp_path / "large_disk")
    run_folder.make_room(tmp_path / "run", "keep")
    assert (tmp_path / "run").resolve() == tmp_path / "large_disk"
    assert not list((tmp_path / "run").iterdir())
    assert (tmp_path / "large_disk.run-1" / "train.log").read_text() == "first"


def test_replacing_is_for_those_who_ask(tmp_path):
    leave_run(tmp_path / "run", "first")
    run_folder.make_room(tmp_path / "run", "replace")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"train.log"}


def test_an_earlier_run_can_be_an_error(tmp_path):
    leave_run(tmp_path / "run", "first")
    with pytest.raises(UserError, match=r"run holds an earlier run, and Global\.if_exists"):
        run_folder.make_room(tmp_path / "run", "error")
    assert (tmp_path / "run" / "latest.pdstate").read_text() == "first"


def test_a_folder_that_cannot_be_moved_is_left_alone(tmp_path, monkeypatch):
    leave_run(tmp_path / "run", "first")

    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(run_folder.Path, "rename", busy)
    with pytest.raises(UserError, match=r"cannot be moved to run\.run-1: Device or resource busy"):
        run_folder.make_room(tmp_path / "run", "keep")
    assert (tmp_path / "run" / "best_model.pdparams").read_text() == "first"


def test_a_folder_in_the_place_of_a_file_is_a_message(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(UserError, match=r"config\.yaml could not be written: Is a directory"):
        run_folder.write_config(tmp_path, "Arch: {}")
