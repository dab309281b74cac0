"""What predict and serve take by default follows the CPU quota of the container."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from ppcls_lite.inference.cli.predict import MANY, _divide_cores
from ppcls_lite.serve.cli import _parser
from ppcls_lite.system import machine

GROUPS = "sys/fs/cgroup"
V2 = {"proc/self/cgroup": "0::/a\n", f"{GROUPS}/a/cpu.max": "{quota}00000 100000\n"}
V1 = {
    "proc/self/cgroup": "4:cpu,cpuacct:/docker/f\n",
    f"{GROUPS}/cpu,cpuacct/cpu.cfs_quota_us": "{quota}00000\n",
    f"{GROUPS}/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(("quota", "alone", "threads", "decode"), [(1, 1, 1, 1), (6, 4, 3, 3)])
def test_threads_follow_the_quota(
    files: dict[str, str],
    quota: int,
    alone: int,
    threads: int,
    decode: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.format(quota=quota))
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: read(tmp_path / path.relative_to("/")))
    monkeypatch.setattr(machine, "usable_processors", lambda: list(range(64)))
    assert machine.default_threads() == alone
    assert _parser().parse_args(["--model", "x"]).decode_threads == quota
    many = Namespace(decode_threads=None, threads=None)
    _divide_cores(many, MANY)
    assert (many.threads, many.decode_threads) == (threads, decode)
