"""Two ranks, one of which is late, stopped, different or killed: does the run do what it says?

    python -m experiments.slow_ranks            # a minute each, longer than gloo's own 30 seconds
    python -m experiments.slow_ranks --seconds 5

Each case prints how both ranks ended, and fails unless that is what docs/distributed.md says. The
short form is in tests/engine/distributed/test_meeting.py.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ppcls_lite.engine import ranks
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system.processes import environment, free_ports

PROGRAM = """
import os, sys, time
what, seconds, ready = sys.argv[1], int(sys.argv[2]), sys.argv[3]
late = os.environ["PADDLE_TRAINER_ID"] == "1"
if late and what == "late at the start":
    time.sleep(seconds)
import paddle
paddle.set_device("cpu")
from ppcls_lite.engine.distributed import connect
from ppcls_lite.errors import UserError
try:
    world = connect()
    for step in range(6):
        if late and step == 3:
            open(ready, "w").close()
            if what in ("late", "too late"):
                time.sleep(seconds)
            if what in ("stopped", "stopped too long"):
                os.kill(os.getpid(), 19)
            if what == "killed":
                os.kill(os.getpid(), 9)
        world.require_same({"recipe": late and what == "another recipe"})
        assert float(world.total(paddle.ones([1]))[0]) == 2
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""
# case -> (patience, as a multiple of the delay; the status of rank 0; what it says)
CASES = {
    "late at the start": (10, 0, ""),
    "late": (10, 0, ""),
    "stopped": (10, 0, ""),
    "too late": (0.3, 75, "alive but too slow"),
    "stopped too long": (0.3, 75, "no sign of life"),
    "another recipe": (10, 1, "recipe: False on rank 0, True on rank 1"),
    "killed": (10, 75, "has ended without a message"),
}


def run(case: str, seconds: int, folder: Path) -> bool:
    """Run one case; whether rank 0 ended as it should."""
    patience, status, words = CASES[case]
    ports, ready = free_ports(3), folder / case
    ends = [f"127.0.0.1:{port}" for port in ports[1:]]
    team, began = [], time.monotonic()
    for rank in range(2):
        place = ranks.place(rank, ports[0], ends)
        place["PADDLE_PG_TIMEOUT"] = str(max(1000, int(1000 * seconds * patience)))
        command = [sys.executable, "-c", PROGRAM, case, str(seconds), str(ready)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        team.append(subprocess.Popen(command, env=environment() | place, text=True, **pipes))
    if case.startswith("stopped"):
        while not ready.exists():
            time.sleep(0.1)
        threading.Timer(seconds, team[1].send_signal, [signal.SIGCONT]).start()
    printed = [process.communicate()[0] for process in team]
    print(f"{case}: {[p.returncode for p in team]} after {time.monotonic() - began:.0f} s")
    print("".join(f"  rank {rank}: {text}" for rank, text in enumerate(printed) if text), end="")
    return team[0].returncode == status and words in printed[0]


def main(argv: list[str] | None = None) -> int:
    """Run all cases; 0 if each ended as it should."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=positive, default=60, help="of the delay (60)")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        failed = [case for case in CASES if not run(case, args.seconds, Path(folder))]
    print(f"not as documented: {', '.join(failed)}" if failed else "all as documented")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
