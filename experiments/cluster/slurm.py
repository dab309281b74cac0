"""deploy/cluster/slurm.sh on a real Slurm that has two nodes, both on this machine.

    python -m experiments.cluster.slurm

Starts munged, slurmctld and two slurmd in a folder of their own; asks `sbatch --test-only` whether
the script is accepted as it is (the nodes claim GPUs that are files); trains the small run of
chaos.py with one rank a node, tells the job to stop, releases it from the queue and compares its
end with that of two undisturbed processes, bit by bit. Needs root and Debian's slurm-wlm.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments import chaos
from experiments.cluster import failures
from ppcls_lite.errors import UserError
from ppcls_lite.system.processes import ROOT, environment

SCRIPT = "deploy/cluster/slurm.sh"
SECONDS = 600.0  # for a job: far more than it takes
SETTINGS = """
ClusterName=one
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
SlurmctldPort=7817
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SelectType=select/cons_tres
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node-[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=7821-7822 CPUs=32 Gres=gpu:4
PartitionName=all Nodes=ALL Default=YES
"""


def unmet() -> str | None:
    """Why Slurm cannot run here; None if it can."""
    missing = [t for t in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(t) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "needs root"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Two nodes whose files lie in `folder`, for all commands of Slurm in this process."""
    munge = folder / "munge"
    folder.mkdir(parents=True)
    for path in (munge, folder / "state", folder / "node-1", folder / "node-2"):
        path.mkdir()
    (munge / "key").write_bytes(secrets.token_bytes(1024))
    (munge / "key").chmod(0o600)
    text = SETTINGS.format(host=socket.gethostname(), folder=folder)
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n", encoding="utf-8")
    for number in range(4):
        (folder / f"gpu{number}").touch()
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    places = [f"--socket={munge / 'socket'}"]
    places += [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
    daemons = [["munged", "--force", *places]]
    daemons += [["slurmctld"], ["slurmd", "-N", "node-1"], ["slurmd", "-N", "node-2"]]
    try:
        for daemon in daemons:
            subprocess.run(daemon, check=True, stderr=subprocess.DEVNULL)
            time.sleep(1)
        _until(lambda: said("sinfo", "-h", "-N", "-o", "%t").split() == ["idle"] * 2, "two nodes")
        yield
    finally:
        for pid in (*folder.glob("slurmd.*.pid"), *folder.glob("slurmctld.pid"), munge / "pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)


def said(*command: str) -> str:
    """What a command prints. Raises UserError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    if done.returncode:
        raise UserError(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout + done.stderr


def _until(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > end:
            raise UserError(f"no sign of {what} within {SECONDS:g} s")
        time.sleep(0.2)


def state(job: str) -> str:
    """RUNNING, PENDING, COMPLETED and the like."""
    return said("scontrol", "show", "job", job).partition("JobState=")[2].split()[0]


def run(folder: Path, epochs: int) -> list[str]:
    """The job in a cluster that runs; what differs from the undisturbed run."""
    print(said("sbatch", "--test-only", SCRIPT, "configs/PPLCNet_x1_0.yaml").strip())
    recipe = failures.prepare(folder, epochs)
    run_dir, log = folder / "job" / chaos.ARCH, folder / "job.txt"
    command = ["sbatch", "--parsable", "--gpus-per-node=0", "--cpus-per-task=1"]
    command += ["--export=ALL,PADDLE_NPROC_PER_NODE=1", f"--output={log}", SCRIPT, str(recipe)]
    job = said(*command, "-o", f"Global.output_dir={run_dir.parent}").split()[0]
    _until(lambda: chaos.lines_of(run_dir / "metrics.jsonl") >= failures.UPDATES, "training")
    said("scancel", "--batch", "--signal=TERM", job)
    _until(lambda: state(job) == "PENDING", "the job in the queue")
    stopped = "Stopped by SIGTERM" in (run_dir / "train.log").read_text(encoding="utf-8")
    print(f"told to stop: {'saved, and' if stopped else 'NOT SAVED, but'} back in the queue")
    time.sleep(10)  # the script that has put it there has to end first
    said("scontrol", "update", f"jobid={job}", "starttime=now")
    _until(lambda: state(job) not in ("PENDING", "RUNNING", "COMPLETING"), "the end of the job")
    print(f"the job is {state(job)}")
    differences = chaos.compare(folder / "whole" / chaos.ARCH, run_dir)
    return differences if stopped else ["not saved", *differences]


def main() -> int:
    """Run it all; 0 if nothing differs."""
    if reason := unmet():
        raise UserError(f"Slurm on this machine: {reason}")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        cluster(Path(name) / "slurm"),
    ):
        differences = run(Path(name) / "run", epochs=2)
    print(f"differs: {differences}" if differences else "equal to two undisturbed processes")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
