"""Machines of one machine: Linux network namespaces with an address, a cable and a host name each.

A switch (a bridge in a namespace of its own) joins them. What runs in one can be killed or frozen
as a whole, its cable pulled, its line made narrow. Needs root and iproute2.
Read next: failures.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

SWITCH = "10.77.0.254"  # its own address, where a service for all machines may listen
_NAMED = 'hostname "$0" && exec "$@"'


def unmet() -> str | None:
    """Why there can be no such machines here; None if there can."""
    missing = [tool for tool in ("ip", "tc", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (iproute2, util-linux)"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, to make network namespaces"
    name = f"probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this kernel or container allows no network namespaces"
    _ip("netns", "del", name)
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machine:
    """One machine: `name` is its host name, `address` that of its only interface, eth0."""

    def __init__(self, name: str, address: str, space: str) -> None:
        self.name, self.address, self._space = name, address, space

    def start(self, command: Sequence[str], **pipes: Any) -> subprocess.Popen[str]:
        """Run `command` there; `pipes` are arguments of Popen."""
        inside = ["ip", "netns", "exec", self._space, "unshare", "--uts"]
        inside += ["bash", "-c", _NAMED, self.name, *command]
        return subprocess.Popen(inside, text=True, **pipes)

    @property
    def processes(self) -> list[int]:
        """The ids of all that run there."""
        asked = ["ip", "netns", "pids", self._space]
        return [int(n) for n in subprocess.run(asked, capture_output=True).stdout.split()]

    def signal(self, number: int) -> None:
        """Send it to every process there."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(process, number)

    def kill(self) -> None:
        """End everything there at once."""
        while self.processes:
            self.signal(signal.SIGKILL)

    def cable(self, plugged: bool) -> None:
        """Plug the network cable in, or pull it: no packet passes and nobody is told."""
        _ip("-n", self._space, "link", "set", "eth0", "up" if plugged else "down")

    def narrow(self, rate: str) -> None:
        """Let what it sends pass at `rate` only, in the words of tc(8): 10mbit."""
        shape = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate]
        shape += ["burst", "32kbit", "latency", "400ms"]
        subprocess.run(["tc", "-n", self._space, *shape], check=True, capture_output=True)


class Network:
    """`count` machines at a switch, as a context; they go, with all that runs there, at its end."""

    def __init__(self, count: int) -> None:
        self._prefix = f"ppcls-{os.getpid()}"
        self._switch = Machine("switch", SWITCH, f"{self._prefix}-switch")
        self.machines = [
            Machine(f"node-{i}", f"10.77.0.{i}", f"{self._prefix}-{i}") for i in range(1, count + 1)
        ]

    def __enter__(self) -> Network:
        switch = self._switch._space
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "addr", "add", f"{SWITCH}/24", "dev", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for machine in self.machines:
            space, port = machine._space, f"to-{machine.name}"
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            ends = ("netns", switch, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "add", port, *ends)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            machine.cable(plugged=True)
        return self

    def __exit__(self, *error: object) -> None:
        for machine in (*self.machines, self._switch):
            machine.kill()
            subprocess.run(["ip", "netns", "del", machine._space], capture_output=True)

    @property
    def switch(self) -> Machine:
        """Where a service for all machines may run, at `SWITCH`."""
        return self._switch
