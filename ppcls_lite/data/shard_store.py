"""Where the tar files of a ShardDataset are: in a folder, or fetched from an address when needed.

A fetched file is whole or not there, also when several workers and ranks of one machine want it at
once. Read before: shards.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file, locked
from ppcls_lite.system.installed import require

_CHUNK = 1 << 20


class ShardStore:
    """Reads parts of the files in `source`.

    source: a folder, or an address that fsspec understands.
    cache_dir: where files of an address are kept; cache_gb: how much of them, at most.
    """

    def __init__(self, source: str, cache_dir: str, cache_gb: float | None) -> None:
        self.source = source.rstrip("/")
        self.is_remote = "://" in source
        self._open: dict[tuple[int, str], int] = {}  # by process: a fork must not share places
        if self.is_remote:
            require("fsspec")
            name = hashlib.sha256(self.source.encode()).hexdigest()[:12]
            self.folder = Path(cache_dir) / name
            self._limit = None if cache_gb is None else int(cache_gb * 1e9)
        else:
            self.folder = Path(source)
            if not self.folder.is_dir():
                raise UserError(f"{source}: expected a folder with tar files, there is none")

    def read_small(self, name: str) -> bytes | None:
        """A whole file; None where a folder has none. Of an address it has to be there."""
        path = self.folder / name
        if self.is_remote:
            self._fetch(name, path)
        return path.read_bytes() if path.is_file() else None

    def tar_files(self) -> list[Path]:
        """The tar files of a folder, by name."""
        found = sorted(self.folder.glob("*.tar"))
        if not found:
            raise UserError(
                f"{self.source}: expected tar files, found none; ppcls-lite prepare shards writes "
                "them"
            )
        return found

    def local_files(self, names: list[str]) -> list[str]:
        """The paths of those that have to exist before a run: of an address none."""
        return [] if self.is_remote else [str(self.folder / name) for name in names]

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on."""
        key = (os.getpid(), name)
        if key not in self._open:
            path = self.folder / name
            if self.is_remote:
                self._fetch(name, path)
            if len(self._open) >= 64:
                self._close()
            self._open[key] = os.open(path, os.O_RDONLY)
        return os.pread(self._open[key], size, offset)

    def _close(self) -> None:
        for (pid, _), number in self._open.items():
            if pid == os.getpid():
                os.close(number)
        self._open.clear()

    def _fetch(self, name: str, path: Path) -> None:
        """Bring a file here, unless it is here."""
        if path.is_file():
            os.utime(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self.source}/{name}"
        with locked(path.with_name(f"{name}.lock")):
            if path.is_file():  # another process was quicker
                return
            self._make_room(keep=path)
            with atomic_file(path) as target:
                for chunk in _chunks(address):
                    target.write(chunk)

    def _make_room(self, keep: Path) -> None:
        """Remove the shards that were used longest ago until the limit is kept."""
        if self._limit is None:
            return
        found = [p for p in self.folder.glob("*.tar") if p != keep]
        with contextlib.suppress(OSError):
            found.sort(key=lambda path: path.stat().st_mtime)
            total = sum(path.stat().st_size for path in found)
            largest = max((path.stat().st_size for path in found), default=0)
            while found and total + largest > self._limit:
                oldest = found.pop(0)
                total -= oldest.stat().st_size
                oldest.unlink()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _chunks(address: str) -> Iterator[bytes]:
    """The content of an address; UserError where it cannot be read."""
    import fsspec

    try:
        with fsspec.open(address, "rb") as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except FileNotFoundError:
        raise UserError(
            f"{address}: is not there, or nobody answers; upload the whole folder that ppcls-lite "
            "prepare shards writes"
        ) from None
    except Exception as error:  # whatever a protocol's own library raises
        raise UserError(f"{address}: cannot be fetched: {type(error).__name__}: {error}") from error
