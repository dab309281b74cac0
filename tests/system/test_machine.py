"""Cores are counted by affinity and by the quota of the control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_lite.system import cores, machine

GROUPS = "sys/fs/cgroup"


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({f"{GROUPS}/cpu.max": "max 100000\n"}, None),
        ({f"{GROUPS}/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "50000 100000\n"}, 0.5),
        (  # a service in a slice with less: the outer limit counts
            {
                "proc/self/cgroup": "0::/my.slice/my.service\n",
                f"{GROUPS}/my.slice/cpu.max": "200000 100000\n",
                f"{GROUPS}/my.slice/my.service/cpu.max": "300000 100000\n",
            },
            2.0,
        ),
        (  # version 1; in a container the path is the host's
            {
                "proc/self/cgroup": "3:memory:/docker/0f\n2:cpu,cpuacct:/docker/0f\n",
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                f"{GROUPS}/memory/cpu.cfs_quota_us": "1\n",
                f"{GROUPS}/memory/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n0::/\n",
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_quota_of_the_control_groups(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert machine.cpu_quota(system(tmp_path, files)) == quota


def test_usable_cores_are_the_affinity_and_no_more_than_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_processors", lambda: list(range(8)))
    assert machine.usable_cores(tmp_path) == 8
    for text, count in (("150000 100000", 2), ("10000 100000", 1), ("6400000 100000", 8)):
        assert machine.usable_cores(system(tmp_path, {f"{GROUPS}/cpu.max": text})) == count


def test_ranks_with_a_quota_take_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[list[int]] = []
    monkeypatch.setattr(cores, "usable_processors", lambda: list(range(16)))
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda _, wanted: pinned.append(wanted))
    environment = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_DISTRI_BACKEND": "gloo"}
    environment |= {"PADDLE_TRAINER_ID": "1", "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:2"}
    environment |= {"PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:1,127.0.0.1:2"}
    environment |= {"PADDLE_LOCAL_SIZE": "2", "PADDLE_LOCAL_RANK": "1"}
    assert cores.claim(environment) == list(range(8, 16)) == pinned[0]
    assert environment["PPCLS_LITE_THREADS"] == "2"


def test_the_processor_as_the_system_gives_it(tmp_path: Path) -> None:
    text = (
        "processor\t: 0\nmodel name\t: Fast: 2 GHz\nflags\t\t: avx2 avx512_bf16\n\n"
        "processor\t: 1\nmodel name\t: Slow\nflags\t\t: avx2\n"
    )
    root = system(tmp_path, {"proc/cpuinfo": text})
    assert machine.cpu_model(root) == "Fast: 2 GHz"
    assert machine.cpu_flags(root) == {"avx2", "avx512_bf16"}
    assert machine.cpu_identity(root).splitlines() == [
        "flags\t\t: avx2",
        "flags\t\t: avx2 avx512_bf16",
        "model name\t: Fast: 2 GHz",
        "model name\t: Slow",
    ]
    empty = tmp_path / "empty"
    assert machine.cpu_flags(empty) == set() and machine.cpu_model(empty)


def test_tile_registers_are_asked_for_where_the_processor_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class Library:
        def __init__(self, _: None) -> None: ...

        def syscall(self, *numbers: int) -> int:
            asked.append(numbers)
            return answer

    monkeypatch.setattr(machine.ctypes, "CDLL", Library)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"avx512_bf16"})
    assert not machine.grants_tiles() and not asked
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"amx_tile", "amx_bf16"})
    answer = 0
    assert machine.grants_tiles() and asked == [(158, 0x1023, 18)]
    answer = -1  # an old kernel, a sandbox
    assert not machine.grants_tiles()


def test_versions_of_what_is_installed() -> None:
    found = machine.installed_versions(["pytest", "no-package-of-this-name"])
    assert found == {"pytest": pytest.__version__}


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="there is no load on this system")
def test_a_busy_machine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (5.04, 0.0, 0.0))
    assert machine.in_the_way(8) is None
    assert "load 5.0 on 2 cores" in str(machine.in_the_way(2))
