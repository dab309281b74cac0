"""Children run this package, not another of its name, and end with their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppcls_lite import __version__
from ppcls_lite.system import processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """A folder with another package of our name."""
    (tmp_path / "ppcls_lite").mkdir()
    (tmp_path / "ppcls_lite" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    return tmp_path


def test_a_child_runs_this_package_from_any_folder(impostor: Path) -> None:
    base = {**os.environ, "PYTHONPATH": str(impostor)}
    command = processes.toolkit_command(["--version"])
    said = subprocess.run(
        command, cwd=impostor, env=base, check=True, capture_output=True, text=True
    ).stdout
    assert said == f"ppcls-lite {__version__}\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs PYTHONSAFEPATH")
def test_the_environment_puts_this_package_first(impostor: Path) -> None:
    own = processes.environment({**os.environ, "PYTHONPATH": str(impostor)}, EXTRA="1")
    code = "import os, ppcls_lite; print(ppcls_lite.__file__, os.environ['EXTRA'])"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=impostor,
        env=own,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said.split() == [str(processes.ROOT / "ppcls_lite" / "__init__.py"), "1"]


CHILD = (
    "import time; from ppcls_lite.system import processes as p\n"
    "{0}; print(1, flush=True); time.sleep(99)"
)
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()"
)


@linux
@pytest.mark.parametrize(
    "way",
    [
        "p.end_with_parent()",
        "import os; p.watch_parent(os.getppid())",
        "import os; p._begin(9, os.getppid(), to_ctrl_c=False); os.kill(os.getpid(), 2)",
    ],
)
def test_a_child_ends_with_its_killed_parent(way: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(way)],
        env=processes.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    assert_ends(child)


@linux
def test_the_training_of_a_candidate_ends_with_its_killed_search(tmp_path: Path) -> None:
    """It would otherwise train on, beside what the search that is started again does."""
    code = (
        "import sys\n"
        "from ppcls_lite.search import judge\n"
        "judge.toolkit_command = lambda _: [sys.executable, '-c', sys.argv[1]]\n"
        "judge.ProxyJudge({}, None, True, None, 1)._run([], judge.Path(sys.argv[2]))"
    )
    log = tmp_path / "log.txt"
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, child, str(log)], env=processes.environment()
    )
    end = time.monotonic() + 60
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.05)
    number = int(log.read_text())
    assert alive(number)
    parent.kill()
    parent.wait()
    assert_ends(number)


def assert_ends(number: int) -> None:
    end = time.monotonic() + 30
    while alive(number) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(number)


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@linux
def test_a_parent_that_has_ended_before_is_noticed() -> None:
    code = "import signal; from ppcls_lite.system import processes as p; p.end_with_parent(15, 1)"
    done = subprocess.run([sys.executable, "-c", code], env=processes.environment())
    assert done.returncode == -signal.SIGTERM


def test_free_ports_are_different_and_free() -> None:
    ports = processes.free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals here")
def test_ctrl_c_is_held_back_until_a_child_takes_it() -> None:
    code = (
        "import os, signal; from ppcls_lite.system import processes as p\n"
        "os.kill(os.getpid(), signal.SIGINT); print('began', flush=True)\n"
        "p.take_ctrl_c(); print('never')"
    )
    with processes.held_ctrl_c():
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            env=processes.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    said, _ = child.communicate()
    assert (said, child.returncode) == ("began\n", -signal.SIGINT)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # here as before
