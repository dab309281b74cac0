"""Where the tar files of a ShardDataset are: in a folder, or fetched from an address when needed.

A fetched file is whole or not there, also when several workers and ranks of one machine want it at
once. Read before: shards.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file, locked
from ppcls_lite.system.installed import require

log = logging.getLogger("ppcls_lite")

PAUSES = (1.0, 5.0)  # seconds before a shard is asked for once more, in the middle of a run
_CHUNK = 1 << 20
_REMEDY = (
    "a store's keys and address come from its own variables and files (for s3:// AWS_ACCESS_KEY_ID,"
    " AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ~/.aws)"
)


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
            _require_protocol(self.source)
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
            self._fetch(name, path, pauses=())
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

    def absent(self, names: Sequence[str], listed: str) -> list[str]:
        """Those of `names` that are neither at the address nor here already.

        None of them where the address has no listing, as many a web server: one that is whole
        has `listed`, a file that is known to be there.
        """
        if not self.is_remote or all((self.folder / name).is_file() for name in names):
            return []
        import fsspec

        try:
            files, folder = fsspec.url_to_fs(self.source)
            found = {os.path.basename(path) for path in files.ls(folder, detail=False)}  # noqa: PTH119
        except Exception:  # it may be read, but not listed: what is missing shows when it is read
            return []
        return [name for name in names if name not in found] if listed in found else []

    def local_files(self, names: list[str]) -> list[str]:
        """The paths of those that have to exist before a run: of an address none."""
        return [] if self.is_remote else [str(self.folder / name) for name in names]

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on."""
        key = (os.getpid(), name)
        if key not in self._open:
            path = self.folder / name
            if self.is_remote:
                self._fetch(name, path, PAUSES)
            if len(self._open) >= 64:
                self._close()
            self._open[key] = os.open(path, os.O_RDONLY)
        return os.pread(self._open[key], size, offset)

    def _close(self) -> None:
        for (pid, _), number in self._open.items():
            if pid == os.getpid():
                os.close(number)
        self._open.clear()

    def _fetch(self, name: str, path: Path, pauses: Sequence[float]) -> None:
        """Bring a file here, unless it is here; after each of the `pauses` try once more."""
        if path.is_file():
            os.utime(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self.source}/{name}"
        with locked(path.with_name(f"{name}.lock")):
            if path.is_file():  # another process was quicker
                return
            self._make_room(keep=path)
            for pause in pauses:
                try:
                    return _copy(address, path)
                except UserError as error:
                    log.warning("%s; once more in %.0f s", error, pause)
                    time.sleep(pause)
            _copy(address, path)

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


def _require_protocol(address: str) -> None:
    """Raise UserError where no installed package reads such an address."""
    require("fsspec")
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    if protocol not in known_implementations:
        raise UserError(f"{address}: {protocol}:// is no kind of address; s3://, https:// are some")
    require(known_implementations[protocol]["class"].partition(".")[0])


def _copy(address: str, path: Path) -> None:
    with atomic_file(path) as target:
        for chunk in _chunks(address):
            target.write(chunk)


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
    except PermissionError as error:
        raise UserError(f"{address}: may not be read: {error}; {_REMEDY}") from error
    except Exception as error:  # whatever a protocol's own library raises
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{address}: cannot be fetched: {reason}; {_REMEDY}") from error
