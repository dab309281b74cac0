"""Official ImageNet weights: the file a name stands for, where it is looked for, its download.

`weights/` of the user's folder (system/home.py) holds the files under their official names, so a
machine without network is served by copying them there. Read next: load.py.
"""

from __future__ import annotations

import fnmatch
import logging
from pathlib import Path

from ppcls_lite.config.timm import PREFIX, TIMM
from ppcls_lite.config.zoo import TRUNK, ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.download import Failed, download, sha256_of
from ppcls_lite.models.weights.hub import hub_file, is_hub, parse
from ppcls_lite.models.weights.safetensors_file import SUFFIX
from ppcls_lite.system.home import VARIABLE, home_folder

logger = logging.getLogger("ppcls_lite")

OFFICIAL = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/"


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
    if entry.folder is None:
        raise UserError(f"no official weights are published for {name}; give the path of a file")
    address = f"{server}{entry.folder}{file}"
    try:
        download(address, path)
    except Failed as reason:
        raise UserError(
            f"the official weights {file} are not in {path.parent} and could not be downloaded "
            f"({reason}). Download {address} elsewhere and put it there, or set {VARIABLE} to the "
            f"folder that has weights/, or give the path of another file{_others(name)}"
        ) from None
    return path


def _others(name: str) -> str:
    """Where else there are weights for a network."""
    found = [text for text in list_pretrained(name) if text.startswith(PREFIX)]
    return f"; timm's are {', '.join(found[:3])}" if found else ""


def weights_file(name: str, pretrained: bool | str | Path, use_ssld: bool = False) -> str | Path:
    """The file that `pretrained` names for the network `name`.

    True: the official one; a name of the zoo: that one's; an address, or a file of the Hugging Face
    hub (`hf://owner/name`, `timm://architecture.tag`): fetched; else a path, as it is.
    """
    if pretrained is True:
        return resolve_pretrained(name, use_ssld)
    given = str(pretrained)
    if given.startswith(("http://", "https://")):
        return fetch_weights(given)
    if is_hub(given):
        return hub_file(parse(given))
    if given in ZOO and not Path(given).exists() and not Path(f"{given}.pdparams").exists():
        return resolve_pretrained(given, use_ssld)
    return given


def fetch_weights(address: str) -> Path:
    """The weights at an http(s) address, kept in `weights_folder()`; raises `UserError`.

    The address may end in `#sha256=CHECKSUM`, which the file then has to have.
    """
    address, _, checksum = address.partition("#sha256=")
    path = weights_folder() / address.rsplit("/", 1)[1]
    if path.suffix not in (".pdparams", SUFFIX):
        raise UserError(f"{address}: expected the address of a .pdparams or {SUFFIX} file")
    if path.is_file():
        if checksum and (found := sha256_of(path)) != checksum.lower():
            raise UserError(f"{path}: its SHA-256 is {found}, not {checksum}; remove the file")
        logger.info("%s: already in %s", address, path.parent)
        return path
    try:
        download(address, path, sha256=checksum or None)
    except Failed as reason:
        raise UserError(
            f"{address} could not be downloaded ({reason}). Download it elsewhere and give the "
            f"file's path, or put it into {path.parent}"
        ) from None
    return path


def list_pretrained(pattern: str = "*") -> list[str]:
    """What `pretrained` may say of the networks whose names fit a shell pattern.

    The official weights under the names of the zoo, with `_ssld` the distilled ones, and those of
    timm as `timm://architecture.tag`. Whether a server can be reached is not asked.
    """
    found = []
    for name, entry in ZOO.items():
        if not fnmatch.fnmatchcase(name, pattern) or not entry.classifies:
            continue
        if entry.folder is not None and not entry.only_ssld:
            found.append(name)
        if entry.ssld:
            found.append(f"{name}_ssld")
    return found + [
        f"{PREFIX}{architecture}.{tag}"
        for architecture, network in TIMM.items()
        if fnmatch.fnmatchcase(network.ours, pattern)
        for tag in network.tags
    ]
