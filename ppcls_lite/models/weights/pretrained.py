"""Official ImageNet weights: the file a name stands for, where it is looked for, its download.

`weights/` of the user's folder (system/home.py) holds the files under their official names, so a
machine without network is served by copying them there. Read next: load.py.
"""

from __future__ import annotations

import logging
import sys
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from ppcls_lite.config.zoo import TRUNK, ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.system.files import atomic_file
from ppcls_lite.system.home import VARIABLE, home_folder

logger = logging.getLogger("ppcls_lite")

OFFICIAL = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/"
_TIMEOUT_S = 20
_BLOCK = 1 << 16
_PICKLE = b"\x80"  # how every pickle of protocol 2 and later begins


def weights_folder() -> Path:
    """Where downloaded and hand-placed official weights lie."""
    return home_folder() / "weights"


def resolve_pretrained(name: str, use_ssld: bool = False, server: str = OFFICIAL) -> Path:
    """The official weights of a zoo name: a local file, downloaded when it is not there yet.

    use_ssld: the weights distilled with SSLD. Raises `UserError` when no such weights are published
    or the download fails; the message names the file, the address and the folder to put it in.
    """
    if name not in ZOO:
        raise UserError(
            f"pretrained: True needs a name of the zoo, not {name!r}; give a path, or say true of "
            f"the trunk ({TRUNK}.pretrained) of a network that has one"
        )
    entry = ZOO[name]
    file = f"{name}{'_ssld' if use_ssld or entry.only_ssld else ''}_pretrained.pdparams"
    path = weights_folder() / file
    if path.is_file():
        return path
    if use_ssld and not entry.ssld:
        some = ", ".join(n for n, e in ZOO.items() if e.ssld)
        raise UserError(f"no SSLD weights are published for {name}, only for {some}")
    address = f"{server}{entry.folder}{file}"
    try:
        _download(address, path)
    except _Failed as reason:
        raise UserError(
            f"the official weights {file} are not in {path.parent} and could not be downloaded "
            f"({reason}). Download {address} elsewhere and put it there, or set {VARIABLE} to the "
            "folder that has weights/"
        ) from None
    return path


def weights_file(name: str, pretrained: bool | str | Path, use_ssld: bool = False) -> str | Path:
    """The file that `pretrained` names for the network `name`.

    True: the official one; an address: fetched; else a path, as it is.
    """
    if pretrained is True:
        return resolve_pretrained(name, use_ssld)
    given = str(pretrained)
    return fetch_weights(given) if given.startswith(("http://", "https://")) else given


def fetch_weights(address: str) -> Path:
    """The weights at an http(s) address, kept in `weights_folder()`; raises `UserError`."""
    path = weights_folder() / address.rsplit("/", 1)[1]
    if path.suffix != ".pdparams":
        raise UserError(f"{address}: expected the address of a .pdparams file")
    if path.is_file():
        logger.info("%s: already in %s", address, path.parent)
        return path
    try:
        _download(address, path)
    except _Failed as reason:
        raise UserError(
            f"{address} could not be downloaded ({reason}). Download it elsewhere and give the "
            f"file's path, or put it into {path.parent}"
        ) from None
    return path


class _Failed(Exception):
    """Why there is no download."""


def _download(address: str, path: Path) -> None:
    """Stream `address` into `path`, which appears only when all announced bytes have come."""
    logger.info("downloading %s to %s", address, path)
    try:
        response = urllib.request.urlopen(address, timeout=_TIMEOUT_S)
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise _Failed(getattr(error, "reason", None) or error) from None
    hidden = not sys.stderr.isatty()
    with response, atomic_file(path) as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, disable=hidden) as bar:
            for block in _blocks(response, size):
                file.write(block)
                bar.update(len(block))


def _blocks(response: HTTPResponse, size: int) -> Iterator[bytes]:
    """The body in pieces; network errors get a name of their own, apart from those of the disk."""
    received = 0
    try:
        while block := response.read(_BLOCK):
            if not received and not block.startswith(_PICKLE):
                raise _Failed("what came is no file of weights; is a proxy in between?")
            received += len(block)
            yield block
    except (OSError, HTTPException) as error:
        raise _Failed(f"it broke off after {received} bytes: {error}") from error
    if size and received != size:
        raise _Failed(f"it broke off after {received} of {size} bytes")
