"""Files and folders that are there as a whole or not at all, and locks.

What is written goes to a temporary name beside its place, reaches the disk, and is then renamed:
after a crash, a power cut or on a full disk the old file is still whole.
Read next: safe_pickle.py, ppcls_lite/engine/checkpoint.py.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from ppcls_lite.errors import UserError

_ROOM = 2**16  # bytes that a disk has left unless it is full
TEMPORARY = ".*.tmp"  # what the names of unfinished files match; a killed process may leave some


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of `path` only when the block ends without error.

    Several processes may write the same path: the last one that ends wins. On failure the
    temporary file is removed.

    Raises:
        UserError: an `OSError` in the block or of the file itself, with the path and what to do.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # x: never through a link that lies there
            yield file
            sync(file)
        temporary.replace(path)
        _sync_folder(path.parent)  # the rename itself must survive a power cut
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. "
            "Free disk space or choose another folder; an earlier file of that name is untouched."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made
            temporary.unlink()


@contextlib.contextmanager
def atomic_text(path: str | Path, newline: str | None = None) -> Iterator[IO[str]]:
    """`atomic_file` for UTF-8 text, in which file names of other bytes stay what they are.

    `newline` as in `open`.
    """
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline)
        yield text
        text.detach()  # writes what it holds


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, whole or not at all (see `atomic_file`)."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all (see `atomic_file`), as `atomic_text` does."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def link_or_copy(source: Path, target: Path) -> None:
    """Let `target` be a second name of the file `source`; a copy where there are no links.

    Raises OSError.
    """
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            with source.open("rb") as old, temporary.open("xb") as new:
                shutil.copyfileobj(old, new)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def reserve(file: IO[bytes], size: int) -> None:
    """Give an empty file `size` zeros with their room on the disk, as far as the system can.

    Raises OSError on a full disk: writing through a memory map would end the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file.fileno(), 0, size)
    file.truncate(size)


def require_room(folder: Path) -> None:
    """Raise OSError where the disk of `folder` is full, for what was written without a check."""
    with tempfile.TemporaryFile(dir=folder) as file:
        reserve(file, _ROOM)


def sync(file: IO[bytes]) -> None:
    """Wait until what was written is on the disk; a full one may show itself as late as here."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def whole_folder(out_dir: Path, own_files: Collection[str] | None = None) -> Iterator[Path]:
    """A temporary folder beside `out_dir` that takes its place if the block ends well.

    An earlier folder there is replaced as a whole, if it holds nothing but `own_files` (None:
    whatever it holds). If the block fails or is interrupted, `out_dir` is what it was before.

    Raises:
        UserError: `out_dir` is a file or a mount point, holds other files, or cannot be written.
        OSError: in the block or of the renaming; see `disk_errors`.
    """
    target = out_dir.resolve()
    if _is_mount_point(target):
        raise UserError(
            f"{out_dir}: is a mount point, which cannot be replaced as a whole; name a folder in it"
        )
    others: list[str] = []
    if own_files is not None and target.is_dir():
        others = sorted({p.name for p in target.iterdir()} - set(own_files))
    if others or (target.exists() and not target.is_dir()):
        found = f"holds other files ({', '.join(others[:4])})" if others else "is a file"
        raise UserError(f"{out_dir}: {found}; name a new folder in Global.save_inference_dir")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"{out_dir}: cannot be written: {error.strerror}") from error
    fresh, old = room / "new", room / "old"
    try:
        fresh.mkdir()
        yield fresh
        for path in fresh.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        _sync_folder(target.parent)
    finally:  # an error or an interrupt may come between the two renames
        if old.exists() and not target.exists():
            old.rename(target)  # if this fails, the old folder stays where it is
        shutil.rmtree(room, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `place`, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place} could not be written: {error}. Free disk space or choose another place; "
            "what was there before is untouched"
        ) from error


def make_own(folder: Path) -> None:
    """Make a folder for a cache unless it is there; what lies in it is believed later.

    Raises:
        OSError: it cannot be made.
        UserError: it belongs to another user, or everybody may write in it: what it holds, or
            where a link in it leads, would be another's choice.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    if os.name != "posix":
        return
    state, user = folder.stat(), os.geteuid()
    foreign = user not in (0, state.st_uid)
    if foreign or state.st_mode & stat.S_IWOTH:
        found = "belongs to another user" if foreign else "everybody may write in it"
        raise UserError(
            f"{folder}: {found}, so that its content cannot be trusted; name a folder of your own "
            f"for this cache, for example {folder / 'NAME'}"
        )


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths, which need not exist, lead to one file: by links or other spellings."""
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def _is_mount_point(folder: Path) -> bool:
    """Also of a folder of the same disk, which has the same device number."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return os.path.ismount(folder)
    places = {line.split()[4] for line in lines}
    name = str(folder)
    for letter in "\\ \t\n":  # as the kernel writes them
        name = name.replace(letter, f"\\{ord(letter):03o}")
    return name in places


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the block, as far as the system has locks.

    The lock is the empty file `path`, which stays. Raises OSError if it cannot be opened, or is a
    link: who may write in the folder could have made it, to a file of ours.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with os.fdopen(number, "rb") as file:
        with contextlib.suppress(ImportError, OSError):  # Windows, and some network drives
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: IO[Any]) -> bool:
    """Take the lock of an open file until the process ends; False if another process has it.

    True as well where there are no locks. It is a process's, not an open file's: worker processes
    do not inherit it.
    """
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    except ImportError:  # Windows
        return True
    return True


def free_name(path: Path, word: str) -> Path:
    """`NAME.word-N` beside `path`, with a number above all that are there."""
    others = path.parent.glob(f"{glob.escape(path.name)}.{word}-*")
    numbers = [other.name.rpartition("-")[2] for other in others]
    number = max([int(n) for n in numbers if n.isdecimal()], default=0) + 1
    return path.with_name(f"{path.name}.{word}-{number}")


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name on the same drive. Raises OSError."""
    source.rename(target)


def _temporary(path: Path) -> Path:
    """A name that no other process takes, and that a listing shows to be unfinished."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
