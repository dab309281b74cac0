"""Shards: what is written, what is read, in which order, from where."""

from __future__ import annotations

import http.server
import multiprocessing
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_lite.config.check import build_list
from ppcls_lite.data.prepare.shards import prepare_shards
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.data.scan import scan
from ppcls_lite.data.shard_store import ShardStore
from ppcls_lite.data.shards import INDEX, ShardDataset, ShardSampler, index_of
from ppcls_lite.errors import ImageError, UserError

DECODE = {"DecodeImage": {}}
OPS = build_list(
    [DECODE, {"ResizeImage": {"size": 8}}, {"NormalizeImage": {"order": ""}}], "transform"
)
REMOTE = pytest.mark.skipif(find_spec("fsspec") is None, reason="needs fsspec")


def spread(order: np.ndarray, shard: np.ndarray, batch: int) -> float:
    """How well an order mixes: distinct shards in a batch, mean over the batches."""
    starts = range(0, len(order) - batch + 1, batch)
    return float(np.mean([len(np.unique(shard[order[s : s + batch]])) for s in starts]))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures whose level is their number times 8, in a list with the classes 0, 1, 2."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(30):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((12, 20, 3), 8 * number, np.uint8))
    lines = [f"{number}.png {number % 3}\n" for number in range(30)]
    (folder / "list.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("made") / "shards"
    prepare_shards(str(images / "list.txt"), str(images), str(target), 8, 0, 90, 0)
    return target


def level(sample: dict) -> int:
    """The number of a picture."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    return round(float((sample["image"][:, 0, 0] * std + mean)[0]) * 255 / 8)


def test_every_image_comes_back_with_its_class(images: Path, shards: Path) -> None:
    assert sorted(path.name for path in shards.iterdir()) == [
        *(f"shard-{number:06d}.tar" for number in range(4)),
        INDEX,
    ]
    dataset = ShardDataset(str(shards), OPS)
    assert len(dataset) == 30 and dataset.class_num == 3 and not dataset.problems
    found = [(level(dataset[i]), dataset[i]["label"]) for i in range(30)]
    assert sorted(found) == [(number, number % 3) for number in range(30)]
    assert found != sorted(found)  # shuffled
    assert dataset.paths[0] == "shard-000000.tar/000000000.png"
    with tarfile.open(shards / "shard-000000.tar") as archive:  # byte by byte
        number = found[0][0]
        own = archive.extractfile("000000000.png").read()
        assert own == (images / f"{number}.png").read_bytes()


def test_the_same_list_gives_the_same_files(images: Path, shards: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    prepare_shards(str(images / "list.txt"), str(images), str(again), 8, 0, 90, 0)
    for path in shards.glob("*.tar"):
        assert path.read_bytes() == (again / path.name).read_bytes()
    with pytest.raises(UserError, match="is not empty"):
        prepare_shards(str(images / "list.txt"), str(images), str(again), 8, 0, 90, 0)


def test_shards_of_others_are_indexed_by_their_headers(shards: Path, tmp_path: Path) -> None:
    for path in shards.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ours, theirs = ShardDataset(str(shards), OPS), ShardDataset(str(tmp_path), OPS)
    assert list(ours.paths) == list(theirs.paths)
    assert (ours.index.offset == theirs.index.offset).all()


def test_large_images_are_shrunk(images: Path, tmp_path: Path) -> None:
    prepare_shards(str(images / "list.txt"), str(images), str(tmp_path / "s"), 100, 6, 90, 0)
    dataset = ShardDataset(str(tmp_path / "s"), OPS[:1])
    assert dataset[0]["image"].shape == (3, 6, 10) and dataset.paths[0].endswith(".jpg")


def test_an_epoch_takes_few_shards_at_a_time(shards: Path) -> None:
    dataset = ShardDataset(str(shards), OPS)
    sampler = ShardSampler(batch_size=4, shuffle=True, open_shards=2)
    sampler.see(dataset)
    sampler.bind(len(dataset))
    orders = [[key.index for batch in sampler.batches(e) for key in batch] for e in (1, 2)]
    assert sorted(orders[0]) == list(range(30)) and orders[0] != orders[1]
    for order in orders:
        seen = dataset.index.shard[order]
        changes = [set(seen[start : start + 14]) for start in (0, 16)]
        assert all(len(group) <= 3 for group in changes)
    later = [key.index for batch in sampler.batches(1, start_step=3) for key in batch]
    assert later == orders[0][12:]  # a resume
    ranks = [ShardSampler(batch_size=2, shuffle=True, open_shards=2) for _ in range(2)]
    steps = []
    for rank, one in enumerate(ranks):
        one.see(dataset)
        one.bind(len(dataset), 2, rank)
        steps.append([[key.index for key in batch] for batch in one.batches(1)])
    assert [a + b for a, b in zip(*steps)][:7] == [orders[0][i : i + 4] for i in range(0, 28, 4)]
    assert spread(np.array(orders[0]), dataset.index.shard, 4) > 1.3
    with pytest.raises(UserError, match="needs a ShardDataset"):
        sampler.see(object())


def test_other_processes_read_the_same(shards: Path) -> None:
    dataset = ShardDataset(str(shards), OPS)
    first = level(dataset[3])  # opens a file here
    assert level(pickle.loads(pickle.dumps(dataset))[3]) == first
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(partial(_level_of, dataset), [3] * 4) == [first] * 4


def _level_of(dataset: ShardDataset, index: int) -> int:
    return level(dataset[index])


def test_a_scan_names_what_is_missing(shards: Path, tmp_path: Path) -> None:
    assert scan({"Train": ShardDataset(str(shards), OPS)}).errors == []
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "shard-000002.tar").unlink()
    errors = scan({"Train": ShardDataset(str(tmp_path), OPS)}).errors
    assert len(errors) == 1 and "1 of 4 files do not exist" in errors[0]
    assert "shard-000002.tar" in errors[0]
    whole = (tmp_path / "shard-000001.tar").read_bytes()
    (tmp_path / "shard-000001.tar").write_bytes(whole[:1000])
    dataset = ShardDataset(str(tmp_path), OPS)
    last = int(np.flatnonzero(dataset.index.shard == 1)[-1])
    with pytest.raises(ImageError, match=r"shard-000001.tar ends before it"):
        dataset[dataset.locate(SampleKey(last))]


def test_mistakes_are_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder with tar files"):
        ShardDataset(str(tmp_path / "none"), OPS)
    with pytest.raises(UserError, match="expected tar files, found none"):
        ShardDataset(str(tmp_path), OPS)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("7.png"))
    with pytest.raises(UserError, match=r"a.tar: 7.png: there is no 7.cls"):
        ShardDataset(str(tmp_path), OPS)
    (tmp_path / "a.tar").write_bytes(b"no tar at all")
    with pytest.raises(UserError, match="is no whole tar file"):
        index_of([tmp_path / "a.tar"])
    (tmp_path / INDEX).write_bytes(b"no index")
    with pytest.raises(UserError, match="is no index of shards"):
        ShardDataset(str(tmp_path), OPS)
    assert "largest class id is 2" in ShardDataset(str(shards), OPS, class_num=2).problems[0]


@pytest.fixture
def address(shards: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder over HTTP on this machine, and what was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            if self.command == "GET":
                asked.append(self.path.rpartition("/")[2])

    handler = partial(Handler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@REMOTE
def test_shards_come_from_an_address_once(
    address: tuple[str, list[str]], shards: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    place, asked = address
    remote = ShardDataset(place, OPS, cache_dir=str(tmp_path))
    local = ShardDataset(str(shards), OPS)
    assert [level(remote[i]) for i in range(30)] == [level(local[i]) for i in range(30)]
    assert scan({"Train": remote}).errors == []
    again = ShardDataset(place, OPS, cache_dir=str(tmp_path))
    assert level(again[0]) == level(local[0])
    assert asked.count("") == 1  # a listing, as long as a shard is not here
    assert sorted(set(asked) - {""}) == [*(f"shard-{n:06d}.tar" for n in range(4)), INDEX]
    kept = list(tmp_path.rglob("*.tar"))
    assert len(kept) == 4
    with pytest.raises(UserError, match="is not there, or nobody answers; upload"):
        ShardStore(place, str(tmp_path), None).read_small("other.npz")
    with pytest.raises(UserError, match="is not there, or nobody answers"):
        ShardDataset("http://127.0.0.1:9/x", OPS, cache_dir=str(tmp_path))


@REMOTE
def test_the_cache_keeps_to_its_limit(shards: Path, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in shards.glob("*.tar"))
    source = f"file://{shards}"
    remote = ShardDataset(source, OPS, str(tmp_path), cache_gb=2.5 * size / 1e9)
    local = ShardDataset(str(shards), OPS)
    for turn in range(2):
        assert [level(remote[i]) for i in range(30)] == [level(local[i]) for i in range(30)], turn
        remote._store._close()
    assert len(list(tmp_path.rglob("*.tar"))) <= 2
