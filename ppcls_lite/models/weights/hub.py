"""Files of the Hugging Face hub: from its cache, or by one request.

`hf://owner/name` is a repository's `model.safetensors`, `hf://owner/name@revision/file` another
one of its files, `timm://architecture.tag` what timm publishes. With huggingface_hub installed (the
extra `hub`) that library is asked, else its cache is read (`HF_HUB_CACHE`, `HF_HOME`) and a missing
file is fetched from `HF_ENDPOINT`, with `HF_TOKEN` if set, unless `HF_HUB_OFFLINE` forbids it.
Layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
Read next: pretrained.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from ppcls_lite.config.timm import PREFIX
from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.download import Failed, download
from ppcls_lite.system.home import home_folder

HF = "hf://"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_FORM = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w./-]+))?")


class HubFile(NamedTuple):
    """A file of a repository on the hub."""

    repository: str  # owner/name
    revision: str = "main"
    file: str = WEIGHTS

    @property
    def address(self) -> str:
        host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{host.rstrip('/')}/{self.repository}/resolve/{self.revision}/{self.file}"


def is_hub(text: str) -> bool:
    """Whether `text` names a file of the hub."""
    return text.startswith((HF, PREFIX))


def parse(text: str) -> HubFile:
    """What `hf://...` or `timm://...` names; UserError for another form."""
    if text.startswith(PREFIX):
        text = f"{HF}timm/{text.removeprefix(PREFIX)}"
    match = _FORM.fullmatch(text.removeprefix(HF))
    if not match:
        raise UserError(
            f"{text}: expected hf://OWNER/NAME, with @REVISION and /FILE if need be, or "
            "timm://ARCHITECTURE.TAG"
        )
    repository, revision, file = match.groups()
    return HubFile(repository, revision or "main", file or WEIGHTS)


def hub_file(wanted: HubFile) -> Path:
    """The file on this machine, fetched if it is not there yet.

    Raises UserError that lists every way to get it here.
    """
    if _has_library():
        return _by_library(wanted)
    found = _cached(wanted)
    if found is not None:
        return found
    kept = _kept(wanted)
    if kept.is_file():
        return kept
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise _unreachable(wanted, "HF_HUB_OFFLINE forbids to ask for it")
    token = os.environ.get("HF_TOKEN")
    try:
        download(wanted.address, kept, {"Authorization": f"Bearer {token}"} if token else {})
    except Failed as reason:
        raise _unreachable(wanted, str(reason)) from None
    return kept


def _has_library() -> bool:
    return importlib.util.find_spec("huggingface_hub") is not None


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it has fetched."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _cached(wanted: HubFile) -> Path | None:
    folder = cache_folder() / f"models--{wanted.repository.replace('/', '--')}"
    reference = folder / "refs" / wanted.revision
    commit = reference.read_text() if reference.is_file() else wanted.revision
    path = folder / "snapshots" / commit / wanted.file
    return path if path.is_file() else None


def _kept(wanted: HubFile) -> Path:
    """Where a file that we fetched ourselves lies."""
    name = wanted.repository.replace("/", "--")
    return home_folder() / "weights" / "hub" / name / wanted.revision / wanted.file


def _by_library(wanted: HubFile) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(wanted.repository, wanted.file, revision=wanted.revision)
    except (OSError, ValueError) as error:  # its errors are of these kinds
        raise _unreachable(wanted, str(error).partition("\n")[0]) from None
    return Path(path)


def _unreachable(wanted: HubFile, reason: str) -> UserError:
    return UserError(
        f"{wanted.repository}: {wanted.file} is neither in {cache_folder()} nor could it be "
        f"fetched ({reason}). Any of these helps: download {wanted.address} elsewhere and put it "
        f"at {_kept(wanted)}; give the path of the file instead; copy a machine's cache and set "
        "HF_HUB_CACHE; set HF_ENDPOINT to a mirror"
    )
