"""Shards in a bucket: a real S3 server of its own process, with keys that it checks."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ppcls_lite
from ppcls_lite.config.check import build_list
from ppcls_lite.data import shard_store
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.prepare.shards import prepare_shards
from ppcls_lite.data.scan import scan
from ppcls_lite.data.shards import INDEX, ShardDataset, ShardSampler
from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.load import read_state

pytest.importorskip("s3fs", reason='needs s3fs: pip install ".[s3]"')
pytest.importorskip("moto.server", reason='needs an S3 server: pip install "moto[server]"')
boto3 = pytest.importorskip("boto3")

OPS = build_list([{"DecodeImage": {}}, {"NormalizeImage": {"order": ""}}], "transform")
EVERYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


class Bucket(NamedTuple):
    client: Any
    folder: Path  # what it holds
    keys: tuple[str, str]  # id and secret


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def bucket(server: str, shades: Path, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """`s3://images/shades` with four shards; from here on the server looks at keys."""
    folder = tmp_path_factory.mktemp("made") / "shards"
    prepare_shards(str(shades / "train.txt"), str(shades), str(folder), 4, 0, 90, 0)
    plain = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    session = boto3.Session(region_name="us-east-1", **plain)
    iam = session.client("iam", endpoint_url=server)
    iam.create_user(UserName="reader")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [EVERYTHING]})
    iam.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    keys = key["AccessKeyId"], key["SecretAccessKey"]
    head = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(f"{server}/moto-api/reset-auth", b"0", head, method="POST")
    urllib.request.urlopen(asked).read()
    client = boto3.client(
        *("s3", "us-east-1"),
        endpoint_url=server,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
    )
    client.create_bucket(Bucket="images")
    for path in folder.iterdir():
        client.upload_file(str(path), "images", f"shades/{path.name}")
    return Bucket(client, folder, keys)


@pytest.fixture(autouse=True)
def account(bucket: Bucket, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's environment, as the documentation has it; no old connection is used again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.keys[1])
    monkeypatch.setattr(shard_store, "PAUSES", (0.0,))


def batches(shards: str, cache: Path, workers: int = 0) -> list[np.ndarray]:
    """The images of two epochs."""
    dataset = ShardDataset(shards, OPS, str(cache))
    sampler = ShardSampler(batch_size=3, shuffle=True, open_shards=2)
    sampler.see(dataset)
    sampler.bind(len(dataset))
    loader = Loader(dataset, sampler, num_workers=workers)
    found = [batch["image"].numpy() for epoch in (1, 2) for batch in loader.epoch(epoch)]
    loader.close()
    return found


def test_a_bucket_gives_what_the_folder_gives(bucket: Bucket, tmp_path: Path) -> None:
    local = batches(str(bucket.folder), tmp_path)
    for workers in (0, 2):
        remote = batches("s3://images/shades", tmp_path / str(workers), workers)
        assert len(remote) == 12
        assert all(np.array_equal(a, b) for a, b in zip(local, remote)), workers


class Stop(ppcls_lite.Callback):
    def on_step(self, run: Any, values: Mapping[str, float]) -> None:
        if run.updates == 3:
            raise UserError("the power is gone")


def test_a_training_from_a_bucket_is_resumed_in_the_middle_of_an_epoch(
    bucket: Bucket, shades_recipe: dict[str, Any], tmp_path: Path
) -> None:
    train = shades_recipe["DataLoader"]["Train"]
    ops = train["dataset"]["transform_ops"]

    def run(shards: str, output: str, workers: int, *callbacks: ppcls_lite.Callback) -> Any:
        cache = {"cache_dir": str(tmp_path / output / "cache")}
        train["dataset"] = {"name": "ShardDataset", "shards": shards, "transform_ops": ops} | cache
        train["sampler"] = {"name": "ShardSampler", "batch_size": 3, "shuffle": True}
        train["loader"] = {"num_workers": workers}
        shades_recipe["Global"] |= {"output_dir": str(tmp_path / output), "print_batch_step": 1}
        return ppcls_lite.train(shades_recipe, callbacks=callbacks)

    whole = run(str(bucket.folder), "whole", 0)
    with pytest.raises(UserError, match="the power is gone"):
        run("s3://images/shades", "parts", 1, Stop())
    shutil.rmtree(tmp_path / "parts" / "cache")  # as on another machine
    shades_recipe["Global"]["checkpoints"] = "auto"
    resumed = run("s3://images/shades", "parts", 2)
    states = [read_state(result.run_dir / "latest") for result in (whole, resumed)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_a_missing_shard_is_named_before_a_start(bucket: Bucket, tmp_path: Path) -> None:
    for path in bucket.folder.iterdir():
        if path.name != "shard-000002.tar":
            bucket.client.upload_file(str(path), "images", f"torn/{path.name}")
    dataset = ShardDataset("s3://images/torn", OPS, str(tmp_path))
    (error,) = scan({"Train": dataset}).errors
    assert "1 of 4 shards are not there: shard-000002.tar; upload the whole folder" in error
    with pytest.raises(UserError, match=r"s3://images/torn: 1 of 4 shards are not there"):
        Loader(dataset, ShardSampler(batch_size=4))


def test_a_shard_that_goes_missing_in_a_run_ends_it(bucket: Bucket, tmp_path: Path) -> None:
    """No other images in its place: a run sees the same ones, or says why not."""
    for path in bucket.folder.iterdir():
        bucket.client.upload_file(str(path), "images", f"going/{path.name}")
    dataset = ShardDataset("s3://images/going", OPS, str(tmp_path))
    bucket.client.delete_object(Bucket="images", Key="going/shard-000001.tar")
    sampler = ShardSampler(batch_size=4)
    sampler.see(dataset)
    sampler.bind(len(dataset))
    loader = Loader(dataset, sampler, num_workers=2)
    with pytest.raises(UserError, match=r"s3://images/going/shard-000001.tar: is not there"):
        list(loader.epoch(1))
    loader.close()


@pytest.mark.parametrize(
    ("address", "variables", "message"),
    [
        ("s3://images/nothing", {}, f"s3://images/nothing/{INDEX}: is not there"),
        ("s3://no-such-bucket/x", {}, f"s3://no-such-bucket/x/{INDEX}: is not there"),
        ("s3://images/shades", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "may not be read: .*AWS_SECRET"),
        ("s3://images/shades", {"AWS_ACCESS_KEY_ID": "wrong"}, "may not be read: .*AWS_ACCESS_KEY"),
        ("s4://images/shades", {}, "s4:// is no kind of address"),
    ],
)
def test_mistakes_are_one_clear_error(
    address: str,
    variables: Mapping[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        ShardDataset(address, OPS, str(tmp_path))
    assert "\n" not in str(caught.value)
