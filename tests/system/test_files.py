"""Files and folders appear as a whole or not at all, whatever else writes there."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.system import files

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_file(path) as file:
        file.write(b"half of the new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.glob(files.TEMPORARY)), "what a killed process leaves is not found"
        raise RuntimeError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with files.atomic_file(path) as first:
        first.write(b"one, ")
        with files.atomic_file(path) as second:
            second.write(b"two")
        first.write(b"whole")
    assert path.read_bytes() == b"one, whole" and names(tmp_path) == ["x"]


def test_a_link_with_the_temporary_name_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "00")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".x.00.tmp").symlink_to(victim)
    with pytest.raises(UserError, match="x could not be written: File exists"):
        files.write_text(tmp_path / "x", "new")
    assert victim.read_text() == "precious"


def test_text_is_utf8_and_its_line_ends_stay(tmp_path: Path) -> None:
    with files.atomic_text(tmp_path / "x", newline="") as file:
        file.write("ä\r\n")
    files.write_text(tmp_path / "y", "ö\n")
    assert (tmp_path / "x").read_bytes() == "ä\r\n".encode()
    assert (tmp_path / "y").read_bytes() == "ö\n".encode()
    with pytest.raises(KeyError), files.atomic_text(tmp_path / "x") as file:
        file.write("half")
        raise KeyError
    assert (tmp_path / "x").read_bytes() == "ä\r\n".encode()


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_replaces_an_older_file(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    source, target = tmp_path / "latest", tmp_path / "previous"
    source.write_text("new")
    target.write_text("old")
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    files.link_or_copy(source, target)
    assert target.read_text() == "new" and target.samefile(source) == links
    assert names(tmp_path) == ["latest", "previous"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("one", "two"):
        with files.whole_folder(target, {"a"}) as fresh:
            (fresh / "a").write_text(text)
        assert (target / "a").read_text() == text
    with pytest.raises(ZeroDivisionError), files.whole_folder(target, {"a"}):
        raise ZeroDivisionError
    assert (target / "a").read_text() == "two" and names(tmp_path) == ["model"]


def test_a_folder_with_other_files_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("my own")
    with (
        pytest.raises(UserError, match=r"holds other files \(thesis.txt\)"),
        files.whole_folder(tmp_path, {"a"}),
    ):
        pytest.fail("the block must not run")
    with files.whole_folder(tmp_path) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "b").write_text("new")
    assert names(tmp_path) == ["sub"]


def swap(target: Path) -> None:
    with files.disk_errors(target), files.whole_folder(target, {"a"}) as fresh:
        (fresh / "a").write_text("new")


FAILING: list[int] = []  # how many more audited system calls until one fails; empty: none does


def fail_in_turn(event: str, _: object) -> None:
    if FAILING and event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove"):
        FAILING[0] -= 1
        if FAILING[0] == 0:
            raise OSError(28, "No space left on device")


def test_every_failing_system_call_leaves_a_whole_folder(tmp_path: Path) -> None:
    sys.addaudithook(fail_in_turn)  # stays for good, and does nothing while FAILING is empty
    outcomes = []
    for count in range(1, 40):
        target = tmp_path / str(count) / "model"
        target.mkdir(parents=True)
        (target / "a").write_text("old")
        FAILING.append(count)
        try:
            swap(target)
            failed = False
        except UserError as error:
            failed = True
            assert "No space left on device" in str(error)
        finally:
            unused = FAILING.pop() > 0
        outcomes.append((failed, (target / "a").read_text()))
        if unused:
            break
    assert unused and outcomes[-1] == (False, "new")
    assert {(True, "old"), (False, "new")} <= {*outcomes}
    assert (False, "old") not in outcomes


def test_an_interrupt_at_any_line_leaves_a_whole_folder(tmp_path: Path) -> None:
    class Interrupter:
        def __init__(self, lines: int) -> None:
            self.left = lines

        def __call__(self, frame: Any, event: str, argument: object) -> Any:
            if frame.f_code.co_filename != files.__file__:
                return None
            self.left -= event == "line"
            if event == "line" and self.left == 0:
                raise KeyboardInterrupt
            return self

    found = set()
    for count in range(1, 200):
        target = tmp_path / str(count) / "model"
        target.mkdir(parents=True)
        (target / "a").write_text("old")
        before, interrupter = sys.gettrace(), Interrupter(count)
        sys.settrace(interrupter)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                swap(target)
        finally:
            sys.settrace(before)
        found.add((target / "a").read_text())
        if interrupter.left > 0:
            break
    assert interrupter.left > 0 and count > 20 and found == {"old", "new"}


def test_an_old_folder_that_cannot_come_back_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "model", Path.rename
    target.mkdir()
    (target / "a").write_text("old")

    def fail(self: Path, to: Path) -> Path:
        if to == target:
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="model could not be written: no"):
        swap(target)
    assert [p.read_text() for p in tmp_path.glob(".model-*/old/a")] == ["old"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mount_point_is_refused_before_the_work() -> None:
    with (
        pytest.raises(UserError, match=r"/proc: is a mount point.*name a folder in it"),
        files.whole_folder(Path("/proc")),
    ):
        pytest.fail("the block must not run")


def test_one_file_by_several_paths(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "b").write_text("x")
    for name in ("a", "link", "hard", f"../{tmp_path.name}/a"):
        assert files.same_file(tmp_path / "a", tmp_path / name)
    assert not files.same_file(tmp_path / "a", tmp_path / "b")
    assert not files.same_file(tmp_path / "a", tmp_path / "none")
    assert files.same_file(tmp_path / "none", tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="needs flock")
def test_a_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ppcls_lite.system.files import locked\n"
        "print('waiting', flush=True)\n"
        "with locked(Path(sys.argv[1])): print(Path(sys.argv[2]).read_text())"
    )
    lock, note = tmp_path / ".lock", tmp_path / "note"
    note.write_text("early")
    with files.locked(lock):
        command = [sys.executable, "-c", code, str(lock), str(note)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "waiting\n"
        note.write_text("done")
    assert child.communicate(timeout=60)[0] == "done\n"


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_lock_does_not_open_what_a_link_names(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError), files.locked(tmp_path / ".lock"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == [".lock"]


@pytest.mark.skipif(os.name != "posix", reason="needs users")
def test_a_cache_lies_in_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "cache"
    old = os.umask(0)
    try:
        files.make_own(folder)
        files.make_own(folder)
    finally:
        os.umask(old)
    folder.chmod(0o777)
    with pytest.raises(UserError, match="everybody may write in it"):
        files.make_own(folder)
    folder.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(UserError, match=r"cache: belongs to another user, .*cache/NAME"):
        files.make_own(folder)


def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.require_room(tmp_path)
    assert not list(tmp_path.iterdir())

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused = pytest.raises(UserError, match=r"out could not be written: .* No space left")
    with refused, files.disk_errors(tmp_path / "out"):
        files.require_room(tmp_path)


def test_room_is_reserved_on_the_disk(tmp_path: Path) -> None:
    with files.atomic_file(tmp_path / "x") as file:
        files.reserve(file, 10_000)
    assert (tmp_path / "x").read_bytes() == bytes(10_000)
    assert sys.platform != "linux" or (tmp_path / "x").stat().st_blocks * 512 >= 10_000
