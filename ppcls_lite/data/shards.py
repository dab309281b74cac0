"""Images in a few large tar files, as WebDataset has them, instead of millions of small ones.

A sample is two members of one name, `000123.jpg` and `000123.cls` (its class id as text). Which
bytes of which file a sample is, an index says: `shards.npz` beside the files, which `ppcls-lite
prepare shards` writes, or one made by reading the tar headers. So any sample can be read, a run
sees the same images whatever its workers and ranks, and resumes exactly; that shards are read one
after another is the sampler's matter. Shards at an address are fetched whole when they are needed.
Read next: shard_store.py (where the files are), samplers.py.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PositiveFloat, PositiveInt, Seed, TransformSpec
from ppcls_lite.data.cache import DecodedCache
from ppcls_lite.data.datasets import LabeledDataset
from ppcls_lite.data.files import IMAGE_SUFFIXES
from ppcls_lite.data.image_list import SHOWN, some
from ppcls_lite.data.samplers import BatchSampler, DistributedBatchSampler
from ppcls_lite.data.shard_store import ShardStore
from ppcls_lite.errors import ImageError, UserError

INDEX = "shards.npz"
_LABEL = ".cls"


@dataclass
class ShardIndex:
    """Where the samples are: `shard`, a number of `files`, `offset` and `size` in bytes, `label`,
    each (n,); `names` (n,) are those of the members, as bytes."""

    files: list[str]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    names: np.ndarray

    def bytes(self) -> bytes:
        """As the file `shards.npz`."""
        content = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez(content, files=np.array(self.files), **arrays)
        return content.getvalue()

    @classmethod
    def read(cls, content: bytes, name: str) -> ShardIndex:
        """Of the content of a `shards.npz`, which is called `name`; UserError if it is none."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                arrays = {key: found[key] for key in _ARRAYS}
                index = cls([str(file) for file in found["files"]], **arrays)
            lengths = {len(array) for array in arrays.values()}
            inside = len(index.shard) == 0 or 0 <= index.shard.min() <= index.shard.max()
            if len(lengths) != 1 or not inside or index.shard.max(initial=0) >= len(index.files):
                raise ValueError("its arrays do not fit together")
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise UserError(
                f"{name}: is no index of shards ({error}); remove it to have it made again"
            ) from None
        return index


_ARRAYS = ("shard", "offset", "size", "label", "names")


def index_of(paths: Sequence[Path]) -> ShardIndex:
    """The index of tar files, by their headers alone.

    Raises UserError that names the file and member of a sample without a class.
    """
    rows: list[tuple[int, int, int, int, bytes]] = []
    problems: list[str] = []
    for number, path in enumerate(paths):
        try:
            for name, member, label in _samples(path):
                if label is None:
                    problems.append(f"{path}: {name}: there is no {Path(name).stem}{_LABEL}")
                else:
                    rows.append((number, member.offset_data, member.size, label, name.encode()))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            problems.append(f"{path}: is no whole tar file of images and classes ({error})")
    if problems:
        more = f"\n  and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise UserError("\n  ".join(["mistakes in the shards:", *problems[:SHOWN]]) + more)
    columns = list(zip(*rows)) or [()] * 5
    kinds = (np.int32, np.int64, np.int64, np.int64, bytes)
    arrays = (np.array(column, kind) for column, kind in zip(columns, kinds))
    return ShardIndex([path.name for path in paths], *arrays)


def _samples(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, int | None]]:
    """Name, member and class of each image of a tar file."""
    labels: dict[str, int] = {}
    images: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            stem, dot, _ = member.name.rpartition(".")
            if not member.isfile() or not dot:
                continue
            if member.name.endswith(_LABEL):
                content = archive.extractfile(member)
                labels[stem] = int(content.read(32)) if content else -1
            elif member.name.lower().endswith(IMAGE_SUFFIXES):
                images[stem] = member
    for stem, member in images.items():
        yield member.name, member, labels.get(stem)


class _Names(Sequence[str]):
    """What the samples are called: the shard and the member in it."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index.shard)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        file = self._index.files[self._index.shard[place]]
        return f"{file}/{self._index.names[place].decode()}"


@register("dataset")
class ShardDataset(LabeledDataset):
    """One class per image, from tar files.

    Args:
        shards: a folder with tar files, or the address of one (`https://...`, `s3://...`) that
            holds the `shards.npz` of `ppcls-lite prepare shards` as well (extra: .[shards]).
        cache_dir: where shards of an address are kept.
        cache_gb: how much of them is kept at most; null: all.
        class_num: number of classes; null: one more than the largest id.
        seed: of the augmentations.
    """

    def __init__(
        self,
        shards: str,
        transform_ops: list[TransformSpec],
        cache_dir: str = "./cache/shards",
        cache_gb: PositiveFloat | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        self._store = ShardStore(shards, cache_dir, cache_gb)
        content = self._store.read_small(INDEX)
        if content is None:
            self.index = index_of(self._store.tar_files())
        else:
            self.index = ShardIndex.read(content, f"{shards}/{INDEX}")
        labels, problems = self.index.label, []
        absent = self._store.absent(self.index.files, INDEX)
        if absent:
            problems.append(
                f"{shards}: {len(absent):,} of {len(self.index.files):,} shards are not there: "
                f"{some(absent)}; upload the whole folder that ppcls-lite prepare shards writes"
            )
        largest = int(labels.max(initial=-1))
        if not len(labels):
            problems.append(f"{shards}: there is no image in its tar files")
        elif class_num is not None and largest >= class_num:
            problems.append(
                f"{shards}: the largest class id is {largest}, but Arch.class_num is {class_num}"
            )
        super().__init__(
            *(shards, _Names(self.index), labels, transform_ops),
            *(class_num or largest + 1, seed, problems),
        )

    def files(self) -> list[str]:
        return self._store.local_files(self.index.files)

    def digests(self) -> dict[str, str]:
        sizes = np.ascontiguousarray(self.index.size)
        return super().digests() | {"bytes of the images": str(int(sizes.sum()))}

    def _image(self, index: int) -> bytes:
        at = self.index
        name, size = at.files[at.shard[index]], int(at.size[index])
        try:
            data = self._store.read(name, int(at.offset[index]), size)
        except OSError as error:
            raise ImageError(f"{self.paths[index]}: cannot be read: {error}") from error
        if len(data) != size:
            raise ImageError(f"{self.paths[index]}: {name} ends before it; fetch the shard again")
        return data

    def keep_decoded(self, cache: DecodedCache) -> None:
        raise UserError("cache: keeps decoded files; images in shards are read fast enough as is")


@register("sampler")
@dataclass(eq=False)
class ShardSampler(DistributedBatchSampler):
    """Batches that read few shards at a time, for data that does not fit into memory.

    An epoch takes the shards in an order of its own, `open_shards` of them at once, whose images
    are mixed with each other. `prepare shards` has shuffled the images over the shards, so that
    such a group is as good as any other part of the data.
    """

    open_shards: PositiveInt = 8

    def see(self, dataset: Any) -> None:
        if not isinstance(getattr(dataset, "index", None), ShardIndex):
            raise UserError("ShardSampler needs a ShardDataset; other data have no shards")
        order = np.argsort(dataset.index.shard, kind="stable")
        count = len(dataset.index.files)
        self._members: list[np.ndarray] = np.split(
            order, np.searchsorted(dataset.index.shard[order], np.arange(1, count))
        )

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return BatchSampler._order(self, epoch)
        rng = np.random.default_rng((self.seed, epoch, 0, 0, 1))
        shards = rng.permutation(len(self._members))
        groups = range(0, len(shards), self.open_shards)
        opened = (shards[g : g + self.open_shards] for g in groups)
        parts = (np.concatenate([self._members[s] for s in group]) for group in opened)
        return np.concatenate([rng.permutation(part) for part in parts])
